"""Scans as they come → volumes on a backbone's grid: canonical RAS+, head box, resampling, scaling."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.cohort import Cohort
from synth.errors import UserError
from synth.sample import centred_affine, spacing_of

Grid = tuple[tuple[int, int, int], tuple[float, float, float]]
TOP_TO_MIDDLE_MM = (
    83.0  # top of the scalp to the middle of the brain: 15 mm scalp and skull, half of a 137 mm high brain
)
SLAB_MM = 100.0  # what lies this far below the top is head at any field of view; face and neck are left out
SMOOTHING = 0.35  # Gaussian SD before downsampling, in output voxels


def prepare(
    cohort: Cohort, participants: list[str], grid: Grid, show: Callable[[int, int], None]
) -> npt.NDArray[np.float32]:
    """Images ``[N, 1, D, H, W]`` float32, about [0, 1], of ``participants`` in order, on ``grid`` (shape, spacing in mm).

    Raises:
        UserError: a scan that cannot be read, is not 3-D or is empty; it is named.
    """

    def one(name: str) -> npt.NDArray[np.float32]:
        image, affine, centre = _load(cohort, name)
        return resample(image, affine, centre, grid)

    images = []
    with ThreadPoolExecutor(2) as pool:
        for done, image in enumerate(pool.map(one, participants), 1):
            images.append(image[None])
            show(done, len(participants))
    return np.stack(images)


def _load(
    cohort: Cohort, name: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Image, its affine, and the mm point that becomes the middle of the grid."""
    scan = cohort.scans[name]
    if isinstance(scan, int):
        assert cohort.corpus is not None
        affine = np.array(cohort.corpus.entry(scan)["affine"])
        return cohort.corpus.image(scan)[0].astype(np.float32), affine, np.zeros(3)
    image, affine = read_scan(scan)
    return image, affine, head_middle(image, affine, scan)


def read_scan(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """A NIfTI scan in canonical RAS+ order, scaled so that its 99.5th percentile is 1, negative values cut."""
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
    return np.minimum(data / top, 1.5), np.asarray(image.affine, np.float64)


def head_middle(image: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], path: Path) -> npt.NDArray[np.float64]:
    """The middle of the brain in mm, from the outline of the head alone.

    Foreground by Otsu's threshold; the top of the head is the highest slice with a hand's breadth of it. Left–right and
    front–back come from the middle of the head's outline in the slab below the top, the height from the top itself.
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
    from scipy import ndimage

    shape, spacing = grid
    target = centred_affine(shape, spacing)
    target[:3, 3] += middle
    matrix = np.linalg.inv(affine) @ target
    if image.shape == shape and np.allclose(matrix, np.eye(4), atol=1e-4):
        return image
    step = np.sqrt((matrix[:3, :3] ** 2).sum(1))  # source voxels per output voxel along each source axis
    sigma = np.where(step > 1.2, SMOOTHING * step, 0.0)
    smooth = ndimage.gaussian_filter(image, sigma) if sigma.any() else image
    out: npt.NDArray[np.float32] = ndimage.affine_transform(smooth, matrix[:3, :3], matrix[:3, 3], shape, order=1)
    return out.astype(np.float32)
