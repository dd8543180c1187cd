"""The network: a residual U-Net that can work on cells of voxels, and the loss it is trained with.

A U-Net (Ronneberger et al. 2015) whose voxel grid may first be folded into 2×2×2 cells (``cell=2``: space to depth, Shi
et al. 2016, arXiv 1609.05158, the other way round), so that its widest layers run on an eighth of the voxels. The last
layer unfolds the cells into voxels again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.real_scan.mixture import BLOCK

LOGIT = 30.0  # beyond it a softmax in single precision is 0 or 1; keeps exp() finite
SMOOTH = 1.0  # voxels added to both parts of a Dice


class Norm(nn.Module):
    """Instance normalisation. Of a single volume it is batch normalisation, whose gradient torch 2.13 has 10 times sooner."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, …]``, each channel of each volume to mean 0 and variance 1, then scaled and shifted."""
        if len(x) == 1:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True)
        return F.group_norm(x, x.shape[1], self.weight, self.bias)


class Block(nn.Module):
    """Two 3×3×3 convolutions with instance normalisation (Ulyanov et al. 2016), and a way around them: ``[B, cin, …]`` → ``[B, cout, …]``."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(cin, cout, 3, padding=1, bias=False)
        self.second = nn.Conv3d(cout, cout, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([Norm(cout) for _ in range(2)])
        self.around = nn.Conv3d(cin, cout, 1, bias=False) if cin != cout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        hidden = F.relu(self.norms[0](self.first(x)), inplace=True)
        return F.relu(self.norms[1](self.second(hidden)) + self.around(x), inplace=True)


def multiple_of(channels: tuple[int, ...], cell: int, rounds: int) -> int:
    """What the edges of a volume must divide by, in voxels."""
    return math.lcm(cell * 2 ** (len(channels) - 1), BLOCK if rounds else 1)


class CellUNet(nn.Module):
    """``[B, 1, D, H, W]`` intensities → ``[B, classes, D, H, W]`` logits; D, H, W divide by :func:`multiple_of`.

    Args:
        classes: how many.
        channels: of each level, finest first; multiples of 8. Level k sees cell · 2^k voxels as one.
        cell: voxels along the edge of a cell; 1 works on the voxels themselves.
    """

    def __init__(self, classes: int, channels: tuple[int, ...], cell: int = 2) -> None:
        super().__init__()
        self.classes, self.cell, levels = classes, cell, len(channels)
        self.encoders = nn.ModuleList([Block(cell**3 if k == 0 else c, c) for k, c in enumerate(channels)])
        self.downs = nn.ModuleList([nn.Conv3d(channels[k], channels[k + 1], 2, stride=2) for k in range(levels - 1)])
        self.ups = nn.ModuleList([nn.Conv3d(channels[k + 1], channels[k], 1) for k in range(levels - 1)])
        self.decoders = nn.ModuleList([Block(2 * channels[k], channels[k]) for k in range(levels - 1)])
        self.last = nn.Conv3d(channels[0], classes * cell**3, 1)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        return unfold(self.cells(image), self.classes, self.cell)

    def cells(self, image: Tensor) -> Tensor:
        """``[B, 8·C, D/2, H/2, W/2]``: the logits of a cell's voxels, as :func:`fold` orders them, each with its classes."""
        hidden, kept = fold(image, self.cell), []
        for k, encoder in enumerate(self.encoders):
            hidden = encoder(hidden if k == 0 else self.downs[k - 1](hidden))
            kept.append(hidden)
        for k in reversed(range(len(self.decoders))):
            wide = F.interpolate(self.ups[k](hidden), scale_factor=2.0, mode="nearest")
            hidden = self.decoders[k](torch.cat([wide, kept[k]], dim=1))
        return torch.as_tensor(self.last(hidden))


def fold(image: Tensor, cell: int) -> Tensor:
    """``[B, 1, D, H, W]`` → ``[B, 8, D/2, H/2, W/2]``: the voxels of a cell become channels."""
    batch, _, d, h, w = image.shape
    cells = image.reshape(batch, d // cell, cell, h // cell, cell, w // cell, cell).permute(0, 2, 4, 6, 1, 3, 5)
    cells = cells.reshape(batch, cell**3, d // cell, h // cell, w // cell)
    return cells.contiguous(memory_format=torch.channels_last_3d)


def unfold(cells: Tensor, classes: int, cell: int) -> Tensor:
    """``[B, 8·C, D/2, H/2, W/2]`` → ``[B, C, D, H, W]`` (stored channels last): the inverse of :func:`fold`, per class."""
    batch, _, d, h, w = cells.shape
    parts = cells.permute(0, 2, 3, 4, 1).reshape(batch, d, h, w, cell, cell, cell, classes)
    voxels = parts.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(batch, d * cell, h * cell, w * cell, classes)
    return voxels.permute(0, 4, 1, 2, 3)


class _DiceCrossEntropy(torch.autograd.Function):
    """Softmax, cross-entropy and soft Dice of ``[V, C]`` logits in a few passes: autograd's own way takes four times
    as long on a CPU, as long as the rest of the network."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, rarity: float) -> Tensor:
        classes = logits.shape[1]
        share = logits.float().clamp(-LOGIT, LOGIT).exp_()
        share /= share @ share.new_ones(classes, 1)
        at = target[:, None]
        right = share.gather(1, at)
        hit = share.new_zeros(classes).index_add_(0, target, right[:, 0])
        count = torch.bincount(target, minlength=classes)
        size = share.sum(0) + count + SMOOTH
        dice = (2 * hit + SMOOTH) / size
        present = (count > 0) / (count > 0).sum()
        weight = count.clamp_min(1).float() ** -rarity
        weight = (weight / (weight * count).sum())[at]
        ctx.save_for_backward(share, at, right, dice, size, weight, present)
        ctx.dtype = logits.dtype
        return 1 - (present * dice).sum() - (weight * right.clamp_min(1e-12).log_()).sum()

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None, None]:
        share, at, right, dice, size, weight, present = ctx.saved_tensors
        of_size, of_hit = present * dice / size, -2 * present / size
        pull = of_hit[at[:, 0], None] * right
        mean = share @ of_size[:, None] + pull
        slope = share * (of_size + (weight - mean))
        slope.scatter_add_(1, at, pull - weight)
        return (slope * above[0]).to(ctx.dtype), None, None


def dice_cross_entropy(cells: Tensor, target: Tensor, rarity: float = 0.5) -> Tensor:
    """1 − mean soft Dice over the classes present (Milletari et al. 2016) + cross-entropy, over all voxels of the batch.

    In the cross-entropy a voxel weighs 1 / n^rarity, n the voxels of its class. At 0.5 a hippocampus of 1,000 voxels
    has 1.6 % of the weight rather than 0.1 %, which makes the network look for it early; at 0 all voxels weigh the same.

    Args:
        cells: ``[B, 8·C, D/2, H/2, W/2]`` from :meth:`CellUNet.cells`; the target is folded rather than they unfolded.
        target: ``[B, D, H, W]`` class numbers, int64.
        rarity: how much more the voxels of a rare class weigh, 0 to 1.
    """
    cell = target.shape[1] // cells.shape[2]
    flat = cells.permute(0, 2, 3, 4, 1).reshape(-1, cells.shape[1] // cell**3)
    folded = fold(target[:, None], cell).permute(0, 2, 3, 4, 1).reshape(-1)
    return torch.as_tensor(_DiceCrossEntropy.apply(flat, folded, rarity))
