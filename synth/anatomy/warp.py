"""The compiled loops of anatomy: block averages, scaling and squaring. Single-threaded; bits do not depend on cores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float32]
FIRST_STEP_CELLS = 0.2


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
def compose(inner: Any, outer: Any) -> Any:
    """``inner(x) + outer(x + inner(x))``, trilinear, clamped at the border; ``[X, Y, Z, 3]`` in cells."""
    nx, ny, nz, _ = outer.shape
    out = np.empty_like(outer)
    one, zero = np.float32(1), np.float32(0)
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                x = min(max(np.float32(i) + inner[i, j, k, 0], zero), np.float32(nx - 1.001))
                y = min(max(np.float32(j) + inner[i, j, k, 1], zero), np.float32(ny - 1.001))
                z = min(max(np.float32(k) + inner[i, j, k, 2], zero), np.float32(nz - 1.001))
                a, b, c = int(x), int(y), int(z)
                u, v, w = np.float32(x - a), np.float32(y - b), np.float32(z - c)
                w00, w01, w10, w11 = (one - u) * (one - v), (one - u) * v, u * (one - v), u * v
                for axis in range(3):
                    low = w00 * outer[a, b, c, axis] + w01 * outer[a, b + 1, c, axis]
                    low += w10 * outer[a + 1, b, c, axis] + w11 * outer[a + 1, b + 1, c, axis]
                    high = w00 * outer[a, b, c + 1, axis] + w01 * outer[a, b + 1, c + 1, axis]
                    high += w10 * outer[a + 1, b, c + 1, axis] + w11 * outer[a + 1, b + 1, c + 1, axis]
                    out[i, j, k, axis] = inner[i, j, k, axis] + low * (one - w) + high * w
    return out


def integrate(velocity: Floats) -> Floats:
    """exp(velocity) - id of a stationary velocity field ``[X, Y, Z, 3]`` in cells, by scaling and squaring: as often as
    makes the first step shorter than ``FIRST_STEP_CELLS``."""
    longest = float(np.abs(velocity).max(initial=0))
    squarings = max(0, int(np.ceil(np.log2(max(longest, 1e-6) / FIRST_STEP_CELLS))))
    field: Floats = (velocity / np.float32(2**squarings)).astype(np.float32)
    for _ in range(squarings):
        field = compose(field, field)
    return field


@njit(cache=True, nogil=True)
def gradient_of(potential: Any, cell: Any) -> Any:
    """``[X, Y, Z, 3]`` gradient of a periodic ``potential [X, Y, Z]`` by central differences; ``cell``: size in mm."""
    nx, ny, nz = potential.shape
    out = np.empty((nx, ny, nz, 3), np.float32)
    a, b, c = np.float32(0.5 / cell[0]), np.float32(0.5 / cell[1]), np.float32(0.5 / cell[2])
    for i in range(nx):
        before, after = (i - 1) % nx, (i + 1) % nx
        for j in range(ny):
            below, above = (j - 1) % ny, (j + 1) % ny
            for k in range(nz):
                left, right = k - 1 if k else nz - 1, k + 1 if k < nz - 1 else 0
                out[i, j, k, 0] = a * (potential[after, j, k] - potential[before, j, k])
                out[i, j, k, 1] = b * (potential[i, above, k] - potential[i, below, k])
                out[i, j, k, 2] = c * (potential[i, j, right] - potential[i, j, left])
    return out


@njit(cache=True, nogil=True)
def jacobians(moved: Any) -> Any:
    """``[X, Y, Z]`` determinant of the Jacobian of id + ``moved [X, Y, Z, 3]`` (cells), from the edges at every cell."""
    out = np.ones(moved.shape[:3], np.float32)
    for i in range(moved.shape[0] - 1):
        for j in range(moved.shape[1] - 1):
            for k in range(moved.shape[2] - 1):
                a = moved[i, j, k]
                b, c, d = moved[i + 1, j, k], moved[i, j + 1, k], moved[i, j, k + 1]
                xx, yx, zx = np.float32(1) + b[0] - a[0], b[1] - a[1], b[2] - a[2]
                xy, yy, zy = c[0] - a[0], np.float32(1) + c[1] - a[1], c[2] - a[2]
                xz, yz, zz = d[0] - a[0], d[1] - a[1], np.float32(1) + d[2] - a[2]
                determinant = xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx)
                out[i, j, k] = determinant
    return out


@njit(cache=True, nogil=True)
def _survey_line(
    index: Any, group: Any, row: Any, step: int, start: Any, along: Any, ks: Any, weight: Any, found: Any, at: int
) -> int:
    """Samples of one line of the grid, from ``ks[0]`` to ``ks[1]`` by ``ks[2]``, put into ``found`` from position ``at``;
    see :func:`survey`. Returns the next free position."""
    where, which, weights, seen = found
    part = np.float32(1) / np.float32(step)
    for k in range(ks[0], ks[1], ks[2]):
        p, m, n = int(start[0] + along[0] * k), int(start[1] + along[1] * k), int(start[2] + along[2] * k)
        if not (0 <= p < seen.shape[0] and 0 <= m < seen.shape[1] and 0 <= n < seen.shape[2]):
            continue
        seen[p, m, n] += weight
        c, t = k // step, np.float32(k % step) * part
        x = row[c, 0] + t * (row[c + 1, 0] - row[c, 0])
        y = row[c, 1] + t * (row[c + 1, 1] - row[c, 1])
        z = row[c, 2] + t * (row[c + 1, 2] - row[c, 2])
        if 0 <= x < index.shape[0] and 0 <= y < index.shape[1] and 0 <= z < index.shape[2]:
            structure = group[index[int(x), int(y), int(z)]]
            if structure >= 0:
                where[at] = (p * seen.shape[1] + m) * seen.shape[2] + n
                which[at] = structure
                weights[at] = weight
                at += 1
    return at


@njit(cache=True, nogil=True)
def survey(
    index: Any, group: Any, nodes: Any, step: int, frame: Any, stride: int, shape: Any, inner: Any, found: Any
) -> int:
    """Look, on every ``stride``-th voxel of a grid that reads an anatomy through nodes, at what it would show.

    Args:
        index: ``[X, Y, Z]`` uint8 label positions; ``group``: label position → structure, or -1.
        nodes: ``[A, B, C, ≥3]`` anatomy voxel read at every ``step``-th voxel of the grid; linear in between.
        frame: 3×4 float32, voxel of the grid → cell in which the displacement is given, before anything moved.
        shape: voxels of the grid.
        inner: ``[3, 2]`` first and last voxel + 1, by axis, of a box in which every voxel is looked at.
        found: filled with cell (flat) ``[N]`` int32, structure ``[N]`` int16 and voxels stood for ``[N]`` float32 of every
            sample, and with the voxels looked at in every cell ``[cells…]`` float32 (zeros when given).

    Returns:
        How many samples lie in a structure.
    """
    part, half, one = np.float32(1) / np.float32(step), np.float32(0.5), np.float32(1)
    row, start = np.empty((nodes.shape[2], 3), np.float32), np.empty(3, np.float32)
    sparse = np.float32(stride**3)
    along = frame[:, 2].copy()
    at = 0
    for i in range(shape[0]):
        inside_i, taken_i = inner[0, 0] <= i < inner[0, 1], i % stride == 0
        a, r = i // step, np.float32(i % step) * part
        for j in range(shape[1]):
            inside, taken = inside_i and inner[1, 0] <= j < inner[1, 1], taken_i and j % stride == 0
            if not (inside or taken):
                continue
            b, s = j // step, np.float32(j % step) * part
            for c in range(row.shape[0]):
                for axis in range(3):
                    near = nodes[a, b, c, axis] + s * (nodes[a, b + 1, c, axis] - nodes[a, b, c, axis])
                    far = nodes[a + 1, b, c, axis] + s * (nodes[a + 1, b + 1, c, axis] - nodes[a + 1, b, c, axis])
                    row[c, axis] = near + r * (far - near) + half
            for axis in range(3):
                start[axis] = frame[axis, 0] * i + frame[axis, 1] * j + frame[axis, 3] + half
            first = (i // stride + j // stride) % 2 * (stride // 2)
            if inside:
                line = (inner[2, 0], inner[2, 1], 1)
                at = _survey_line(index, group, row, step, start, along, line, one, found, at)
            if taken:
                line = (first, inner[2, 0] if inside else shape[2], stride)
                at = _survey_line(index, group, row, step, start, along, line, sparse, found, at)
            if taken and inside:
                after = first + -(-(inner[2, 1] - first) // stride) * stride
                line = (after, shape[2], stride)
                at = _survey_line(index, group, row, step, start, along, line, sparse, found, at)
    return at


@njit(cache=True, nogil=True)
def spread(where: Any, which: Any, weights: Any, seen: Any, strength: Any, still: Any, growing: Any) -> Any:
    """``[cells…]`` sum of the sources, each spread over the samples of its structure (see :func:`survey`).

    Args:
        strength: ``[S]`` float32.
        still: ``[cells…]`` share, 0 to 1, of the source of a ``growing [S]`` structure that a cell takes.
    """
    out = np.zeros(seen.shape, np.float32)
    flat, of_cell, taken = out.reshape(-1), seen.reshape(-1), still.reshape(-1)
    for n in range(where.shape[0]):
        cell, structure = where[n], which[n]
        part = weights[n] / of_cell[cell]
        if growing[structure]:
            part *= taken[cell]
        flat[cell] += strength[structure] * part
    return out


@njit(cache=True, nogil=True)
def voxels_of(where: Any, which: Any, weights: Any, still: Any, count: int) -> Any:
    """``[S, 2]`` voxels per structure (see :func:`survey`), and those of them that ``still [cells…]`` leaves."""
    totals, taken = np.zeros((count, 2)), still.reshape(-1)
    for n in range(where.shape[0]):
        totals[which[n], 0] += weights[n]
        totals[which[n], 1] += weights[n] * taken[where[n]]
    return totals


def spline_field(rng: np.random.Generator, counts: Sequence[int], knots: Sequence[int], channels: int = 1) -> Floats:
    """``[*counts, channels]`` smooth random field of about unit variance: normal knots, a cubic B-spline between them."""
    field = rng.standard_normal((*(n + 2 for n in knots), channels), dtype=np.float32)
    for axis, (count, n) in enumerate(zip(counts, knots, strict=True)):
        field = np.moveaxis(np.tensordot(spline_weights(count, n), field, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(field)


def spline_weights(count: int, knots: int) -> Floats:
    """``[count, knots + 2]`` cubic B-spline weights, scaled so that independent unit knots give about unit variance."""
    at = np.linspace(0, knots - 1, count)[:, None] - np.arange(-1, knots + 1)[None]
    far = np.abs(at)
    weights = np.where(far < 1, 2 / 3 - far**2 + far**3 / 2, np.maximum(2 - far, 0) ** 3 / 6)
    return (weights / np.sqrt((weights**2).sum(1).mean())).astype(np.float32)
