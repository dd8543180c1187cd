"""Random streams that depend on (seed, index) alone: counter-based Philox, never a global generator."""

from __future__ import annotations

import hashlib

import numpy as np


def rng_for(seed: int, index: int, purpose: str = "draw") -> np.random.Generator:
    """The random stream of one volume, or of any other numbered thing.

    Philox4x64 (Salmon et al. 2011, SC'11) is keyed with (seed, hash of purpose) and its counter's top word is the
    index: streams of different seeds, purposes or indices never overlap, and any one of them is found without drawing
    the others.
    """
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    key = np.array([seed % 2**64, word], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, index], dtype=np.uint64)))


def new_seed(rng: np.random.Generator) -> int:
    """A 63-bit seed that fits in JSON, to be kept in a params record and given to :func:`rng_for` by ``render``."""
    return int(rng.integers(0, 2**63 - 1))
