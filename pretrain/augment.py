"""Batched augmentation on the device: one warp for mirror, turn, stretch, shift and crop; then intensities, then cutout.

Every effect has a probability and a range per volume, written as the appearance model writes them: (probability, low,
high). All randomness comes from one ``torch.Generator``: the same state gives the same bits. Every volume takes the same
operations whatever is drawn, a volume that an effect spares with a strength that does nothing: no step waits for the
device. Turns are in voxels, so anisotropic voxels are sheared a little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from synth.errors import UserError

Range = tuple[float, float, float]
BIAS_KNOTS = 4  # across the volume, as SynthSeg's 0.025 of 160 voxels
DARK = 1e-6


@dataclass(frozen=True)
class Augmentation:
    """How strongly views of a volume differ; each is (probability, low, high) of one volume, but for ``mirror``.

    Attributes:
        mirror: probability of left for right.
        rotation: about each axis, degrees; the sign is drawn.
        scale: size of the head, log-uniform.
        shift: along each axis, share of the axis; the sign is drawn.
        crop: share of each axis that is kept and enlarged to the whole.
        gamma: exponent of the intensities, log-uniform.
        bias: SD of the logarithm of the bias field.
        blur: SD of the point spread, voxels.
        slices: SD of the slice profile along one axis, voxels.
        noise: SD, share of the brightest voxel.
        cutout: edges of a box set to 0, share of each axis.
    """

    mirror: float = 0.5
    rotation: Range = (0.8, 0.0, 15.0)
    scale: Range = (0.8, 0.9, 1.1)
    shift: Range = (0.8, 0.0, 0.05)
    crop: Range = (0.5, 0.7, 1.0)
    gamma: Range = (0.8, 0.7, 1.5)
    bias: Range = (0.5, 0.0, 0.3)
    blur: Range = (0.3, 0.3, 1.0)
    slices: Range = (0.0, 0.0, 0.0)
    noise: Range = (0.5, 0.0, 0.08)
    cutout: Range = (0.5, 0.2, 0.4)


def checked_range(name: str, given: tuple[float, ...], lowest: float, highest: float) -> Range:
    """The range as three floats.

    Raises:
        UserError: not probability, low, high, or strengths outside ``lowest`` … ``highest``.
    """
    shown = ",".join(f"{value:g}" for value in given)
    if len(given) != 3 or not (0 <= given[0] <= 1 and lowest <= given[1] <= given[2] <= highest):
        raise UserError(
            f"--objective.{name} is {shown}; expected probability,low,high: a number from 0 to 1, then two from "
            f"{lowest:g} to {highest:g}"
        )
    chance, low, high = map(float, given)
    return chance, low, high


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """``generator`` itself where it is on ``device``, else one there, seeded by the next number of ``generator``."""
    if generator.device.type == device.type:
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


def augmented(image: torch.Tensor, generator: torch.Generator, how: Augmentation) -> torch.Tensor:
    """A view of every volume: ``[B, C, D, H, W]`` intensities, not negative, in and out."""
    generator = generator_on(image.device, generator)
    image = warp(image, geometry(image, generator, how))
    return cut_out(recoloured(image, generator, how), generator, how.cutout)


def geometry(image: torch.Tensor, generator: torch.Generator, how: Augmentation) -> torch.Tensor:
    """Where every view reads its volume: ``[B, 3, 4]``, output → input in the coordinates of ``grid_sample``
    (x, y, z along W, H, D; -1 and 1 at the outer faces).

    Crop and resize is a view of a part: the window's size is ``crop`` of the whole, its place is drawn.
    """
    count, extent = len(image), image.new_tensor(image.shape[:1:-1])  # W, H, D
    window = _drawn(how.crop, (count, 3), generator, 1.0)
    place = _uniform((count, 3), generator, -1, 1) * (1 - window)
    moved = 2 * _drawn(how.shift, (count, 3), generator, 0.0) * _sign((count, 3), generator)
    angles = _drawn(how.rotation, (count, 3), generator, 0.0) * _sign((count, 3), generator) * (math.pi / 180)
    size = _drawn(how.scale, (count, 1), generator, 1.0, log=True)
    mirrored = torch.rand(count, generator=generator, device=image.device) < how.mirror
    turn = _rotation(angles) / size[..., None] * window[:, None]
    turn[:, :, 2] *= torch.where(mirrored, -1.0, 1.0)[:, None]  # z of grid_sample is D, which runs left→right
    turn = turn * extent / extent[:, None]  # a turn of voxels, not of the unit cube
    return torch.cat([turn, (place + moved)[..., None]], dim=2)


def warp(volume: torch.Tensor, matrix: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """``[B, C, D, H, W]`` float read through ``matrix [B, 3, 4]``, 0 outside; ``mode`` nearest for label maps."""
    grid = F.affine_grid(matrix.to(volume.dtype), list(volume.shape), align_corners=False)
    return F.grid_sample(volume, grid, mode=mode, align_corners=False)


def recoloured(image: torch.Tensor, generator: torch.Generator, how: Augmentation) -> torch.Tensor:
    """Gamma, bias field, blur and noise; ``[B, C, D, H, W]`` not negative in and out, 1 is the brightest voxel."""
    count = len(image)
    top = image.flatten(1).amax(1).clamp_min(DARK).view(-1, 1, 1, 1, 1)
    image = (image / top).clamp_min(0) ** _drawn(how.gamma, (count, 1, 1, 1, 1), generator, 1.0, log=True)
    knots = torch.randn(count, 1, *(BIAS_KNOTS,) * 3, generator=generator, device=image.device)
    field = F.interpolate(knots, size=image.shape[2:], mode="trilinear", align_corners=True)
    image = image * torch.exp(field * _drawn(how.bias, (count, 1, 1, 1, 1), generator, 0.0))
    spread = _drawn(how.blur, (count, 1), generator, 0.0).expand(-1, 3)
    thick = F.one_hot(torch.randint(3, (count,), generator=generator, device=image.device), 3)
    thick = thick * _drawn(how.slices, (count, 1), generator, 0.0)
    image = blurred(image, (spread.square() + thick.square()).sqrt(), max(how.blur[2], how.slices[2]))
    noise = torch.randn(image.shape, generator=generator, device=image.device)
    return (image + noise * _drawn(how.noise, (count, 1, 1, 1, 1), generator, 0.0)).clamp_min(0)


def blurred(image: torch.Tensor, sigma: torch.Tensor, widest: float) -> torch.Tensor:
    """Gaussian blur with an SD of its own per volume and axis.

    Args:
        image: ``[B, C, D, H, W]``.
        sigma: ``[B, 3]`` SD in voxels along D, H, W; 0 does nothing.
        widest: the largest SD that may be drawn; the filter ends at two of it.
    """
    reach = math.ceil(2 * widest)
    for axis in range(3 if reach else 0):
        n, steps = image.shape[axis + 2], torch.arange(-reach, reach + 1, device=image.device)
        taps = torch.exp(-0.5 * (steps / sigma[:, axis : axis + 1].clamp_min(1e-3)) ** 2)
        taps = taps / taps.sum(1, keepdim=True)
        lines = image.movedim(axis + 2, 0)
        ends = lines[:1].expand(reach, *lines.shape[1:]), lines[-1:].expand(reach, *lines.shape[1:])
        padded = torch.cat([ends[0], lines, ends[1]])
        out = torch.zeros_like(lines)
        for tap in range(len(steps)):
            out += padded[tap : tap + n] * taps[:, tap].view(-1, 1, 1, 1)
        image = out.movedim(0, axis + 2)
    return image


def cut_out(image: torch.Tensor, generator: torch.Generator, prior: Range) -> torch.Tensor:
    """A box of every volume set to 0 (DeVries & Taylor 2017), wholly inside it."""
    count = len(image)
    edge = _drawn(prior, (count, 3), generator, 0.0)
    low = _uniform((count, 3), generator, 0, 1) * (1 - edge)
    inside = torch.ones(count, 1, *image.shape[2:], dtype=torch.bool, device=image.device)
    for axis, n in enumerate(image.shape[2:]):
        at = ((torch.arange(n, device=image.device) + 0.5) / n)[None]
        hit = (at >= low[:, axis, None]) & (at < (low + edge)[:, axis, None])
        inside &= hit.view(count, 1, *(n if a == axis else 1 for a in range(3)))
    return image.masked_fill(inside, 0.0)


def _drawn(
    prior: Range, shape: tuple[int, ...], generator: torch.Generator, neutral: float, log: bool = False
) -> torch.Tensor:
    """Strengths; ``neutral`` for the volumes (first axis) that are spared."""
    chance, low, high = prior
    spared = torch.rand(shape[0], generator=generator, device=generator.device) >= chance
    value = _uniform(shape, generator, 0, 1)
    value = low * (high / low) ** value if log else low + (high - low) * value
    return value.masked_fill(spared.view(-1, *(1,) * (len(shape) - 1)), neutral)


def _uniform(shape: tuple[int, ...], generator: torch.Generator, low: float, high: float) -> torch.Tensor:
    return torch.rand(shape, generator=generator, device=generator.device).mul(high - low).add(low)


def _sign(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randint(2, shape, generator=generator, device=generator.device).mul(2.0).sub(1.0)


def _rotation(angles: torch.Tensor) -> torch.Tensor:
    """``[B, 3]`` angles about x, y, z → ``[B, 3, 3]``."""
    turned = torch.eye(3, device=angles.device).expand(len(angles), 3, 3)
    for axis, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        one = torch.eye(3, device=angles.device).repeat(len(angles), 1, 1)
        cos, sin = angles[:, axis].cos(), angles[:, axis].sin()
        one[:, i, i], one[:, j, j], one[:, i, j], one[:, j, i] = cos, cos, -sin, sin
        turned = turned @ one
    return turned
