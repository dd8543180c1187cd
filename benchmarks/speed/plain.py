"""The floor: warp, mixture, bias field and noise in one plain compiled loop, and nothing else.

Nearest label through a linearly interpolated grid of source positions (rotation, stretch and random displacement), a
normal value per label, a linearly interpolated gain, Gaussian noise; no person, no partial volume, no acquisition.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

STEP = 8  # voxels between nodes of displacement and bias field
NORMALS = 4096


@njit(cache=True)
def fill(
    index: Any, mean: Any, sd: Any, nodes: Any, noise: Any, normals: Any, seed: Any, label: Any, image: Any
) -> None:
    """Fill ``label`` (uint8) and ``image`` (float32) ``[D, H, W]`` from ``index`` ``[X, Y, Z]`` uint8.

    ``nodes [A, B, C, 4]`` float32 every STEP voxels: source position in voxels of ``index``, then gain. Random bits are
    a 64-bit linear congruential sequence (Knuth's MMIX constants), twelve of its high bits to a normal value.
    """
    state = np.uint64(seed)
    share = np.float32(1 / STEP)
    half = np.float32(0.5)
    row = np.empty((nodes.shape[2], 4), np.float32)
    for i in range(label.shape[0]):
        a, r = i // STEP, np.float32(i % STEP) * share
        for j in range(label.shape[1]):
            b, s = j // STEP, np.float32(j % STEP) * share
            for c in range(nodes.shape[2]):
                for n in range(4):
                    near = nodes[a, b, c, n] + s * (nodes[a, b + 1, c, n] - nodes[a, b, c, n])
                    far = nodes[a + 1, b, c, n] + s * (nodes[a + 1, b + 1, c, n] - nodes[a + 1, b, c, n])
                    row[c, n] = near + r * (far - near)
            for k in range(label.shape[2]):
                c, t = k // STEP, np.float32(k % STEP) * share
                x = int(row[c, 0] + t * (row[c + 1, 0] - row[c, 0]) + half)
                y = int(row[c, 1] + t * (row[c + 1, 1] - row[c, 1]) + half)
                z = int(row[c, 2] + t * (row[c + 1, 2] - row[c, 2]) + half)
                gain = row[c, 3] + t * (row[c + 1, 3] - row[c, 3])
                here = 0
                if 0 <= x < index.shape[0] and 0 <= y < index.shape[1] and 0 <= z < index.shape[2]:
                    here = int(index[x, y, z])
                state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
                first = normals[(state >> np.uint64(40)) & np.uint64(NORMALS - 1)]
                second = normals[(state >> np.uint64(52)) & np.uint64(NORMALS - 1)]
                label[i, j, k] = here
                image[i, j, k] = (mean[here] + sd[here] * first) * gain + noise * second


def source_nodes(rng: np.random.Generator, shape: tuple[int, int, int], source: tuple[int, ...]) -> npt.NDArray[Any]:
    """``[A, B, C, 4]`` float32: random rotation (±15°) and stretch (±15 %) about the middle, displacement (SD 3 voxels
    every 8) and gain (log SD 0.3 every 32)."""
    from scipy.ndimage import zoom
    from scipy.spatial.transform import Rotation

    sizes = [(n - 1) // STEP + 2 for n in shape]
    matrix = Rotation.from_euler("xyz", rng.uniform(-15, 15, 3), degrees=True).as_matrix() * rng.uniform(0.85, 1.15, 3)
    grid = np.stack(np.meshgrid(*(np.arange(n) * STEP for n in sizes), indexing="ij"), -1) - (np.array(shape) - 1) / 2
    place = grid @ matrix.T + (np.array(source) - 1) / 2 + rng.normal(0, 3, (*sizes, 3))
    coarse = rng.normal(0, 0.3, [max(2, n // 4 + 1) for n in sizes])
    gain = np.exp(zoom(coarse, [n / m for n, m in zip(sizes, coarse.shape, strict=True)], order=1, grid_mode=False))
    return np.concatenate([place, gain[..., None]], -1).astype(np.float32)


def plain_loop(labels: str, seed: int = 1) -> Callable[[int], Any]:
    """Maker of the row; ``labels``: .npy label map on the output grid."""
    from scipy.special import ndtri

    from synth.keys import rng_for

    values, flat = np.unique(np.load(Path(labels)), return_inverse=True)
    grid = np.load(Path(labels)).shape
    index = np.ascontiguousarray(flat.reshape(grid).astype(np.uint8))
    normals = ndtri((np.arange(NORMALS) + 0.5) / NORMALS).astype(np.float32)

    def make(i: int) -> Any:
        rng = rng_for(seed, i, "plain loop")
        mean, sd = rng.uniform(0, 1, len(values)), rng.uniform(0, 0.1, len(values))
        label, image = np.empty(grid, np.uint8), np.empty(grid, np.float32)
        nodes = source_nodes(rng, grid, grid)
        noise, start = np.float32(rng.uniform(0, 0.1)), np.uint64(rng.integers(2**63))
        fill(index, mean.astype(np.float32), sd.astype(np.float32), nodes, noise, normals, start, label, image)
        return image, label

    return make
