"""A cohort's scans → volumes on a backbone's grid."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from finetune.cohort import Cohort
from synth.nifti import Grid, head_middle, read_scan, resample, voxel_digest


def prepare(
    cohort: Cohort,
    participants: list[str],
    grid: Grid,
    show: Callable[[int, int], None],
    digests: dict[str, str] | None = None,
) -> npt.NDArray[np.float32]:
    """Images ``[N, 1, D, H, W]`` float32, about [0, 1], of ``participants`` in order, on ``grid`` (shape, spacing in mm).

    Args:
        cohort: the people.
        participants: rows of its table.
        grid: voxels and their size.
        show: told how many are done, of how many.
        digests: filled, if given, with each row's digest of the voxels as they came, by which copies are known.

    Raises:
        UserError: a scan that cannot be read, is not 3-D or is empty; it is named.
    """

    def one(name: str) -> npt.NDArray[np.float32]:
        image, affine, centre = _load(cohort, name)
        if digests is not None:
            digests[name] = voxel_digest(image)
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
