"""A generator that repeats volumes made beforehand: corpora of it cost their writing and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from synth.generator import Generator, Params
from synth.sample import Sample, centred_affine


class Repeated(Generator):
    """Volumes of a folder, again and again: sample i is the i-th of them, counted around.

    Args:
        folder: holds images.npy ``[n, C, D, H, W]`` and, if there are label maps, labels.npy ``[n, D, H, W]``.
    """

    def __init__(self, folder: Path) -> None:
        self.images = np.load(folder / "images.npy")
        self.maps = np.load(folder / "labels.npy") if (folder / "labels.npy").exists() else None

    def draw(self, rng: np.random.Generator) -> Params:
        return {"volume": int(rng.integers(len(self.images)))}

    def draw_at(self, index: int, rng: np.random.Generator) -> Params:
        return {"volume": index % len(self.images)}

    def render(self, params: Params) -> Sample:
        image = self.images[params["volume"]]
        label: Any = None if self.maps is None else self.maps[params["volume"]]
        return Sample(image, label, {}, centred_affine(image.shape[1:], (1.0, 1.0, 1.0)))
