"""Scans as they come → volumes on a grid: canonical RAS+, scaling, head box, resampling."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.errors import UserError
from synth.sample import centred_affine, spacing_of

Grid = tuple[tuple[int, int, int], tuple[float, float, float]]
"""Voxels along D, H, W, and their size in mm."""
TOP_TO_MIDDLE_MM = (
    83.0  # top of the scalp to the middle of the brain: 15 mm scalp and skull, half of a 137 mm high brain
)
SLAB_MM = 100.0  # what lies this far below the top is head at any field of view; face and neck are left out
SPACINGS_MM = (0.05, 50.0)  # voxel sizes outside are no head scan's: an affine in metres, or one that was never set
FLAT = 1e-3  # determinant of the axes' directions below which they span no volume
SMOOTHING = 0.35  # Gaussian SD before downsampling, in output voxels


def read_scan(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """A NIfTI scan and its affine: ``[D, H, W]`` in canonical RAS+ order, 99.5th percentile 1, cut to [0, 1.5].

    Raises:
        UserError: a file that is damaged or no NIfTI, not 3-D, empty, or of voxels without a size; it is named.
    """
    import nibabel

    try:
        image: Any = nibabel.squeeze_image(nibabel.load(path))
        if len(image.shape) != 3:
            raise UserError(f"scan '{path}' has {len(image.shape)} axes; expected a 3-D T1w image")
        image = nibabel.as_closest_canonical(image)
        data = np.asarray(image.dataobj, dtype=np.float32)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"scan '{path}' cannot be read ({reason}); it is damaged or not NIfTI") from error
    data = np.maximum(np.nan_to_num(data, nan=0.0, posinf=0.0, neginf=0.0), 0)
    top = float(np.percentile(data, 99.5))
    if top <= 0:
        raise UserError(f"scan '{path}' is empty: no voxel above zero")
    affine = np.asarray(image.affine, np.float64)
    _check_spacing(affine, path)
    return np.minimum(data / top, 1.5), affine


def voxel_digest(image: npt.NDArray[np.float32]) -> str:
    """sha256 of an image ``[D, H, W]`` as :func:`read_scan` gives it: the same for copies of a scan under another name,
    with another header, in another data type, or stored along other axes."""
    whole = np.ascontiguousarray(image, "<f4")
    return hashlib.sha256(str(whole.shape).encode() + whole.tobytes()).hexdigest()


def _check_spacing(affine: npt.NDArray[np.float64], path: Path) -> None:
    spacing = np.array(spacing_of(affine))
    possible = np.isfinite(affine).all() and ((spacing > SPACINGS_MM[0]) & (spacing < SPACINGS_MM[1])).all()
    if not possible or abs(np.linalg.det(affine[:3, :3] / spacing)) < FLAT:
        raise UserError(
            f"scan '{path}' has voxels of {' × '.join(f'{s:g}' for s in spacing)} mm, or axes that lie in one plane; "
            f"expected {SPACINGS_MM[0]:g} to {SPACINGS_MM[1]:g} mm along three axes: mend its affine"
        )


def head_middle(image: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], path: Path) -> npt.NDArray[np.float64]:
    """The middle of the brain in mm, from the outline of the head alone.

    Foreground by Otsu's threshold; the top of the head is the highest slice with a hand's breadth of it. Left–right and
    front–back come from the middle of the head's outline in the slab below the top, the height from the top itself.

    Raises:
        UserError: nothing stands out from the background; ``path`` is what the sentence calls the scan.
    """
    from scipy import ndimage

    spacing = spacing_of(affine)
    smooth = ndimage.gaussian_filter(image, [2.0 / s for s in spacing])
    mask = smooth > 0.5 * _otsu(smooth)
    area = mask.sum((0, 1)) * spacing[0] * spacing[1]
    high = np.flatnonzero(area > 1500)  # mm²: a patch of 4 × 4 cm
    if high.size == 0:
        raise UserError(f"scan '{path}' shows no head: nothing stands out from the background")
    top = int(high[-1])
    slab = mask[:, :, max(0, top - round(SLAB_MM / spacing[2])) : top + 1].any(2)
    x, y = (np.flatnonzero(slab.any(axis)) for axis in (1, 0))
    voxel = [(x[0] + x[-1]) / 2, (y[0] + y[-1]) / 2, top - TOP_TO_MIDDLE_MM / spacing[2], 1.0]
    middle: npt.NDArray[np.float64] = (affine @ voxel)[:3]
    return middle


def _otsu(image: npt.NDArray[np.float32]) -> float:
    """The threshold with the largest variance between classes (Otsu 1979)."""
    counts, edges = np.histogram(image, bins=128)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    total = np.cumsum(counts * centres)
    share = below / below[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (total[-1] * share - total) ** 2 / (share * (1 - share))
    return float(centres[int(np.nanargmax(np.where(np.isfinite(between), between, -1)))])


def resample(
    image: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], middle: npt.NDArray[np.float64], grid: Grid
) -> npt.NDArray[np.float32]:
    """``image`` on an axis-aligned RAS+ grid whose middle lies at ``middle`` (mm); linear, smoothed where it gets coarser."""
    return resample_through(image, affine, moved_by(middle), grid)


def moved_by(shift: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """4×4: mm → mm that lie ``shift`` further."""
    to_scan = np.eye(4)
    to_scan[:3, 3] = shift
    return to_scan


def resample_through(
    image: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], to_scan: npt.NDArray[np.float64], grid: Grid
) -> npt.NDArray[np.float32]:
    """``image`` on an axis-aligned RAS+ grid about 0 mm, through a 4×4 map from the grid's mm to the image's mm.

    The map and the grid are composed, so that voxels are interpolated once; linear, smoothed where it gets coarser.
    """
    from scipy import ndimage

    shape, spacing = grid
    matrix = np.linalg.inv(affine) @ (to_scan @ centred_affine(shape, spacing))
    if image.shape == shape and np.allclose(matrix, np.eye(4), atol=1e-4):
        return image
    step = np.sqrt((matrix[:3, :3] ** 2).sum(1))  # source voxels per output voxel along each source axis
    sigma = np.where(step > 1.2, SMOOTHING * step, 0.0)
    smooth = ndimage.gaussian_filter(image, sigma) if sigma.any() else image
    out: npt.NDArray[np.float32] = ndimage.affine_transform(smooth, matrix[:3, :3], matrix[:3, 3], shape, order=1)
    return out.astype(np.float32)
