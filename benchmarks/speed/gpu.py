"""Rows on a GPU: batches of LabelMap volumes rendered by the torch twin of the compiled loops."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.timing import Shape

COPY_BYTES = 2**30  # of the copy that the memory bandwidth is measured with
LABEL_BYTES, IMAGE_BYTES = 2, 4  # written for every voxel: int16 and float32


def available() -> bool:
    """Whether the twin is there and torch sees a GPU."""
    import importlib.util

    if importlib.util.find_spec("synth.appearance.twin") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


class Rendering:
    """Maker of a GPU row: ``self(i)`` draws the i-th batch on the CPU and renders it on the GPU, to the end.

    Args:
        anatomies: label map; the built-in one if None.
        shape: voxels of a volume.
        batch: volumes at once.
    """

    def __init__(self, anatomies: str | None, shape: Shape, batch: int = 8) -> None:
        from synth.labelmap import LabelMap

        place = None if anatomies is None else Path(anatomies)
        grid = (shape[0], shape[1], shape[2])
        self.generator = LabelMap(grid, 1.0, place, contrast="random", deformation="strong")
        self.volumes_per_call, self.voxels = batch, int(np.prod(shape))
        self.rendering_s: list[float] = []

    def __call__(self, i: int) -> Any:
        import torch

        from synth.appearance.twin import render_on
        from synth.keys import rng_for

        params = [self.generator.draw(rng_for(1, i * self.volumes_per_call + n)) for n in range(self.volumes_per_call)]
        started = time.perf_counter()
        made = render_on(self.generator, params, torch.device("cuda"))
        torch.cuda.synchronize()
        self.rendering_s.append(time.perf_counter() - started)
        return made

    def extras(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Volumes a second of the rendering alone, GPU memory, and the share of the GPU's measured bandwidth.

        The bytes counted are the least there are: the label map read once a volume, image and labels written once.
        """
        import torch

        from synth.anatomy.source import load_anatomy

        seconds = float(np.median(self.rendering_s[-outcome["repeats"] :])) / self.volumes_per_call
        peak = torch.cuda.max_memory_allocated() / 1e6
        touched = load_anatomy(self.generator.paths[0]).index.nbytes + self.voxels * (LABEL_BYTES + IMAGE_BYTES)
        copy = copy_bandwidth()
        return {
            "gpu": torch.cuda.get_device_name(),
            "batch": self.volumes_per_call,
            "rendering_ms": 1000 * seconds,
            "rendering_volumes_per_second": 1 / seconds,
            "gpu_peak_mb": round(peak, 1),
            "bytes_touched": touched,
            "copy_gb_per_second": copy / 1e9,
            "bandwidth_share": touched / seconds / copy,
        }


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy of 1 GiB within the GPU; best of ten."""
    import torch

    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        started = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * COPY_BYTES / best
