"""Where a token is: fixed 3-D sines, learned tables that are resized, DINOv3's rotations."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from pretrain.backbones.base import Shape


def sincos_positions(grid: Shape, width: int, made_for: Shape | None = None) -> torch.Tensor:
    """Fixed 3-D sine–cosine positions ``[N, width]``, token order d, h, w; sixths of the width go to each axis' pair.

    ``made_for``: the grid that the positions should agree with. The new grid spans the same extent, its coordinates are
    fractions of the old ones (what interpolation approximates, here exact).
    """
    third = 2 * math.ceil(width / 6)
    frequency = 1.0 / 10000 ** (torch.arange(third // 2) / (third / 2))
    axes = [_coordinates(n, old) for n, old in zip(grid, made_for or grid, strict=True)]
    parts = []
    for axis in torch.meshgrid(*axes, indexing="ij"):
        angle = axis.reshape(-1, 1) * frequency
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1)[:, :width]


def _coordinates(count: int, old: int) -> torch.Tensor:
    steps = torch.arange(count).float()
    return steps if count == old else (steps + 0.5) * (old / count) - 0.5


def resize_positions(table: torch.Tensor, old: Shape, new: Shape) -> torch.Tensor:
    """A table of positions ``[1, N, E]`` of one grid, brought to another by linear interpolation."""
    if old == new:
        return table
    grid = table.transpose(1, 2).unflatten(2, old)
    resized = F.interpolate(grid.float(), size=new, mode="trilinear", align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(table.dtype)


def axial_rotations(grid: Shape, head: int, base: float = 100.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine ``[N, head]`` of DINOv3's rotary positions (Siméoni et al. 2025) for every token of a grid.

    Half of the angles turn with h, half with w (patch centres, −1…1 over the plane); d turns nothing, so that every
    slice is what the 2-D model saw.
    """
    periods = base ** (torch.arange(0, head, 4).float() / head)
    planes = [(torch.arange(n) + 0.5) / n * 2 - 1 for n in grid[1:]]
    centres = torch.stack(torch.meshgrid(*planes, indexing="ij"), dim=-1).reshape(-1, 2)
    angles = (2 * math.pi * centres[:, :, None] / periods).flatten(1).tile(grid[0], 2)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotary positions of queries or keys ``[…, N, head]``: the first half of the channels turns against the second."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x * cosine.to(x.dtype) + turned * sine.to(x.dtype)).to(x.dtype)
