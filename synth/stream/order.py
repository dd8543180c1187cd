"""Which sample comes when: pure functions of (seed, epoch, position), the same at any world size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from synth.keys import rng_for

Indices = npt.NDArray[np.int64]


def uniform(indices: Indices, seed: int, epoch: int) -> Indices:
    """Every order equally likely."""
    return indices[rng_for(seed, epoch, "stream").permutation(len(indices))]


def windowed(indices: Indices, shard_size: int, window: int, seed: int, epoch: int, ascending: bool = False) -> Indices:
    """Shards in random order, ``window`` of them at a time, the samples of a window shuffled together.

    Reads come from few files at a time; samples that lie ``window`` shards apart never meet in a batch of one window.

    Args:
        indices: sample numbers to use.
        window: shards.
        ascending: take the shards by number in place of at random, as they appear while a corpus is made.
    """
    rng = rng_for(seed, epoch, "stream windows")
    shards = indices // shard_size
    present = np.unique(shards)
    rank_of = np.arange(len(present)) if ascending else rng.permutation(len(present))
    group = rank_of[np.searchsorted(present, shards)] // window
    return indices[np.lexsort((rng.random(len(indices)), group))]


def mixed(sources: Sequence[Indices], ratios: Sequence[float], length: int, seed: int, epoch: int) -> Indices:
    """``length`` samples an epoch, of source j a share ``ratios[j]``; each source goes through its own shuffled epochs
    one after the other, whatever the mixture's.

    Args:
        sources: sample numbers of every source.
        ratios: sum 1.
    """
    counts = shares(ratios, length)
    turn = np.repeat(np.arange(len(sources)), counts)
    turn = turn[rng_for(seed, epoch, "stream mixture").permutation(length)]
    order = np.empty(length, np.int64)
    for number, (indices, count) in enumerate(zip(sources, counts, strict=True)):
        if not count:
            continue
        passes = np.arange(epoch * count, (epoch + 1) * count)
        rounds, places = passes // len(indices), passes % len(indices)
        own = np.empty(count, np.int64)
        for one in np.unique(rounds):
            permuted = rng_for(seed, int(one), f"stream of source {number}").permutation(indices)
            own[rounds == one] = permuted[places[rounds == one]]
        order[turn == number] = own
    return order


def shares(ratios: Sequence[float], length: int) -> npt.NDArray[np.int64]:
    """``length`` divided by the ratios into whole numbers (largest remainders)."""
    exact = np.asarray(ratios, np.float64) * length
    counts = np.floor(exact).astype(np.int64)
    for number in np.argsort(counts - exact, kind="stable")[: length - int(counts.sum())]:
        counts[number] += 1
    return counts


def neighbours(order: Indices, shard_size: int) -> tuple[float, float]:
    """How far from uniform: the share of neighbours in ``order`` from one shard, and what it is in a uniform order."""
    shards = order // shard_size
    found = float((shards[1:] == shards[:-1]).mean()) if len(order) > 1 else 0.0
    _, counts = np.unique(shards, return_counts=True)
    n = len(order)
    expected = float((counts * (counts - 1)).sum() / (n * (n - 1))) if n > 1 else 0.0
    return found, expected


@lru_cache(maxsize=256)
def crop_corner(seed: int, epoch: int, position: int, room: tuple[int, int, int]) -> tuple[int, int, int]:
    """First voxel of a random crop, uniform among the ``room + 1`` places along each axis."""
    a, b, c = rng_for(seed, epoch * 2**40 + position, "stream crop").integers(0, np.array(room) + 1).tolist()
    return a, b, c
