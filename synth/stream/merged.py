"""Several corpora as one, with mixing ratios: nothing is copied."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from synth.corpus import Corpus, Identity
from synth.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


class Merged:
    """A view of several corpora, numbered one after the other: sample n of the second is ``len(first) + n``.

    Args:
        corpora: of one image shape, all or none with label maps.
        ratios: share of each in what a stream gives out, any positive numbers; by their sizes if not given.

    Raises:
        UserError: none, shapes that differ, label maps in some only, ratios that do not fit.
    """

    def __init__(self, corpora: Sequence[Corpus], ratios: Sequence[float] | None = None) -> None:
        if not corpora:
            raise UserError("no corpus was given; expected one or more")
        self.corpora = list(corpora)
        first = self.corpora[0]
        for other in self.corpora[1:]:
            if other.image_shape != first.image_shape:
                raise UserError(
                    f"'{other.path}' holds volumes {other.image_shape}, '{first.path}' {first.image_shape}; "
                    "a mixture needs one shape"
                )
        sizes = [float(len(corpus)) for corpus in self.corpora]
        given = sizes if ratios is None else [float(ratio) for ratio in ratios]
        if len(given) != len(sizes) or not all(np.isfinite(given)) or min(given) < 0 or sum(given) <= 0:
            raise UserError(
                f"mixing ratios {','.join(f'{r:g}' for r in given)} do not fit {len(sizes)} corpora; "
                "expected one number of 0 or more for each"
            )
        self.ratios = tuple(ratio / sum(given) for ratio in given)
        self.offsets = [0, *accumulate(len(corpus) for corpus in self.corpora)]

    @property
    def path(self) -> Path:
        """Of the first corpus, for messages."""
        return self.corpora[0].path

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """[C, D, H, W] of every image."""
        return self.corpora[0].image_shape

    @property
    def has_labels(self) -> bool:
        """Whether every sample carries a label map."""
        return all(corpus.has_labels for corpus in self.corpora)

    @property
    def complete(self) -> bool:
        """Whether every corpus is."""
        return all(corpus.complete for corpus in self.corpora)

    def __len__(self) -> int:
        return self.offsets[-1]

    def source(self, index: int) -> int:
        """The number of a sample's corpus."""
        return bisect_right(self.offsets, index) - 1

    def place(self, index: int) -> tuple[Corpus, int]:
        """The corpus of a sample, and its number there."""
        number = self.source(index)
        return self.corpora[number], index - self.offsets[number]

    def image(self, index: int) -> npt.NDArray[Any]:
        """Image ``[C, D, H, W]``."""
        corpus, own = self.place(index)
        return corpus.image(own)

    def label(self, index: int) -> npt.NDArray[np.int16] | None:
        """Label map ``[D, H, W]`` or None."""
        corpus, own = self.place(index)
        return corpus.label(own)

    def entry(self, index: int) -> dict[str, Any]:
        """Birth certificate of one sample."""
        corpus, own = self.place(index)
        return corpus.entry(own)

    def covariates(self) -> pd.DataFrame:
        """One row per sample; what a corpus lacks is NaN."""
        import pandas as pd

        return pd.concat([corpus.covariates() for corpus in self.corpora], ignore_index=True)

    def parent(self) -> dict[str, Any]:
        """What weights write down about the mixture: an identity of its own, every corpus as a parent."""
        parents = [corpus.parent() for corpus in self.corpora]
        if len(parents) == 1:
            return parents[0]
        identity = Identity()
        identity.add({"parents": [parent["identity"] for parent in parents], "ratios": list(self.ratios)})
        return {
            "kind": "corpus",
            "name": " + ".join(str(parent["name"]) for parent in parents),
            "identity": identity.hexdigest(),
            "count": len(self),
            "ratios": list(self.ratios),
            "seed": None,
            "recipe": {"mixture": [parent["recipe"] for parent in parents]},
            "parents": parents,
            "licences": sorted({str(licence) for parent in parents for licence in parent["licences"]}),
        }
