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
    """out(x) = field(x) + field(x + field(x)), trilinear, clamped at the border; ``[X, Y, Z, 3]`` in cells."""
    nx, ny, nz, _ = field.shape
    one, zero = np.float32(1), np.float32(0)
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                x = min(max(np.float32(i) + field[i, j, k, 0], zero), np.float32(nx - 1.001))
                y = min(max(np.float32(j) + field[i, j, k, 1], zero), np.float32(ny - 1.001))
                z = min(max(np.float32(k) + field[i, j, k, 2], zero), np.float32(nz - 1.001))
                a, b, c = int(x), int(y), int(z)
                u, v, w = np.float32(x - a), np.float32(y - b), np.float32(z - c)
                w00, w01, w10, w11 = (one - u) * (one - v), (one - u) * v, u * (one - v), u * v
                for axis in range(3):
                    low = w00 * field[a, b, c, axis] + w01 * field[a, b + 1, c, axis]
                    low += w10 * field[a + 1, b, c, axis] + w11 * field[a + 1, b + 1, c, axis]
                    high = w00 * field[a, b, c + 1, axis] + w01 * field[a, b + 1, c + 1, axis]
                    high += w10 * field[a + 1, b, c + 1, axis] + w11 * field[a + 1, b + 1, c + 1, axis]
                    out[i, j, k, axis] = field[i, j, k, axis] + low * (one - w) + high * w


def integrate(velocity: Floats, squarings: int) -> Floats:
    """exp(velocity) - id of a stationary velocity field ``[X, Y, Z, 3]`` in cells, by scaling and squaring."""
    field = (velocity / np.float32(2**squarings)).astype(np.float32)
    other = np.empty_like(field)
    for _ in range(squarings):
        _compose(field, other)
        field, other = other, field
    return field


@njit(cache=True, nogil=True)
def mean_jacobian(moved: Any, members: Any, count: int) -> Any:
    """Mean determinant of the Jacobian of id + ``moved [X, Y, Z, 3]`` (cells) over the cells of each group.

    Args:
        members: ``[X, Y, Z]`` int16 group of each cell, or -1.
        count: number of groups. Empty groups get 1.
    """
    total, cells = np.zeros(count), np.zeros(count)
    nx, ny, nz, _ = moved.shape
    for i in range(1, nx - 1):
        for j in range(1, ny - 1):
            for k in range(1, nz - 1):
                group = members[i, j, k]
                if group < 0:
                    continue
                m = np.empty((3, 3))
                for axis in range(3):
                    m[axis, 0] = 0.5 * (moved[i + 1, j, k, axis] - moved[i - 1, j, k, axis])
                    m[axis, 1] = 0.5 * (moved[i, j + 1, k, axis] - moved[i, j - 1, k, axis])
                    m[axis, 2] = 0.5 * (moved[i, j, k + 1, axis] - moved[i, j, k - 1, axis])
                    m[axis, axis] += 1.0
                total[group] += (
                    m[0, 0] * (m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1])
                    - m[0, 1] * (m[1, 0] * m[2, 2] - m[1, 2] * m[2, 0])
                    + m[0, 2] * (m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0])
                )
                cells[group] += 1
    for group in range(count):
        total[group] = total[group] / cells[group] if cells[group] else 1.0
    return total
