"""Corpora as the audit sees them: first channel, on a working grid small enough for a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from synth.audit.groups import GROUPS
from synth.corpus import Corpus
from synth.errors import UserError
from synth.sample import Covariate, spacing_of

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float32]
Triple = tuple[int, int, int]

LONGEST = 64  # voxels along an axis of the working grid, at most
FEWEST = 10  # volumes without which nothing here means anything
FEWEST_PEOPLE = 3  # in the reference: whoever is left out, a nearest one and another to compare it with remain
SHORTEST = 16  # voxels along an axis, at least: on fewer there is no anatomy
PERSON = "participant_id"
LOW, HIGH = 1.0, 98.0  # percentiles that become 0 and 1: air, and about white matter of a T1-weighted head


def whole_factor(shape: Sequence[int]) -> int:
    """The smallest whole factor that brings every axis to ``LONGEST`` voxels or fewer."""
    return max(1, -(-max(shape) // LONGEST))


def coarsened(volume: npt.NDArray[Any], factor: int) -> Floats:
    """Block means of ``[..., D, H, W]`` over ``factor``³ voxels; what is left over at the edges is cut off evenly."""
    if factor == 1:
        return volume.astype(np.float32)
    kept = [n // factor for n in volume.shape[-3:]]
    first = [(n - k * factor) // 2 for n, k in zip(volume.shape[-3:], kept, strict=True)]
    d, h, w = (slice(f, f + k * factor) for f, k in zip(first, kept, strict=True))
    blocks = volume[..., d, h, w].astype(np.float32)
    split = blocks.reshape(*volume.shape[:-3], kept[0], factor, kept[1], factor, kept[2], factor)
    mean: Floats = split.mean(axis=(-5, -3, -1), dtype=np.float32)
    return mean


def standardised(volume: Floats) -> Floats:
    """A volume with its 1st percentile at 0 and its 98th at 1: whatever gain and offset a scanner had is gone."""
    low, high = np.percentile(volume, [LOW, HIGH])
    return ((volume - low) / max(float(high - low), 1e-6)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Volumes:
    """The volumes of one corpus on the working grid.

    Attributes:
        corpus: where they come from; its first channel is looked at.
        role: what sentences call it: synthetic, reference or held-out.
    """

    corpus: Corpus
    role: str

    def __len__(self) -> int:
        return len(self.corpus)

    @cached_property
    def factor(self) -> int:
        """Voxels of the corpus along each edge of a voxel of the working grid."""
        return whole_factor(self.corpus.image_shape[1:])

    @cached_property
    def shape(self) -> Triple:
        """Voxels of the working grid, left→right, posterior→anterior, inferior→superior."""
        d, h, w = (n // self.factor for n in self.corpus.image_shape[1:])
        return d, h, w

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size of the working grid in mm."""
        x, y, z = (s * self.factor for s in spacing_of(np.array(self.corpus.entry(0)["affine"])))
        return x, y, z

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel of the working grid."""
        return float(np.prod(self.spacing))

    def image(self, index: int) -> Floats:
        """Image ``[D, H, W]`` of one sample, standardised: see :func:`standardised`."""
        return standardised(coarsened(self.corpus.image(index)[0], self.factor))

    def shares(self, index: int, groups: npt.NDArray[np.uint8]) -> Floats:
        """``[G, D, H, W]`` share of every voxel that belongs to each of ``GROUPS``; ``groups`` maps label number → group."""
        label = self.corpus.label(index)
        assert label is not None
        grouped = groups[label]
        return coarsened(np.stack([grouped == group for group in range(len(GROUPS))]), self.factor)

    @cached_property
    def covariates(self) -> list[dict[str, Covariate]]:
        """Covariates of every sample, in order."""
        return [entry["covariates"] for entry in self.corpus.entries()]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The covariates, a row a sample."""
        import pandas as pd

        return pd.DataFrame(self.covariates)

    @cached_property
    def persons(self) -> npt.NDArray[np.int64]:
        """``[N]`` a number for every volume's participant, in order of first appearance; volumes without a covariate
        ``participant_id`` are of a person each."""
        numbers: dict[object, int] = {}
        whose = [row.get(PERSON, ("nobody", index)) for index, row in enumerate(self.covariates)]
        return np.array([numbers.setdefault(who, len(numbers)) for who in whose], np.int64)

    @cached_property
    def checksums(self) -> list[str]:
        """sha256 of every sample's voxels."""
        return [str(entry["sha256"]) for entry in self.corpus.entries()]


def some(count: int, most: int) -> list[int]:
    """Up to ``most`` of the numbers below ``count``, evenly apart."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most))}) if count else []


def check_comparable(synthetic: Volumes, reference: Volumes, held_out: Volumes | None) -> None:
    """Raise UserError unless all are complete, large enough, on one grid, and the held-out volumes are not the
    reference's."""
    sets = [synthetic, reference] + ([held_out] if held_out is not None else [])
    for volumes in sets:
        if len(volumes) < FEWEST:
            raise UserError(
                f"the {volumes.role} corpus '{volumes.corpus.path}' holds {len(volumes)} volume(s); an audit needs "
                f"{FEWEST} or more of each"
            )
        if missing := volumes.corpus.missing():
            raise UserError(
                f"the {volumes.role} corpus '{volumes.corpus.path}' lacks {len(missing)} shard(s); run its generate "
                "command again to finish it"
            )
    if (people := len(set(reference.persons.tolist()))) < FEWEST_PEOPLE:
        raise UserError(
            f"the reference corpus '{reference.corpus.path}' holds volumes of {people} participant(s); an audit needs "
            f"{FEWEST_PEOPLE} or more"
        )
    if min(synthetic.shape) < SHORTEST:
        raise UserError(
            f"the volumes of '{synthetic.corpus.path}' are {_grid(synthetic)}; an audit needs {SHORTEST} voxels or more "
            "along every axis"
        )
    for volumes in sets[1:]:
        if _grid(volumes) != _grid(synthetic):
            raise UserError(
                f"'{synthetic.corpus.path}' holds volumes of {_grid(synthetic)}, the {volumes.role} corpus "
                f"'{volumes.corpus.path}' {_grid(volumes)}; expected one grid: make them with the same shape and spacing"
            )
    if held_out is not None and (shared := set(held_out.checksums) & set(reference.checksums)):
        raise UserError(
            f"{len(shared)} volume(s) of --holdout '{held_out.corpus.path}' are in the reference '{reference.corpus.path}' "
            "too, bit by bit; expected volumes that the generator never saw"
        )


def _grid(volumes: Volumes) -> str:
    shape = " × ".join(map(str, volumes.corpus.image_shape[1:]))
    return f"{shape} voxels at {' × '.join(f'{s / volumes.factor:.4g}' for s in volumes.spacing)} mm"
