"""Generators of known quality: the volumes of a corpus made worse, everything that is said of them left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from synth.corpus import Corpus
from synth.errors import UserError
from synth.generator import Generator, Params
from synth.keys import new_seed, rng_for
from synth.provenance import lineage
from synth.sample import Sample


class Blurred(Generator):
    """Volume i is the corpus's volume i, smoothed.

    Args:
        corpus: whose volumes, label maps and covariates are taken.
        sd_mm: standard deviation of the Gaussian in mm.
    """

    def __init__(self, corpus: Path, sd_mm: float = 10.0) -> None:
        if not 0 <= sd_mm <= 100:
            raise UserError(f"sd_mm is {sd_mm}; expected 0 to 100 mm")
        self.source, self.sd_mm = Corpus(Path(corpus)), float(sd_mm)

    def draw(self, rng: np.random.Generator) -> Params:
        """Any volume."""
        return {"volume": int(rng.integers(len(self.source))), "noise_seed": new_seed(rng)}

    def draw_at(self, index: int, rng: np.random.Generator) -> Params:
        """The corpus's volume of that number, counted around."""
        return {**self.draw(rng), "volume": index % len(self.source)}

    def render(self, params: Params) -> Sample:
        """The volume ``[C, D, H, W]``, made worse."""
        sample = self.source.sample(params["volume"])
        return Sample(self.worse(sample, params), sample.label, sample.covariates, sample.affine)

    def worse(self, sample: Sample, params: Params) -> Any:
        """What becomes of an image."""
        from scipy.ndimage import gaussian_filter

        cells = [self.sd_mm / size for size in sample.spacing]
        return np.stack([gaussian_filter(channel, cells) for channel in sample.image])

    def labels(self) -> dict[int, str]:
        """Those of the corpus."""
        return {int(number): name for number, name in self.source.header.labels.items()}

    def parents(self) -> list[dict[str, Any]]:
        """The corpus and what it derives from."""
        return lineage(self.source.parent())


class Noise(Blurred):
    """Volume i has the covariates of the corpus's volume i, and noise of its mean and SD in place of its image.

    Args:
        corpus: whose label maps and covariates are taken.
    """

    def __init__(self, corpus: Path) -> None:
        super().__init__(corpus)

    def worse(self, sample: Sample, params: Params) -> Any:
        """Normal noise, cut off at 0."""
        made = rng_for(params["noise_seed"], 0).normal(sample.image.mean(), sample.image.std(), sample.image.shape)
        return np.clip(made, 0, None).astype(np.float32)
