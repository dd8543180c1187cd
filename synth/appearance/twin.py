"""The GPU twin of the compiled CPU path: the same params give the same volume, rendered with torch on any device.

What is small (person, flow, nodes, filters) is planned on the CPU by :meth:`synth.labelmap.LabelMap.plan`; the voxels are
filled here. Random numbers are the same hash of (seed, voxel). The two differ by rounding alone: a voxel whose source
lies within rounding of the border between two labels may take the other one. Tolerance, checked by the tests: at
least 99.9 % of the labels equal and 99.9 % of the intensities within 0.002 (white matter is near 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from synth.appearance import image as images
from synth.appearance import kernel

if TYPE_CHECKING:
    import torch

    from synth.generator import Params
    from synth.labelmap import LabelMap, Plan

    Tensor = torch.Tensor


def render_on(
    generator: LabelMap, batch: Sequence[Params], device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Render a batch on ``device``.

    Returns:
        images ``[B, 1, D, H, W]`` float32 and labels ``[B, D, H, W]`` int16, on the device, as
        :meth:`synth.labelmap.LabelMap.render` gives them one at a time within the tolerance above.
    """
    import torch

    drawn = torch.empty((len(batch), 1, *generator.shape), device=device)
    labels = torch.empty((len(batch), *generator.shape), dtype=torch.int16, device=device)
    for n, params in enumerate(batch):  # one at a time: a volume fills a GPU, a batch would fill its memory
        plan = generator.plan(params)
        image, label = _tissue(plan, generator.shape, drawn.device)
        image = _acquire(image, plan.acquisition, generator.spacing)
        for axis, (low, high) in enumerate(plan.view):
            for array in (image, label):
                lines = array.movedim(axis, 0)
                lines[:low], lines[high:] = 0, 0
        if plan.strip:
            image = torch.where(label == 0, torch.zeros_like(image), image)
        drawn[n, 0], labels[n] = _tone(image, plan), label
    return drawn, labels


def _hash(counter: Tensor) -> Tensor:
    """SplitMix64's finaliser in int64, whose products wrap as uint64's do; shifts are made logical by a mask."""

    def signed(value: int) -> int:
        return value - 2**64 if value >= 2**63 else value

    def shifted(z: Tensor, bits: int) -> Tensor:
        return (z >> bits) & (2 ** (64 - bits) - 1)

    z = counter * signed(kernel.GOLDEN)
    z = (z ^ shifted(z, 30)) * signed(kernel.MIX_1)
    z = (z ^ shifted(z, 27)) * signed(kernel.MIX_2)
    return z ^ shifted(z, 31)


def _normals(counters: Tensor, fields: Tensor, table: Tensor) -> Tensor:
    """Normal numbers: the 12 bits at position ``fields`` of the counters' hash, looked up."""
    bits = _hash(counters) >> (kernel.TABLE_BITS * fields)
    return table[bits & (2**kernel.TABLE_BITS - 1)]


def _wrapped(seed: int) -> int:
    seed %= 2**64
    return seed - 2**64 if seed >= 2**63 else seed


def _tissue(plan: Plan, shape: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """``image, label [D, H, W]``: :func:`synth.appearance.kernel.render_labels`."""
    import torch
    from torch.nn.functional import interpolate

    nodes = torch.as_tensor(plan.nodes.values, device=device).movedim(-1, 0)[None]
    size = [(n - 1) * plan.nodes.step + 1 for n in nodes.shape[2:]]
    lines = interpolate(nodes, size=size, mode="trilinear", align_corners=True)[0]
    x, y, z, gain, coarse = lines[:, : shape[0], : shape[1], : shape[2]]
    index = torch.as_tensor(plan.index, device=device)
    mean, sd = (torch.as_tensor(values, device=device) for values in (plan.mean, plan.sd))

    def at(offset: Any) -> Tensor:
        i, j, k = (
            (source + (float(o) + 1.5)).long().clamp(0, n - 1)
            for source, o, n in zip((x, y, z), offset, index.shape, strict=True)
        )
        return index[i, j, k].long()

    here = at((0, 0, 0))
    label = torch.as_tensor(plan.numbers, device=device)[here]
    texture = float(plan.grain[0]) * _white(plan.seed, shape, device) + float(plan.grain[1]) * coarse
    if len(plan.points) == 1:
        image = mean[here] + sd[here] * texture
    else:
        seen = [at(point) for point in plan.points]
        image = sum(mean[s] for s in seen) + sum(sd[s] for s in seen) * texture
        image = image / len(plan.points)
    return image.clamp_min(0) * gain, label


def _white(seed: int, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    import torch

    d, h, w = shape
    rows = torch.arange(d * h, device=device).reshape(d, h, 1) * ((w + 4) // 5)
    column = torch.arange(w, device=device)
    table = torch.as_tensor(kernel.normal_table(), device=device)
    return _normals(rows + column // 5 + _wrapped(seed), (column % 5).expand(d, h, w), table)


def _acquire(image: Tensor, plan: images.Acquisition, spacing: tuple[float, float, float]) -> Tensor:
    """:func:`synth.appearance.image.acquire`."""
    shape = tuple(image.shape)
    for axis in (1, 2, 0):
        image = _filter(image, axis, plan.blur[axis])
    for axis, samples in images.downsampling(shape, plan, spacing):
        image = _resample(image, axis, *samples)
    if plan.motion is not None:
        image = _move_head(image, *plan.motion)
    if plan.kept is not None:
        image = _ring(image, plan.kept)
    if plan.waves is not None:
        image = _add_spikes(image, plan.waves)
    image = _add_noise(image, plan)
    for axis, samples in images.upsampling(shape, plan, spacing):
        image = _resample(image, axis, *samples)
    return image


def _filter(image: Tensor, axis: int, taps: images.Floats) -> Tensor:
    import torch

    reach = len(taps) - 1
    if reach == 0:
        return image
    lines = image.movedim(axis, 0)
    padded = torch.cat([lines[:1].expand(reach, -1, -1), lines, lines[-1:].expand(reach, -1, -1)])
    n = len(lines)
    out = float(taps[0]) * lines
    for t in range(1, reach + 1):
        out = out + float(taps[t]) * (padded[reach - t : reach - t + n] + padded[reach + t : reach + t + n])
    return out.movedim(0, axis)


def _resample(image: Tensor, axis: int, starts: Any, weights: images.Floats) -> Tensor:
    import torch

    matrix = np.zeros((len(starts), image.shape[axis]), np.float32)
    rows = np.arange(len(starts))[:, None]
    np.add.at(matrix, (rows, starts[:, None] + np.arange(weights.shape[1])), weights)
    return torch.tensordot(torch.as_tensor(matrix, device=image.device), image, dims=([1], [axis])).movedim(0, axis)


def _move_head(image: Tensor, axis: int, factors: Any) -> Tensor:
    import torch

    lines = torch.fft.fft(image, dim=axis)
    filtered = torch.as_tensor(factors, device=image.device).reshape([-1 if a == axis else 1 for a in range(3)])
    return torch.fft.ifft(lines * filtered, dim=axis).abs()


def _ring(image: Tensor, kept: float) -> Tensor:
    import torch

    for axis, count in enumerate(image.shape):
        lines = torch.fft.rfft(image, dim=axis)
        cut = max(2, int(np.ceil(kept * lines.shape[axis])))
        lines.movedim(axis, 0)[cut:] = 0
        image = torch.fft.irfft(lines, n=count, dim=axis)
    return image.abs()


def _add_spikes(image: Tensor, waves: list[list[Any]]) -> Tensor:
    import torch

    for wave in waves:
        depth, height, width = (torch.as_tensor(factor, device=image.device) for factor in wave)
        image = image + (depth[:, None, None] * (height[:, None] * width[None])[None]).real
    return image.abs()


def _add_noise(image: Tensor, plan: images.Acquisition) -> Tensor:
    """:func:`synth.appearance.kernel.add_noise`."""
    import torch

    table = torch.as_tensor(kernel.normal_table(), device=image.device)
    voxel = torch.arange(image.numel(), device=image.device).reshape(image.shape)
    if plan.rician > 0:
        counter, field = voxel // 2 + _wrapped(plan.seed), 2 * (voxel % 2)
        real = image + plan.rician * _normals(counter, field, table)
        image = torch.hypot(real, plan.rician * _normals(counter, field + 1, table))
    if plan.gaussian > 0:
        counter = voxel // 5 + _wrapped(plan.seed ^ kernel.GOLDEN)
        image = (image + plan.gaussian * _normals(counter, voxel % 5, table)).clamp_min(0)
    return image


def _tone(image: Tensor, plan: Plan) -> Tensor:
    """:func:`synth.appearance.image.finish`."""
    import torch

    step = images.scaling_step(image.numel())
    scale = 1 / torch.quantile(image.reshape(-1)[::step], images.QUANTILE).clamp_min(1e-6)
    curve = torch.as_tensor(images.tone_curve(plan.scanner["gamma"]), device=image.device)
    at = (image * scale * images.CURVE_STEPS).clamp(0, len(curve) - 1.001)
    cell = at.long()
    value = curve[cell] + (at - cell) * (curve[cell + 1] - curve[cell])
    levels = int(plan.scanner["quantise"] or 0)
    return (value * levels + 0.5).floor() / levels if levels else value
