"""The compiled loops of anatomy: block averages, scaling and squaring. Single-threaded; bits do not depend on cores."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float32]


@njit(cache=True, nogil=True)
def block_mean(index: Any, values: Any, low: Any, step: Any, shape: Any) -> Any:
    """Mean of ``values[index]`` over blocks of ``step`` voxels from ``low``; outside the array ``values[0]`` counts."""
    out = np.empty(shape, np.float32)
    share = np.float32(1.0 / (step[0] * step[1] * step[2]))
    for i in range(shape[0]):
        for j in range(shape[1]):
            for k in range(shape[2]):
                total = np.float32(0.0)
                for a in range(low[0] + i * step[0], low[0] + (i + 1) * step[0]):
                    for b in range(low[1] + j * step[1], low[1] + (j + 1) * step[1]):
                        for c in range(low[2] + k * step[2], low[2] + (k + 1) * step[2]):
                            inside = (
                                (0 <= a < index.shape[0]) and (0 <= b < index.shape[1]) and (0 <= c < index.shape[2])
                            )
                            total += values[index[a, b, c]] if inside else values[0]
                out[i, j, k] = total * share
    return out


@njit(cache=True, nogil=True)
def _compose(field: Any, out: Any) -> None:
    """out(x) = field(x) + field(x + field(x)), trilinear, clamped at the border; all in cells."""
    _, nx, ny, nz = field.shape
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                x = min(max(i + field[0, i, j, k], np.float32(0)), np.float32(nx - 1.001))
                y = min(max(j + field[1, i, j, k], np.float32(0)), np.float32(ny - 1.001))
                z = min(max(k + field[2, i, j, k], np.float32(0)), np.float32(nz - 1.001))
                a, b, c = int(x), int(y), int(z)
                u, v, w = np.float32(x - a), np.float32(y - b), np.float32(z - c)
                for axis in range(3):
                    f = field[axis]
                    low = (f[a, b, c] * (1 - u) + f[a + 1, b, c] * u) * (1 - v) + (
                        f[a, b + 1, c] * (1 - u) + f[a + 1, b + 1, c] * u
                    ) * v
                    high = (f[a, b, c + 1] * (1 - u) + f[a + 1, b, c + 1] * u) * (1 - v) + (
                        f[a, b + 1, c + 1] * (1 - u) + f[a + 1, b + 1, c + 1] * u
                    ) * v
                    out[axis, i, j, k] = f[i, j, k] + low * (1 - w) + high * w


def integrate(velocity: Floats, squarings: int) -> Floats:
    """exp(velocity) - id of a stationary velocity field ``[3, X, Y, Z]`` in cells, by scaling and squaring."""
    field = (velocity / np.float32(2**squarings)).astype(np.float32)
    other = np.empty_like(field)
    for _ in range(squarings):
        _compose(field, other)
        field, other = other, field
    return field
