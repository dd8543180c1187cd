"""How well the segmenter measures, and the line that turns its sums of probabilities into volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.audit.distances import Doubles, digits
from synth.audit.grid import Volumes
from synth.audit.groups import GROUPS, NAMES
from synth.audit.matching import Show
from synth.audit.segmenter import Segmenter, regions_of

FLATTEST = 0.05  # slope of a line below which its inverse would blow up noise


@dataclass(frozen=True)
class Line:
    """The least-squares line from true to summed volume, mm³."""

    slope: float
    offset: float

    @classmethod
    def through(cls, true: Doubles, summed: Doubles) -> Line:
        """Fitted; slope 1 where the true volumes do not vary, or the sums hardly follow them."""
        spread = float(((true - true.mean()) ** 2).sum())
        slope = float(((true - true.mean()) * (summed - summed.mean())).sum()) / spread if spread > 0 else 1.0
        slope = slope if slope > FLATTEST else 1.0
        return cls(slope, float(summed.mean() - slope * true.mean()))

    def inverse(self, summed: Any) -> Any:
        """mm³ that a summed volume stands for."""
        return (summed - self.offset) / self.slope


@dataclass(frozen=True)
class Error:
    """How well one region is measured on volumes that the segmenter did not learn from.

    Attributes:
        dice: mean overlap of the most probable group with the true one; NaN for brain, which is a sum.
        r: correlation of measured and true volume.
        rmse, bias: root mean square and mean of measured minus true volume, mm³.
        volumes: how many.
    """

    dice: float
    r: float
    rmse: float
    bias: float
    volumes: int

    def as_json(self) -> dict[str, float | None]:
        """Rounded; null for NaN."""
        values = {"dice": self.dice, "r": self.r, "rmse": self.rmse, "bias": self.bias}
        found = {name: None if np.isnan(value) else digits(value) for name, value in values.items()}
        return {**found, "volumes": self.volumes}


@dataclass(frozen=True, eq=False)
class Raw:
    """Region → ``[N]`` true and summed volumes in mm³, and Dice of the groups."""

    true: dict[str, Doubles]
    summed: dict[str, Doubles]
    dice: dict[str, float]

    def lines(self) -> dict[str, Line]:
        """The calibration of every region."""
        return {name: Line.through(self.true[name], self.summed[name]) for name in NAMES}

    def errors(self, lines: dict[str, Line]) -> dict[str, Error]:
        """What a calibration from other volumes leaves wrong."""
        return {name: self._error(name, lines[name].inverse(self.summed[name])) for name in NAMES}

    def crossed(self) -> dict[str, Error]:
        """The same where there are no other volumes: each half is calibrated by the other."""
        found = {}
        for name in NAMES:
            measured = np.empty(len(self.true[name]))
            for first in (0, 1):
                half, other = slice(first, None, 2), slice(1 - first, None, 2)
                line = Line.through(self.true[name][other], self.summed[name][other])
                measured[half] = line.inverse(self.summed[name][half])
            found[name] = self._error(name, measured)
        return found

    def _error(self, name: str, measured: Doubles) -> Error:
        true = self.true[name]
        r = float(np.corrcoef(true, measured)[0, 1]) if true.std() > 0 and measured.std() > 0 else float("nan")
        off = measured - true
        rmse, bias = float(np.sqrt((off**2).mean())), float(off.mean())
        return Error(self.dice.get(name, float("nan")), r, rmse, bias, len(true))


def measured(
    segmenter: Segmenter, volumes: Volumes, indices: list[int], groups: npt.NDArray[np.uint8], show: Show
) -> Raw:
    """True and summed volumes of some volumes with label maps."""
    true, summed, dice = [], [], []
    for done, index in enumerate(indices, 1):
        probability, shares = segmenter.probabilities(volumes.image(index)), volumes.shares(index, groups)
        true.append(regions_of(shares, volumes.voxel_mm3))
        summed.append(regions_of(probability, volumes.voxel_mm3))
        dice.append(_dice(probability.argmax(axis=0), shares.argmax(axis=0)))
        show(done, len(indices))
    return Raw(_columns(true), _columns(summed), {name: _mean(values) for name, values in _columns(dice).items()})


def _columns(rows: list[dict[str, float]]) -> dict[str, Doubles]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _mean(values: Doubles) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def _dice(found: npt.NDArray[np.int64], true: npt.NDArray[np.int64]) -> dict[str, float]:
    values = {}
    for number, group in enumerate(GROUPS):
        a, b = found == number, true == number
        values[group] = float(2 * (a & b).sum() / (a.sum() + b.sum())) if b.any() else float("nan")
    return values
