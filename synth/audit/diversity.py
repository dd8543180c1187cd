"""Diversity: how alike two volumes of a corpus are, by MS-SSIM."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from synth.audit.grid import Floats, Triple, Volumes
from synth.audit.matching import Show
from synth.keys import rng_for

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, finest first (Wang, Simoncelli & Bovik 2003)."""

KERNEL, SIGMA = 7, 1.0  # voxels; the 11 and 1.5 of 2D pictures leave too few scales on a head of 50 voxels
BRIGHTEST = 1.25  # standardised intensity at which values are cut off


def scales(shape: Triple) -> int:
    """How many scales a grid allows; each has half the voxels of the one before (MONAI's rule: with S scales, at least
    (S - 1)² kernels along every axis)."""
    return max(s for s in range(1, len(WEIGHTS) + 1) if s == 1 or min(shape) // (s - 1) ** 2 >= KERNEL)


def pairs(count: int, most: int, seed: int) -> npt.NDArray[np.int64]:
    """``[P, 2]`` different volumes drawn at random; every pair once where that is fewer than ``most``."""
    first, second = np.triu_indices(count, 1)
    chosen = rng_for(seed, 0, "audit pairs").permutation(len(first))[:most]
    return np.stack([first[chosen], second[chosen]], axis=1)


def ms_ssim(volumes: Volumes, most: int, seed: int, show: Show) -> npt.NDArray[np.float64]:
    """``[P]`` MS-SSIM of random pairs of volumes: 1 is the same picture, lower is more diverse."""
    import torch
    from monai.metrics.regression import compute_ms_ssim

    from synth.repeatable import repeatable

    used = scales(volumes.shape)
    weights = [w / sum(WEIGHTS[:used]) for w in WEIGHTS[:used]]
    drawn, found = pairs(len(volumes), most, seed), []
    with repeatable():
        for done, (a, b) in enumerate(drawn, 1):
            x, y = (torch.from_numpy(_clipped(volumes, int(i)))[None, None] for i in (a, b))
            found.append(float(compute_ms_ssim(x, y, 3, BRIGHTEST, "gaussian", KERNEL, SIGMA, weights=weights)))
            show(done, len(drawn))
    return np.array(found)


def _clipped(volumes: Volumes, index: int) -> Floats:
    clipped: Floats = volumes.image(index).clip(0, BRIGHTEST)
    return clipped
