"""A cohort's scans → volumes on a backbone's grid."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.cohort import Cohort
from synth.nifti import Grid, head_middle, read_scan, resample, voxel_digest
from synth.provenance import preparation


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


def warn_if_prepared_otherwise(cohort: Cohort, corpus: Mapping[str, Any], weights: str, grid: Grid) -> None:
    """Say so on standard error where weights saw volumes prepared as the cohort's are not: stripped, aligned, N4.

    A folder's scans are only turned, centred, resampled and scaled here; the command that makes a corpus of them like that
    of the weights is named. A corpus that no scans are in is left alone.

    Args:
        cohort: the people.
        corpus: parent record of the corpus that the weights saw last.
        weights: what the sentence calls them.
        grid: that of the weights.
    """
    held = cohort.parents[0] if cohort.corpus is not None else {}
    if held and re.split(r"[.:]", held["recipe"]["generator"]["class_path"])[-1] != "Scans":
        return
    lacking = [step for step in preparation(corpus) if step not in preparation(held)]
    if not lacking:
        return
    options = " ".join(f"--{step}" for step in preparation(corpus))
    shape, spacing = (",".join(f"{n:g}" for n in numbers) for numbers in grid)
    print(
        f"brainloom: warning: weights '{weights}' saw volumes prepared with {', '.join(preparation(corpus))}, of which the "
        f"scans of cohort '{cohort.name}' lack {', '.join(lacking)}; for a fair test make the cohort a corpus: brainloom "
        f"synth import FOLDER --shape {shape} --spacing {spacing} {options} --out cohort.zarr",
        file=sys.stderr,
    )
