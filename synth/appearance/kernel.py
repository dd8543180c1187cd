"""The compiled loop from label map to image: one pass that warps, averages partial volume and labels every voxel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _displaced(u: Any, x: Any, y: Any, z: Any, low: Any, step: Any) -> Any:
    """Source position of anatomy voxel (x, y, z): itself plus the displacement there, trilinear, clamped."""
    one = np.float32(1)
    a = (x - low[0]) / step[0]
    b = (y - low[1]) / step[1]
    c = (z - low[2]) / step[2]
    a = min(max(a, np.float32(0)), np.float32(u.shape[0] - 1.001))
    b = min(max(b, np.float32(0)), np.float32(u.shape[1] - 1.001))
    c = min(max(c, np.float32(0)), np.float32(u.shape[2] - 1.001))
    i, j, k = int(a), int(b), int(c)
    r, s, t = np.float32(a - i), np.float32(b - j), np.float32(c - k)
    w000 = (one - r) * (one - s) * (one - t)
    w001 = (one - r) * (one - s) * t
    w010 = (one - r) * s * (one - t)
    w011 = (one - r) * s * t
    w100 = r * (one - s) * (one - t)
    w101 = r * (one - s) * t
    w110 = r * s * (one - t)
    w111 = r * s * t
    dx = u[i, j, k, 0] * w000 + u[i, j, k + 1, 0] * w001 + u[i, j + 1, k, 0] * w010 + u[i, j + 1, k + 1, 0] * w011
    dx += (
        u[i + 1, j, k, 0] * w100
        + u[i + 1, j, k + 1, 0] * w101
        + u[i + 1, j + 1, k, 0] * w110
        + u[i + 1, j + 1, k + 1, 0] * w111
    )
    dy = u[i, j, k, 1] * w000 + u[i, j, k + 1, 1] * w001 + u[i, j + 1, k, 1] * w010 + u[i, j + 1, k + 1, 1] * w011
    dy += (
        u[i + 1, j, k, 1] * w100
        + u[i + 1, j, k + 1, 1] * w101
        + u[i + 1, j + 1, k, 1] * w110
        + u[i + 1, j + 1, k + 1, 1] * w111
    )
    dz = u[i, j, k, 2] * w000 + u[i, j, k + 1, 2] * w001 + u[i, j + 1, k, 2] * w010 + u[i, j + 1, k + 1, 2] * w011
    dz += (
        u[i + 1, j, k, 2] * w100
        + u[i + 1, j, k + 1, 2] * w101
        + u[i + 1, j + 1, k, 2] * w110
        + u[i + 1, j + 1, k + 1, 2] * w111
    )
    return x + dx, y + dy, z + dz


@njit(cache=True, nogil=True)
def _lookup(index: Any, x: Any, y: Any, z: Any) -> Any:
    """Label position nearest to (x, y, z), 0 outside the map."""
    i = int(np.floor(x + np.float32(0.5)))
    j = int(np.floor(y + np.float32(0.5)))
    k = int(np.floor(z + np.float32(0.5)))
    if 0 <= i < index.shape[0] and 0 <= j < index.shape[1] and 0 <= k < index.shape[2]:
        return index[i, j, k]
    return np.uint8(0)


@njit(cache=True, nogil=True)
def source_positions(matrix: Any, u: Any, low: Any, step: Any, out: Any) -> None:
    """Fill ``out [D, H, W, 3]`` with the anatomy voxel every output voxel reads from.

    Args:
        matrix: 3×4 float32, output voxel → anatomy voxel.
        u: ``[X, Y, Z, 3]`` float32 pull-back displacement in anatomy voxels on the velocity grid.
        low, step: centre of cell 0 in anatomy voxels and voxels a cell, float32 triples.
    """
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                fi, fj, fk = np.float32(i), np.float32(j), np.float32(k)
                x = matrix[0, 0] * fi + matrix[0, 1] * fj + matrix[0, 2] * fk + matrix[0, 3]
                y = matrix[1, 0] * fi + matrix[1, 1] * fj + matrix[1, 2] * fk + matrix[1, 3]
                z = matrix[2, 0] * fi + matrix[2, 1] * fj + matrix[2, 2] * fk + matrix[2, 3]
                out[i, j, k, 0], out[i, j, k, 1], out[i, j, k, 2] = _displaced(u, x, y, z, low, step)


@njit(cache=True, nogil=True)
def _slope(source: Any, i: Any, j: Any, k: Any, axis: Any, xyz: Any) -> Any:
    """Change of one source coordinate per output voxel along ``axis``: central difference, one-sided at the border."""
    n = source.shape[axis]
    at = (i, j, k)[axis]
    before, after = max(at - 1, 0), min(at + 1, n - 1)
    width = np.float32(after - before)
    if axis == 0:
        return (source[after, j, k, xyz] - source[before, j, k, xyz]) / width
    if axis == 1:
        return (source[i, after, k, xyz] - source[i, before, k, xyz]) / width
    return (source[i, j, after, xyz] - source[i, j, before, xyz]) / width


@njit(cache=True, nogil=True)
def render_labels(index: Any, mean: Any, sd: Any, source: Any, parts: int, label: Any, image: Any, spread: Any) -> None:
    """Fill ``label``, ``image`` and ``spread`` ``[D, H, W]`` in one pass.

    Args:
        index: anatomy, label positions, uint8.
        mean, sd: per label position, float32.
        source: from :func:`source_positions`; between voxel centres the warp is taken as linear.
        parts: each voxel is the average of ``parts``³ points (partial volume); its label is read at its middle.
    """
    share = np.float32(1.0 / parts**3)
    slopes = np.empty((3, 3), np.float32)
    for i in range(label.shape[0]):
        for j in range(label.shape[1]):
            for k in range(label.shape[2]):
                x, y, z = source[i, j, k, 0], source[i, j, k, 1], source[i, j, k, 2]
                here = _lookup(index, x, y, z)
                label[i, j, k] = here
                if parts == 1:
                    image[i, j, k] = mean[here]
                    spread[i, j, k] = sd[here]
                    continue
                for axis in range(3):
                    for xyz in range(3):
                        slopes[axis, xyz] = _slope(source, i, j, k, axis, xyz)
                total, wide = np.float32(0), np.float32(0)
                for a in range(parts):
                    oi = np.float32((a + 0.5) / parts - 0.5)
                    for b in range(parts):
                        oj = np.float32((b + 0.5) / parts - 0.5)
                        for c in range(parts):
                            ok = np.float32((c + 0.5) / parts - 0.5)
                            px = x + slopes[0, 0] * oi + slopes[1, 0] * oj + slopes[2, 0] * ok
                            py = y + slopes[0, 1] * oi + slopes[1, 1] * oj + slopes[2, 1] * ok
                            pz = z + slopes[0, 2] * oi + slopes[1, 2] * oj + slopes[2, 2] * ok
                            at = _lookup(index, px, py, pz)
                            total += mean[at]
                            wide += sd[at]
                image[i, j, k] = total * share
                spread[i, j, k] = wide * share
