"""The compiled loops from label map to image. Single-threaded; bits do not depend on cores, order or what else runs.

Random numbers are a hash of (seed, voxel), never a stream: the GPU twin (``twin.py``) draws the same ones.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float32]

TABLE_BITS = 12
CHANNELS = 5  # of a node: source x, y, z (anatomy voxels), gain of the bias field, coarse texture
GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@cache
def normal_table() -> Floats:
    """4,096 equally likely standard normal values (quantiles at the middles of equal steps), scaled to variance 1.

    Twelve random bits choose one: a normal number for the price of a look-up; none lies beyond 3.7 SD.
    """
    from scipy.special import ndtri

    n = 2**TABLE_BITS
    values = ndtri((np.arange(n) + 0.5) / n)
    return (values / values.std()).astype(np.float32)


@njit(cache=True, nogil=True)
def _hash(counter: Any) -> Any:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014): 64 well mixed bits of a counter."""
    z = counter * np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_2)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def _mix(rows: Any, out: Any, r: Any) -> None:
    """out = (1 - r)·rows[0] + r·rows[1], flat."""
    for n in range(out.shape[0]):
        out[n] = rows[0, n] + r * (rows[1, n] - rows[0, n])


@njit(cache=True, nogil=True)
def _expand(nodes: Any, step: Any, line: Any) -> None:
    """Linear interpolation of one row of nodes ``[C, CHANNELS]`` to every voxel: ``line [CHANNELS, W]``."""
    share = np.float32(1) / np.float32(step)
    for c in range(nodes.shape[0] - 1):
        first = c * step
        last = min(first + step, line.shape[1])
        for channel in range(CHANNELS):
            value = nodes[c, channel]
            slope = (nodes[c + 1, channel] - value) * share
            for k in range(first, last):
                line[channel, k] = value + slope * np.float32(k - first)


@njit(cache=True, nogil=True)
def _lookup(index: Any, x: Any, y: Any, z: Any) -> Any:
    """Label position nearest to (x, y, z); ``index`` has a border of background, in which everything outside ends."""
    i = min(max(int(x + np.float32(1.5)), 0), index.shape[0] - 1)
    j = min(max(int(y + np.float32(1.5)), 0), index.shape[1] - 1)
    k = min(max(int(z + np.float32(1.5)), 0), index.shape[2] - 1)
    return index[i, j, k]


@njit(cache=True, nogil=True)
def render_labels(
    index: Any,
    mean: Any,
    sd: Any,
    numbers: Any,
    nodes: Any,
    step: int,
    points: Any,
    grain: Any,
    seed: Any,
    table: Any,
    label: Any,
    image: Any,
    counts: Any,
) -> None:
    """Fill ``label`` and ``image`` ``[D, H, W]`` in one pass: warp, tissue contrast, partial volume, texture, bias.

    Args:
        index: ``[X + 2, Y + 2, Z + 2]`` uint8 label positions of the anatomy in a border of background.
        mean, sd: per label position, float32; ``numbers``: the label number written for it, int16.
        nodes: ``[A, B, C, CHANNELS]`` float32, every ``step`` output voxels along each axis; linear in between.
        points: ``[P, 3]`` float32 anatomy-voxel offsets that a voxel's intensity is averaged over; its label is read
            at its middle.
        grain: shares of fine (white) and coarse (node) texture in ``sd``; their squares sum to 1.
        seed: uint64; the texture of voxel n is a hash of seed + n // 5.
        table: :func:`normal_table`.
        counts: ``[L]`` int64, filled with the voxels of every label position.
    """
    d, h, w = label.shape
    rows, width = nodes.shape[1], nodes.shape[2]
    slab = np.empty((rows, width, CHANNELS), np.float32)
    row = np.empty((width, CHANNELS), np.float32)
    line = np.empty((CHANNELS, w), np.float32)
    mask = np.uint64(2**TABLE_BITS - 1)
    share = np.float32(1) / np.float32(points.shape[0])
    one_point = points.shape[0] == 1
    fine, coarse = np.float32(grain[0]), np.float32(grain[1])
    for i in range(d):
        a, r = i // step, np.float32(i % step) / np.float32(step)
        _mix(nodes[a : a + 2].reshape(2, -1), slab.reshape(-1), r)
        for j in range(h):
            b, s = j // step, np.float32(j % step) / np.float32(step)
            _mix(slab[b : b + 2].reshape(2, -1), row.reshape(-1), s)
            _expand(row, step, line)
            counter = seed + np.uint64((i * h + j) * ((w + 4) // 5))
            bits = np.uint64(0)
            left = 0
            for k in range(w):
                x, y, z = line[0, k], line[1, k], line[2, k]
                here = _lookup(index, x, y, z)
                label[i, j, k] = numbers[here]
                counts[here] += 1
                if left == 0:
                    bits = _hash(counter)
                    counter += np.uint64(1)
                    left = 5
                texture = fine * table[bits & mask] + coarse * line[4, k]
                bits >>= np.uint64(TABLE_BITS)
                left -= 1
                if one_point:
                    value = mean[here] + sd[here] * texture
                else:
                    value, wide = np.float32(0), np.float32(0)
                    for p in range(points.shape[0]):
                        at = _lookup(index, x + points[p, 0], y + points[p, 1], z + points[p, 2])
                        value += mean[at]
                        wide += sd[at]
                    value = (value + wide * texture) * share
                image[i, j, k] = max(value, np.float32(0)) * line[3, k]


@njit(cache=True, nogil=True)
def fill_nodes(matrix: Any, u: Any, low: Any, cell: Any, step: int, out: Any) -> None:
    """Fill the first three channels of ``out [A, B, C, CHANNELS]``: the anatomy voxel that every node reads from.

    Args:
        matrix: 3×4 float32, output voxel → anatomy voxel.
        u: ``[X, Y, Z, 3]`` float32 pull-back displacement in anatomy voxels on the velocity grid, clamped outside.
        low, cell: centre of cell 0 in anatomy voxels and voxels a cell, float32 triples.
        step: output voxels between nodes.
    """
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                fi, fj, fk = np.float32(i * step), np.float32(j * step), np.float32(k * step)
                x = matrix[0, 0] * fi + matrix[0, 1] * fj + matrix[0, 2] * fk + matrix[0, 3]
                y = matrix[1, 0] * fi + matrix[1, 1] * fj + matrix[1, 2] * fk + matrix[1, 3]
                z = matrix[2, 0] * fi + matrix[2, 1] * fj + matrix[2, 2] * fk + matrix[2, 3]
                a = min(max((x - low[0]) / cell[0], np.float32(0)), np.float32(u.shape[0] - 1.001))
                b = min(max((y - low[1]) / cell[1], np.float32(0)), np.float32(u.shape[1] - 1.001))
                c = min(max((z - low[2]) / cell[2], np.float32(0)), np.float32(u.shape[2] - 1.001))
                p, m, n = int(a), int(b), int(c)
                r, s, t = np.float32(a - p), np.float32(b - m), np.float32(c - n)
                for axis in range(3):
                    near = u[p, m, n, axis] + t * (u[p, m, n + 1, axis] - u[p, m, n, axis])
                    side = u[p, m + 1, n, axis] + t * (u[p, m + 1, n + 1, axis] - u[p, m + 1, n, axis])
                    near += s * (side - near)
                    far = u[p + 1, m, n, axis] + t * (u[p + 1, m, n + 1, axis] - u[p + 1, m, n, axis])
                    side = u[p + 1, m + 1, n, axis] + t * (u[p + 1, m + 1, n + 1, axis] - u[p + 1, m + 1, n, axis])
                    far += s * (side - far)
                    out[i, j, k, axis] = (x, y, z)[axis] + near + r * (far - near)


@njit(cache=True, nogil=True)
def blur_planes(image: Any, along_h: Any, along_w: Any) -> None:
    """Symmetric filters along H and W of ``image [D, H, W]``, in place; edges repeat. Taps: middle first, float32."""
    d, h, w = image.shape
    p, q = along_h.shape[0] - 1, along_w.shape[0] - 1
    padded = np.empty(w + 2 * q, np.float32)
    plane = np.empty((h + 2 * p, w), np.float32)
    for i in range(d):
        for j in range(h):
            for k in range(q):
                padded[k] = image[i, j, 0]
                padded[w + q + k] = image[i, j, w - 1]
            padded[q : q + w] = image[i, j]
            for k in range(w):
                plane[j + p, k] = along_w[0] * padded[k + q]
            for t in range(1, q + 1):
                for k in range(w):
                    plane[j + p, k] += along_w[t] * (padded[k + q - t] + padded[k + q + t])
        for j in range(p):
            plane[j] = plane[p]
            plane[h + p + j] = plane[h + p - 1]
        for j in range(h):
            for k in range(w):
                image[i, j, k] = along_h[0] * plane[j + p, k]
            for t in range(1, p + 1):
                for k in range(w):
                    image[i, j, k] += along_h[t] * (plane[j + p - t, k] + plane[j + p + t, k])


@njit(cache=True, nogil=True)
def blur_depth(image: Any, along_d: Any) -> None:
    """Symmetric filter along D of ``image [D, H, W]``, in place; edges repeat. Taps: middle first, float32."""
    d, h, w = image.shape
    p = along_d.shape[0] - 1
    flat = image.reshape(d, h * w)
    block = 2048  # a column of this width stays in the second-level cache
    columns = np.empty((d + 2 * p, block), np.float32)
    for start in range(0, h * w, block):
        n = min(block, h * w - start)
        for i in range(d):
            columns[i + p, :n] = flat[i, start : start + n]
        for i in range(p):
            columns[i, :n] = columns[p, :n]
            columns[d + p + i, :n] = columns[d + p - 1, :n]
        for i in range(d):
            out = flat[i, start : start + n]
            for k in range(n):
                out[k] = along_d[0] * columns[i + p, k]
            for t in range(1, p + 1):
                for k in range(n):
                    out[k] += along_d[t] * (columns[i + p - t, k] + columns[i + p + t, k])


@njit(cache=True, nogil=True)
def add_noise(image: Any, gaussian: Any, rician: Any, seed: Any, table: Any) -> None:
    """Noise of SD ``gaussian`` is added, then the magnitude of a complex signal with SD ``rician`` taken; in place.

    ``image`` is any contiguous float32 array; voxel n takes 12-bit fields of the hash of seed + n // 2 when both are
    asked for or only Rician (two normals a voxel), of seed + n // 5 when only Gaussian.
    """
    flat = image.reshape(-1)
    mask, shift = np.uint64(2**TABLE_BITS - 1), np.uint64(TABLE_BITS)
    if rician > 0:
        for pair in range((flat.shape[0] + 1) // 2):
            bits = _hash(seed + np.uint64(pair))
            for n in range(2 * pair, min(2 * pair + 2, flat.shape[0])):
                real = flat[n] + rician * table[bits & mask]
                bits >>= shift
                imaginary = rician * table[bits & mask]
                bits >>= shift
                flat[n] = np.sqrt(real * real + imaginary * imaginary)
    if gaussian > 0:
        other = seed ^ np.uint64(GOLDEN)
        for five in range((flat.shape[0] + 4) // 5):
            bits = _hash(other + np.uint64(five))
            for n in range(5 * five, min(5 * five + 5, flat.shape[0])):
                flat[n] = max(flat[n] + gaussian * table[bits & mask], np.float32(0))
                bits >>= shift


@njit(cache=True, nogil=True)
def apply_tone(image: Any, scale: Any, curve: Any, levels: int) -> None:
    """image × scale, cut to 0…the curve's end, through the curve (linear between its points), to ``levels``; in place.

    Args:
        curve: ``[N]`` float32, output at equal steps of the input from 0 to (N - 1) / 1024.
        levels: intensity steps between 0 and 1, or 0 for none.
    """
    flat = image.reshape(-1)
    end = np.float32(curve.shape[0] - 1.001)
    steps = np.float32(levels)
    for n in range(flat.shape[0]):
        at = min(max(flat[n] * scale * np.float32(1024), np.float32(0)), end)
        cell = int(at)
        value = curve[cell] + (at - np.float32(cell)) * (curve[cell + 1] - curve[cell])
        if levels > 0:
            value = np.float32(int(value * steps + np.float32(0.5))) / steps
        flat[n] = value


@njit(cache=True, nogil=True)
def resample_axis(image: Any, starts: Any, weights: Any, out: Any) -> None:
    """out[a, m, c] = Σ_t weights[m, t] · image[a, starts[m] + t, c] for ``image [A, N, C]`` and ``out [A, M, C]``."""
    for a in range(out.shape[0]):
        for m in range(out.shape[1]):
            line = out[a, m]
            line[:] = 0
            for t in range(weights.shape[1]):
                share = weights[m, t]
                if share != 0:
                    source = image[a, starts[m] + t]
                    for c in range(line.shape[0]):
                        line[c] += share * source[c]


@njit(cache=True, nogil=True)
def resample_rows(image: Any, starts: Any, weights: Any, out: Any) -> None:
    """out[a, m] = Σ_t weights[m, t] · image[a, starts[m] + t] for ``image [A, N]`` and ``out [A, M]``."""
    for a in range(out.shape[0]):
        row = image[a]
        for m in range(out.shape[1]):
            total = np.float32(0)
            for t in range(weights.shape[1]):
                total += weights[m, t] * row[starts[m] + t]
            out[a, m] = total


@njit(cache=True, nogil=True)
def blank_outside(label: Any, image: Any) -> None:
    """Set ``image`` to 0 wherever ``label`` is 0, in place."""
    flat, numbers = image.reshape(-1), label.reshape(-1)
    for n in range(flat.shape[0]):
        if numbers[n] == 0:
            flat[n] = np.float32(0)
