"""The brain of a scan alone: extracted, or as it came; its bias field taken out if wanted; its brightness brought to 1."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.errors import UserError
from synth.nifti import read_scan
from synth.repeatable import one_itk_thread
from synth.sample import spacing_of

BRAIN_ML = (100.0, 2500.0)  # of what is above zero in a scan that is said to be stripped; more is a head

Image = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Brain:
    """A brain, canonical RAS+.

    Attributes:
        image: ``[D, H, W]``, zero outside; its own 99.5th percentile is 1, cut at 1.5.
        affine: 4×4, voxels → mm.
        middle: mm, of the brain's box.
        volume_ml: of the mask.
        bias: 5th and 95th percentile of the bias field that was taken out, or None.
    """

    image: Image
    affine: Matrix
    middle: Matrix
    volume_ml: float
    bias: tuple[float, float] | None = None

    def as_params(self) -> dict[str, Any]:
        """Plain JSON values of what was done."""
        told: dict[str, Any] = {"brain_ml": round(self.volume_ml, 1)}
        return told if self.bias is None else {**told, "n4": {"bias_p05_p95": [round(v, 4) for v in self.bias]}}


@lru_cache(maxsize=1)  # a record is drawn, then rendered: both look at the same brain
def brain_of(path: Path, sha256: str, stripped: bool, n4: bool) -> Brain:
    """The brain of the scan at ``path``.

    Args:
        path: a T1w scan.
        sha256: of the file, by which a changed one is another.
        stripped: whether the scan shows the brain alone already; else deepbet finds it.
        n4: whether its bias field is taken out, by N4 (Tustison et al. 2010, IEEE TMI 29:1310).

    Raises:
        UserError: a scan that is damaged, in which no brain is found, or that is not stripped.
    """
    from synth import strip

    image, affine = read_scan(path)
    mask = _given_mask(image, affine, path) if stripped else strip.brain_mask(image, affine, path)
    box = _box(mask)
    middle: Matrix = (affine @ [*((part.start + part.stop - 1) / 2 for part in box), 1.0])[:3]
    image, bias = _without_bias(image, mask, box, affine) if n4 else (image, None)
    top = float(np.percentile(image[mask], 99.5)) or 1.0
    brain: Image = np.minimum(np.where(mask, image / top, 0), 1.5).astype(np.float32)
    return Brain(brain, affine, middle, _ml(mask, affine), bias)


def _ml(mask: Mask, affine: Matrix) -> float:
    return float(mask.sum() * abs(np.linalg.det(affine[:3, :3]))) / 1000


def _box(mask: Mask) -> tuple[slice, slice, slice]:
    lines = [np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    x, y, z = (slice(int(line[0]), int(line[-1]) + 1) for line in lines)
    return x, y, z


def _given_mask(image: Image, affine: Matrix, path: Path) -> Mask:
    """What is above zero, its holes filled."""
    from scipy.ndimage import binary_fill_holes

    mask: Mask = binary_fill_holes(image > 0)
    volume = _ml(mask, affine)
    if not BRAIN_ML[0] <= volume <= BRAIN_ML[1]:
        raise UserError(
            f"scan '{path}' holds {volume:.0f} mL above zero; expected the {BRAIN_ML[0]:.0f} to {BRAIN_ML[1]:.0f} of a "
            "brain alone: import with strip instead of stripped"
        )
    return mask


def _without_bias(
    image: Image, mask: Mask, box: tuple[slice, slice, slice], affine: Matrix
) -> tuple[Image, tuple[float, float]]:
    """The image divided by its bias field, and that field's 5th and 95th percentile."""
    from synth.quality import bias_by_n4

    inside = mask[box] & (image[box] > 0)  # N4 takes logarithms
    with one_itk_thread():
        field = bias_by_n4(image[box], inside, spacing_of(affine))
    field = field / field[inside].mean()  # N4 leaves its level open
    low, high = np.percentile(field[inside], [5, 95])
    corrected = image.copy()
    corrected[box] = image[box] / field
    return corrected, (float(low), float(high))
