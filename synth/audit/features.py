"""Feature space: an untrained 3D convolutional network with fixed weights, pooled after every block.

Nothing is downloaded and nothing was learnt from anybody's scans. Untrained networks pooled over several blocks are a
respectable description of structural MRI: Encin, Glatard et al. (bioRxiv 2026, "Untrained CNNs as Feature Extractors
for Structural MRI") find sex and age in them as well as in trained ones. It is not the Inception network of the first
FID: figures compare corpora audited here, not papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from synth.audit.grid import Floats, Volumes
from synth.audit.matching import CANDIDATES, SMALLEST, Neighbours, Show
from synth.keys import rng_for

if TYPE_CHECKING:
    from torch import nn

SEED = 0
CHANNELS = (1, 16, 32, 64, 128)
NAME = "untrained 3D CNN, 4 blocks (16, 32, 64, 128 channels), mean and SD of every channel, fixed weights (seed 0)"
WIDTH = 2 * sum(CHANNELS[1:])


@lru_cache(maxsize=1)
def build() -> nn.ModuleList:
    """The blocks: 3×3×3 convolution, leaky ReLU, halved by averages. Weights are He-normal numbers of a Philox stream,
    the same whatever torch's version."""
    import torch
    from torch import nn

    blocks = nn.ModuleList()
    for number, (given, made) in enumerate(pairwise(CHANNELS)):
        convolution = nn.Conv3d(given, made, 3, padding=1)
        draw = rng_for(SEED, number, "audit features")
        weight = draw.normal(0, np.sqrt(2 / (27 * given)), tuple(convolution.weight.shape))
        bias = draw.normal(0, 0.1, made)
        with torch.no_grad():
            convolution.weight.copy_(torch.from_numpy(weight))
            assert convolution.bias is not None
            convolution.bias.copy_(torch.from_numpy(bias))
        pool = nn.AvgPool3d(2, ceil_mode=True)
        blocks.append(nn.Sequential(convolution, nn.LeakyReLU(0.1), pool))
    return blocks.eval().requires_grad_(False)


def describe(blocks: nn.ModuleList, volume: Floats) -> Floats:
    """``[WIDTH]`` mean and SD of every channel after every block, of a volume ``[D, H, W]``."""
    import torch

    x = torch.from_numpy(np.ascontiguousarray(volume))[None, None]
    found = []
    for block in blocks:
        x = block(x)
        found += [x.mean(dim=(2, 3, 4))[0], x.std(dim=(2, 3, 4), correction=0)[0]]
    result: Floats = torch.cat(found).numpy()
    return result


def describe_all(volumes: Volumes, show: Show) -> npt.NDArray[np.float32]:
    """``[N, 2, WIDTH]``: every volume as it is and as its left-right mirror image."""
    from synth.repeatable import repeatable

    blocks, rows = build(), []
    with repeatable():
        for index in range(len(volumes)):
            image = volumes.image(index)
            rows.append(np.stack([describe(blocks, image), describe(blocks, image[::-1])]))
            show(index + 1, len(volumes))
    return np.stack(rows)


def standardised_by(reference: npt.NDArray[np.float32], *others: npt.NDArray[np.float32]) -> list[Any]:
    """Every set ``[N, 2, WIDTH]``, the reference first, in units of the reference's mean and SD."""
    mean, sd = reference[:, 0].mean(axis=0), reference[:, 0].std(axis=0) + 1e-6
    return [((features - mean) / sd).astype(np.float32) for features in (reference, *others)]


def whitened_by(reference: npt.NDArray[Any], *others: npt.NDArray[Any]) -> list[npt.NDArray[np.float64]]:
    """Every set ``[N, 2, F]``, the reference first, whitened by the reference's covariance (shrunk as Ledoit & Wolf 2004
    prescribe): distances are then Mahalanobis distances, and what varies little in the reference, such as one head's
    own texture, counts as much as size and contrast."""
    from sklearn.covariance import ledoit_wolf

    covariance, _ = ledoit_wolf(reference[:, 0].astype(np.float64))
    values, vectors = np.linalg.eigh(covariance)
    whiten = (vectors / np.sqrt(np.maximum(values, 1e-9))) @ vectors.T
    return [features.astype(np.float64) @ whiten for features in (reference, *others)]


def nearest(
    queries: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    which: Sequence[int] | None = None,
    persons: npt.NDArray[np.int64] | None = None,
) -> Neighbours:
    """The nearest target of every query in feature space, whichever mirror image of the query is nearer.

    Args:
        queries, targets: ``[N, 2, F]`` and ``[M, 2, F]``; of the targets only [:, 0] is used.
        which: the queries that are asked for; all if absent.
        persons: ``[M]`` whose the targets are; a person each if absent.
    """
    numbers = range(len(queries)) if which is None else which
    whose = np.arange(len(targets)) if persons is None else persons
    rows = [_nearest_of(queries[number], targets[:, 0], whose) for number in numbers]
    index, mirrored, distance, ratio = zip(*rows, strict=True)
    shifts = np.zeros((len(rows), 3), np.int64)
    return Neighbours(np.array(index), np.array(mirrored), shifts, np.array(distance, float), np.array(ratio, float))


def _nearest_of(
    query: npt.NDArray[Any], targets: npt.NDArray[Any], persons: npt.NDArray[np.int64]
) -> tuple[int, bool, float, float]:
    both = np.stack([np.linalg.norm(targets - image, axis=1) for image in query])  # [2, M]
    best = both.min(axis=0)
    index = int(best.argmin())
    order = np.argsort(best, kind="stable")
    order = order[persons[order] != persons[index]]
    _, first = np.unique(persons[order], return_index=True)  # of each other person the nearest
    others = best[order[np.sort(first)[: CANDIDATES - 1]]]
    distance = max(float(best[index]), SMALLEST)
    return (
        index,
        bool(both[1, index] < both[0, index]),
        distance,
        distance / max(float(np.median(others)), SMALLEST),
    )
