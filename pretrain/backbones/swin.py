"""Shifted-window transformers: MONAI's SwinTransformer, in MONAI's form and in that of torchvision's video models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from pretrain.backbones.base import Backbone, Fit, Shape


@dataclass(frozen=True)
class SwinOptions:
    """``checkpointing``: keep no activations inside the blocks, compute them again in the backward pass."""

    checkpointing: bool = False


class MonaiSwin(Backbone):
    """MONAI's 3-D SwinTransformer (Liu et al. 2021; Hatamizadeh et al. 2022): patches of 2³, windows of 7³, 48 wide,
    2-2-2-2 deep, 3-6-12-24 heads, the encoder of SwinUNETR.

    Patches are merged by ``mergingv2``; MONAI's default, kept for old weights, has the neighbours in another order.
    """

    fit = Fit(smallest=32)

    def __init__(self, shape: Shape, channels: int, options: SwinOptions) -> None:
        super().__init__()
        from monai.networks.nets.swin_unetr import SwinTransformer

        self.net: nn.Module = SwinTransformer(
            in_chans=channels,
            embed_dim=48,
            window_size=(7, 7, 7),
            patch_size=(2, 2, 2),
            depths=(2, 2, 2, 2),
            num_heads=(3, 6, 12, 24),
            use_checkpoint=options.checkpointing,
            downsample="mergingv2",
            use_flash_attention=True,  # without gradients only; the same sums
        )
        self.feature_size = 768

    def feature_map(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, 768, D/32, H/32, W/32]``, the last stage, normed."""
        self._check(image)
        return self.net(image.contiguous())[-1]

    def layer_prefixes(self) -> list[tuple[str, ...]]:
        """Embedding, every block, a merging with the block before it."""
        return _swin_layers(self.net)


class VideoSwin(Backbone):
    """Video Swin transformer (Liu et al. 2022) as torchvision's swin3d_t, s and b have it, built of MONAI's
    SwinTransformer: patches of 2 × 4 × 4, windows of 8 × 7 × 7, merging in the plane alone, one norm at the end.

    The volume's first axis stands for time.
    """

    fit = Fit(smallest=32)

    def __init__(
        self,
        shape: Shape,
        channels: int,
        width: int,
        depths: tuple[int, int, int, int],
        heads: tuple[int, int, int, int],
        options: SwinOptions,
    ) -> None:
        super().__init__()
        from monai.networks.nets.swin_unetr import SwinTransformer

        self.net: nn.Module = SwinTransformer(
            in_chans=channels,
            embed_dim=width,
            window_size=(8, 7, 7),
            patch_size=(2, 4, 4),
            depths=depths,
            num_heads=heads,
            patch_norm=True,
            use_checkpoint=options.checkpointing,
            downsample=PlaneMerging,
            use_flash_attention=True,
        )
        self.net.layers4[0].downsample = None  # type: ignore[assignment]  # the last stage merges nothing
        self.feature_size = 8 * width
        self.norm = nn.LayerNorm(self.feature_size)

    def feature_map(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, 8·width, D/2, H/32, W/32]``."""
        self._check(image)
        last = self.net(image.contiguous(), normalize=False)[-1]
        return self.norm(last.movedim(1, -1)).movedim(-1, 1)

    def layer_prefixes(self) -> list[tuple[str, ...]]:
        """Embedding, every block (a merging with the block before it), last norm."""
        return [*_swin_layers(self.net), ("norm",)]


class PlaneMerging(nn.Module):
    """Four neighbours in the plane become one token of twice the width; ``[B, D, H, W, C]`` → ``[B, D, H/2, W/2, 2C]``."""

    def __init__(self, dim: int, norm_layer: type[nn.LayerNorm] = nn.LayerNorm, spatial_dims: int = 3) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(4 * dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """An odd plane is padded with zeros first."""
        x = F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))
        parts = [x[:, :, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        merged: torch.Tensor = self.reduction(self.norm(torch.cat(parts, dim=-1)))
        return merged


def _swin_layers(net: nn.Module) -> list[tuple[str, ...]]:
    groups: list[tuple[str, ...]] = [("net.patch_embed",)]
    for stage in ("layers1", "layers2", "layers3", "layers4"):
        blocks = len(list(net.get_submodule(f"{stage}.0.blocks").children()))
        groups += [(f"net.{stage}.0.blocks.{i}",) for i in range(blocks)]
        groups[-1] = (*groups[-1], f"net.{stage}.0.downsample")
    return groups
