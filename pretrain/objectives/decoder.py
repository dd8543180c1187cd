"""A light decoder from a backbone's feature map to voxels: what dense objectives put on a backbone and throw away."""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

from pretrain.objectives.features import Grid

WIDEST, NARROWEST = 64, 16  # channels: enough to decode, too few to do the backbone's work
CELL = 2  # voxels along an edge of the cells that are decoded: full resolution would cost more than the backbone


class Decoder(nn.Module):
    """``[B, F, d, h, w]`` → ``[B, outputs, D', H', W']``: twice as many cells and half the channels a step.

    Args:
        features: channels of the feature map.
        outputs: channels that are wanted.
        start: d, h, w of the feature map.
        end: cells that are wanted along each axis.
    """

    def __init__(self, features: int, outputs: int, start: Grid, end: Grid) -> None:
        super().__init__()
        steps = max(1, *(math.ceil(math.log2(to / at)) for at, to in zip(start, end, strict=True)))
        self.sizes = [[math.ceil(n / 2 ** (steps - 1 - step)) for n in end] for step in range(steps)]
        widths = [max(NARROWEST, min(features, WIDEST) >> step) for step in range(steps + 1)]
        self.into = nn.Conv3d(features, widths[0], 1)
        self.stages = nn.ModuleList(_stage(a, b) for a, b in itertools.pairwise(widths))
        self.out = nn.Conv3d(widths[-1], outputs, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """The output, linear in the last features."""
        x = self.into(maps)
        for stage, size in zip(self.stages, self.sizes, strict=True):
            x = stage(F.interpolate(x, size=size, mode="trilinear", align_corners=False))
        made: torch.Tensor = self.out(x)
        return made


def _stage(into: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Conv3d(into, out, 3, padding=1), nn.GroupNorm(math.gcd(8, out), out), nn.GELU())


def cells(shape: Grid) -> Grid:
    """Cells of ``CELL`` voxels that cover a volume."""
    return tuple(math.ceil(n / CELL) for n in shape)


def as_voxels(decoded: torch.Tensor, shape: Grid) -> torch.Tensor:
    """``[B, C·CELL³, D', H', W']`` → ``[B, C, D, H, W]``: the channels of a cell are its voxels."""
    b, c, d, h, w = decoded.shape
    cut = decoded.view(b, c // CELL**3, CELL, CELL, CELL, d, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    whole = cut.reshape(b, c // CELL**3, d * CELL, h * CELL, w * CELL)
    return whole[:, :, : shape[0], : shape[1], : shape[2]]
