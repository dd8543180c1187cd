"""One table of backbones: volume ``[B, C, D, H, W]`` → pooled feature ``[B, F]``, and tokens or a feature map."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from synth.errors import UserError, near

Shape = tuple[int, int, int]


class Backbone(nn.Module):
    """What every backbone offers. ``feature_size``: length of the pooled feature."""

    feature_size: int

    def maps(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, C, D, H, W]`` → feature map ``[B, F, d, h, w]``."""
        raise TypeError(f"{type(self).__name__} has no feature map")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, C, D, H, W]`` → pooled feature ``[B, F]``."""
        return self.maps(image).mean((2, 3, 4))


class SFCN(Backbone):
    """Simple fully convolutional network (Peng et al. 2021, Medical Image Analysis): 3³ convolution, batch norm,
    max-pooling by 2, ReLU a stage; the last stage a 1³ convolution without pooling. Published widths 32-64-128-256-256-64.
    """

    def __init__(self, shape: Shape, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        before = channels
        for width in widths[:-1]:
            stages += [
                nn.Conv3d(before, width, 3, padding=1, bias=False),
                nn.BatchNorm3d(width),
                nn.MaxPool3d(2),
                nn.ReLU(),
            ]
            before = width
        stages += [nn.Conv3d(before, widths[-1], 1, bias=False), nn.BatchNorm3d(widths[-1]), nn.ReLU()]
        self.stages = nn.Sequential(*stages)
        self.feature_size = widths[-1]

    def maps(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, F, D/2^s, H/2^s, W/2^s]`` for s pooled stages."""
        return self.stages(image.contiguous(memory_format=torch.channels_last_3d))


class MonaiDenseNet(Backbone):
    """MONAI's 3-D DenseNet121 (Huang et al. 2017) without its classifier."""

    def __init__(self, shape: Shape, channels: int) -> None:
        super().__init__()
        from monai.networks.nets.densenet import DenseNet121

        self.features = DenseNet121(spatial_dims=3, in_channels=channels, out_channels=1).features
        self.feature_size = 1024

    def maps(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, 1024, D/32, H/32, W/32]``."""
        return F.relu(self.features(image))


class MonaiResNet(Backbone):
    """MONAI's 3-D ResNet18 (He et al. 2016; Hara et al. 2018) without its classifier."""

    def __init__(self, shape: Shape, channels: int) -> None:
        super().__init__()
        from monai.networks.nets.resnet import ResNetFeatures

        self.net = ResNetFeatures("resnet18", pretrained=False, in_channels=channels)
        self.feature_size = 512

    def maps(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, 512, D/32, H/32, W/32]``, last stage."""
        return self.net(image)[-1]


class Block(nn.Module):
    """Pre-norm transformer block: attention through scaled_dot_product_attention, then a 4× GELU MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """``[B, N, E]`` → ``[B, N, E]``."""
        b, n, e = tokens.shape
        q, k, v = self.qkv(self.norm1(tokens)).view(b, n, 3, self.heads, e // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, e)
        tokens = tokens + self.proj(attended)
        return tokens + self.mlp(self.norm2(tokens))


def sincos_positions(grid: Shape, width: int) -> torch.Tensor:
    """Fixed 3-D sine–cosine positions ``[N, width]``, token order d, h, w; sixths of the width go to each axis' pair."""
    third = 2 * math.ceil(width / 6)
    frequency = 1.0 / 10000 ** (torch.arange(third // 2) / (third / 2))
    parts = []
    for axis in torch.meshgrid(*(torch.arange(n).float() for n in grid), indexing="ij"):
        angle = axis.reshape(-1, 1) * frequency
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1)[:, :width]


class ViT(Backbone):
    """Vision transformer on 3-D patches (Dosovitskiy et al. 2021), fixed sine–cosine positions, mean-pooled tokens.

    Ours rather than MONAI's because masked pre-training sends only the visible tokens through the blocks.
    """

    def __init__(self, shape: Shape, channels: int, width: int, depth: int, heads: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.grid: Shape = (shape[0] // patch, shape[1] // patch, shape[2] // patch)
        self.embed = nn.Conv3d(channels, width, patch, stride=patch)
        self.positions: torch.Tensor
        self.register_buffer("positions", sincos_positions(self.grid, width)[None], persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.feature_size = width
        self.apply(_init_transformer)

    def tokens(self, image: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """``[B, C, D, H, W]`` → ``[B, N, E]``; with ``keep [B, n]`` only those tokens go through the blocks."""
        tokens = self.embed(image).flatten(2).transpose(1, 2) + self.positions
        if keep is not None:
            tokens = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[2]))
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def maps(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, E, D/patch, H/patch, W/patch]``."""
        return self.tokens(image).transpose(1, 2).unflatten(2, self.grid)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, E]``, mean over tokens."""
        return self.tokens(image).mean(1)


def _init_transformer(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


@dataclass(frozen=True)
class Entry:
    """One row of the table: how to make it, what shapes it takes, one line about it."""

    make: Callable[[Shape, int], Backbone]
    multiple: int
    smallest: int
    about: str


def _vit(width: int, depth: int, heads: int, patch: int) -> Entry:
    def make(shape: Shape, channels: int) -> Backbone:
        return ViT(shape, channels, width, depth, heads, patch)

    return Entry(make, patch, patch, f"ViT {width} wide, {depth} deep, {heads} heads, patches {patch}³")


def _sfcn(widths: tuple[int, ...], about: str) -> Entry:
    def make(shape: Shape, channels: int) -> Backbone:
        return SFCN(shape, channels, widths)

    return Entry(make, 1, 2 ** (len(widths) - 1), about)


BACKBONES: dict[str, Entry] = {
    "vit_xs": _vit(128, 4, 4, 8),
    "vit_ti": _vit(192, 12, 3, 8),
    "vit_s": _vit(384, 12, 6, 16),
    "vit_b": _vit(768, 12, 12, 16),
    "sfcn": _sfcn((32, 64, 128, 256, 256, 64), "SFCN of Peng et al. 2021, widths 32-64-128-256-256-64"),
    "sfcn_s": _sfcn((12, 24, 48, 96, 128), "a small SFCN, widths 12-24-48-96-128"),
    "densenet121": Entry(MonaiDenseNet, 1, 32, "MONAI DenseNet121"),
    "resnet18": Entry(MonaiResNet, 1, 16, "MONAI ResNet18"),
}


def make_backbone(name: str, shape: Shape, channels: int = 1, seed: int = 0) -> Backbone:
    """A freshly initialised backbone for volumes of ``shape`` (voxels); equal seeds give equal weights.

    Raises:
        UserError: no such name (near ones are listed), or a shape that it cannot take (shapes it can are named).
    """
    if name not in BACKBONES:
        raise UserError(f"there is no backbone '{name}'; near: {near(name, BACKBONES)}")
    entry = BACKBONES[name]
    if any(n % entry.multiple or n < entry.smallest for n in shape):
        fitting = ",".join(str(max(entry.smallest, round(n / entry.multiple) * entry.multiple)) for n in shape)
        rule = f"multiples of {entry.multiple}" if entry.multiple > 1 else f"at least {entry.smallest} voxels an axis"
        raise UserError(
            f"backbone {name} cannot take volumes of {','.join(map(str, shape))}; expected {rule}, such as {fitting}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = entry.make(shape, channels)
        return made.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # about 1.3 × as fast on CPU, bf16


def count_parameters(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def describe() -> list[dict[str, Any]]:
    """One row per backbone: name, parameters at 96³, what it is."""
    rows = []
    for name, entry in BACKBONES.items():
        with torch.device("meta"):
            made = entry.make((96, 96, 96), 1)
        rows.append(
            {"backbone": name, "parameters": count_parameters(made), "feature": made.feature_size, "about": entry.about}
        )
    return rows
