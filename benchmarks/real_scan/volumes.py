"""Training volumes, rendered on the fly in background threads: volume ``step`` is a function of (seed, step) alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.real_scan.classes import class_map
from synth.errors import UserError
from synth.generator import Generator
from synth.keys import rng_for

AHEAD = 4  # volumes rendered before they are asked for
DARK, BRIGHT = 0.5, 99.5  # percentiles that become 0 and 1

Volume = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]


def normalise(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """``[D, H, W]`` with its 0.5 and 99.5 percentiles at 0 and 1, clipped: synthetic and real images alike."""
    low, high = np.percentile(image[::2, ::2, ::2], [DARK, BRIGHT])
    return np.clip((image - low) / max(float(high - low), 1e-6), 0, 1).astype(np.float32)


def patch_of(volume: Volume, shape: Sequence[int], rng: np.random.Generator) -> Volume:
    """A box of ``shape`` voxels out of a volume and its classes, anywhere in it with the same probability."""
    corner = [int(rng.integers(0, whole - part + 1)) for whole, part in zip(volume[0].shape, shape, strict=True)]
    box = tuple(slice(low, low + part) for low, part in zip(corner, shape, strict=True))
    return np.ascontiguousarray(volume[0][box]), np.ascontiguousarray(volume[1][box])


def lookup_of(generators: Sequence[Generator]) -> npt.NDArray[np.uint8]:
    """Label number → class, for every label of the generators. Raises UserError when one of them has no labels."""
    numbers: set[int] = set()
    for generator in generators:
        labels = getattr(generator, "labels", None)
        if labels is None:
            raise UserError(
                f"real_scan needs a generator with labels, was given {type(generator).__name__}; use LabelMap"
            )
        numbers |= set(labels())
    return class_map(numbers)


class Volumes:
    """``volumes[step]`` → image ``[D, H, W]`` normalised, class numbers ``[D, H, W]``; the next ones are on their way.

    Args:
        generators: one of them, drawn evenly, renders each volume.
        seed: of everything.
        workers: threads that render; 0 renders when asked. Compiled loops let other threads run meanwhile.
    """

    def __init__(self, generators: Sequence[Generator], seed: int, workers: int = 1) -> None:
        self.generators, self.seed = generators, seed
        self.lookup = lookup_of(generators)
        self.pool = ThreadPoolExecutor(workers, "render") if workers else None
        self.waiting: dict[int, Future[Volume]] = {}

    def make(self, step: int) -> Volume:
        """Draw and render volume ``step``."""
        rng = rng_for(self.seed, step, "real_scan")
        generator = self.generators[int(rng.integers(len(self.generators)))]
        sample = generator.render(generator.draw(rng))
        if sample.label is None:
            raise UserError(
                f"{type(generator).__name__} made a volume without a label map; real_scan learns from labels"
            )
        return normalise(sample.image[0]), self.lookup[sample.label]

    def __getitem__(self, step: int) -> Volume:
        """Volume ``step``, waited for if need be; the ones after it are asked for."""
        if self.pool is None:
            return self.make(step)
        for one in range(step, step + 1 + AHEAD):
            if one not in self.waiting:
                self.waiting[one] = self.pool.submit(self.make, one)
        return self.waiting.pop(step).result()

    def close(self) -> None:
        """Let the volumes nobody will ask for go."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
