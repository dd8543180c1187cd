"""Volumes of tissues and structures, measured on what was made, by one and the same method in every corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from synth.audit import calibration, mixture, segmenter
from synth.audit.distances import digits
from synth.audit.grid import Floats, Volumes, some
from synth.audit.groups import GROUPS, NAMES, PARTS, group_numbers, labels_of
from synth.audit.matching import Show
from synth.audit.searching import Bar
from synth.quality import Mask

MOST = 400  # volumes of each corpus that are measured
SURE = 0.7  # probability above which a voxel counts for image quality
TRUSTED_R = 0.6  # with less than a third of the variance, listening cannot be told from noise
GREY = ("cortex", "deep_grey")


class Method(Protocol):
    """A way to measure one standardised volume ``[D, H, W]``."""

    @property
    def name(self) -> str:
        """What it is called on the page."""
        ...

    def regions(self, image: Floats) -> dict[str, float]:
        """mm³ of every region."""
        ...

    def masks(self, image: Floats) -> dict[str, Mask]:
        """Masks for :func:`synth.quality.measure_in`."""
        ...

    def trusted(self) -> tuple[str, ...]:
        """Regions that are measured well enough to compare them with what was asked."""
        ...

    def as_json(self) -> dict[str, Any]:
        """The method's name and its own errors."""
        ...


@dataclass(frozen=True, eq=False)
class BySegmenter:
    """The small network, calibrated."""

    network: segmenter.Segmenter
    voxel_mm3: float
    lines: dict[str, calibration.Line]
    errors: dict[str, calibration.Error]
    checked_on: str
    name: str = segmenter.NAME

    def regions(self, image: Floats) -> dict[str, float]:
        """mm³, calibrated."""
        summed = segmenter.regions_of(self.network.probabilities(image), self.voxel_mm3)
        return {name: self.lines[name].inverse(value) for name, value in summed.items()}

    def masks(self, image: Floats) -> dict[str, Mask]:
        """Voxels of which the network is sure."""
        share = dict(zip(GROUPS, self.network.probabilities(image), strict=True))
        brain = sum((share[part] for part in (*PARTS, "csf", "ventricles")), np.zeros(image.shape, np.float32))
        return {
            "wm": share["white_matter"] > SURE,
            "gm": np.maximum.reduce([share[name] for name in GREY]) > SURE,
            "csf": np.maximum(share["csf"], share["ventricles"]) > SURE,
            "brain": brain > 0.5,
            "head": share["background"] < 0.5,
            "air": share["background"] > SURE,
        }

    def trusted(self) -> tuple[str, ...]:
        """Those whose measured volume follows the true one, r at least ``TRUSTED_R``."""
        return tuple(name for name, error in self.errors.items() if error.r >= TRUSTED_R)

    def as_json(self) -> dict[str, Any]:
        """Errors of every region."""
        errors = {name: error.as_json() for name, error in self.errors.items()}
        return {"name": self.name, "checked_on": self.checked_on, "errors": errors}


@dataclass(frozen=True, eq=False)
class ByMixture:
    """Intensity and depth; its errors on this corpus are not known."""

    spacing: tuple[float, float, float]
    name: str = mixture.NAME

    def regions(self, image: Floats) -> dict[str, float]:
        """mm³ of ventricles and brain."""
        return mixture.regions_of(mixture.tissue_of(image, self.spacing), float(np.prod(self.spacing)))

    def masks(self, image: Floats) -> dict[str, Mask]:
        """Voxels of which the mixture is sure."""
        return mixture.masks_of(mixture.tissue_of(image, self.spacing))

    def trusted(self) -> tuple[str, ...]:
        """Both, for want of an error."""
        return ("ventricles", "brain")

    def as_json(self) -> dict[str, Any]:
        """The name; there are no errors to tell."""
        return {"name": self.name, "checked_on": None, "errors": None}


def method_for(reference: Volumes, held_out: Volumes | None, steps: int, seed: int, bar: Bar) -> Method:
    """The segmenter, trained on the reference, where the reference has label maps of known structures; else the mixture."""
    table = labels_of(reference.corpus)
    if table is None:
        return ByMixture(reference.spacing)
    groups = group_numbers(table)
    learn_from, apart = segmenter.split(len(reference))
    with bar("segmenter learns") as show:
        network = segmenter.train(reference, learn_from, groups, steps, seed, show)
    with bar("segmenter is checked") as show:
        raw = calibration.measured(network, reference, apart, groups, show)
    lines = raw.lines()
    if held_out is None or labels_of(held_out.corpus) != table:
        where = f"{len(apart)} reference volumes that it did not learn from"
        return BySegmenter(network, reference.voxel_mm3, lines, raw.crossed(), where)
    chosen = some(len(held_out), segmenter.CHECKED_ON)
    with bar("segmenter is checked, held-out") as show:
        errors = calibration.measured(network, held_out, chosen, groups, show).errors(lines)
    return BySegmenter(network, reference.voxel_mm3, lines, errors, f"{len(chosen)} held-out volumes")


@dataclass(frozen=True, eq=False)
class Measured:
    """Volumes of one corpus: ``indices`` of the samples measured, region → ``[N]`` mm³, and the regions that the method
    measures well enough to compare them with what was asked."""

    indices: list[int]
    mm3: dict[str, npt.NDArray[np.float64]]
    trusted: tuple[str, ...]


def measure(volumes: Volumes, method: Method, show: Show) -> Measured:
    """Measure up to ``MOST`` volumes of a corpus."""
    indices, rows = some(len(volumes), MOST), []
    for done, index in enumerate(indices, 1):
        rows.append(method.regions(volumes.image(index)))
        show(done, len(indices))
    return Measured(indices, {name: np.array([row[name] for row in rows]) for name in rows[0]}, method.trusted())


def compared(made: Measured, real: Measured) -> dict[str, dict[str, float]]:
    """Region → mean and SD in mm³ of both, their difference in the reference's SD, and the Kolmogorov–Smirnov distance
    (greatest difference of the cumulative shares, 0 to 1) with its p."""
    from scipy.stats import ks_2samp

    table = {}
    for name in NAMES:
        if name not in made.mm3:
            continue
        a, b = made.mm3[name], real.mm3[name]
        test = ks_2samp(a, b)
        row = {
            "synthetic_mean": a.mean(),
            "synthetic_sd": a.std(ddof=1),
            "reference_mean": b.mean(),
            "reference_sd": b.std(ddof=1),
            "difference_sd": (a.mean() - b.mean()) / max(float(b.std(ddof=1)), 1e-9),
            "ks": test.statistic,
            "ks_p": test.pvalue,
        }
        table[name] = {key: digits(float(value)) for key, value in row.items()}
    return table
