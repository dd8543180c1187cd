"""Vision transformers on 3-D patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pretrain.backbones.base import Backbone, Fit, Shape
from pretrain.backbones.positions import axial_rotations, resize_positions, rotate, sincos_positions

Rotation = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class ViTOptions:
    """Where a ViT departs from the plain one; starts set these so that foreign weights compute what they did.

    Attributes:
        positions: fixed sines, or a table that is learned; both go along to other sizes.
        pool: mean of the patch tokens, or the class token.
        class_token, registers: tokens before the patches (registers: Darcet et al. 2024).
        prefix_per_layer: these tokens stand once for every layer of patches in depth. Attention then gives them the share
            they had in the 2-D model, and a slice repeated through the depth gives the 2-D model's output.
        layer_scale: a learned factor on each branch (Touvron et al. 2021).
        rope: DINOv3's rotary positions in the plane.
        final: the last norm acts on the tokens, or on the pooled feature.
        patch_depth: voxels of a patch in depth, where other than in the plane; 0 is the same.
        eps: of the norms.
        checkpointing: keep no activations inside the blocks, compute them again in the backward pass.
    """

    positions: Literal["sincos", "learned"] = "sincos"
    pool: Literal["mean", "cls"] = "mean"
    class_token: bool = False
    registers: int = 0
    prefix_per_layer: bool = False
    layer_scale: bool = False
    rope: bool = False
    final: Literal["tokens", "pooled"] = "tokens"
    patch_depth: int = 0
    eps: float = 1e-5
    checkpointing: bool = False

    def patch_shape(self, patch: int) -> Shape:
        """Voxels of a patch."""
        return (self.patch_depth or patch, patch, patch)


PLAIN = ViTOptions()


PLAIN_TOKENS = (
    2048  # up to so many, a CPU that trains in bfloat16 keeps the N × N weights, as MONAI's ViT does everywhere
)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Softmax attention of ``[B, heads, N, e]`` each, through scaled_dot_product_attention, which never writes N × N weights.

    Only where a CPU trains in bfloat16 by plain products: the backward pass of torch 2.13's fused kernel is slower there
    (docs/backbones.md).
    """
    if q.device.type == "cpu" and q.dtype is torch.bfloat16 and q.shape[2] <= PLAIN_TOKENS and torch.is_grad_enabled():
        return _plain_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def _plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    weights = torch.softmax((q * q.shape[3] ** -0.5) @ k.transpose(2, 3), -1)
    return weights.to(v.dtype) @ v


class Block(nn.Module):
    """Pre-norm transformer block: attention through scaled_dot_product_attention, then a 4× GELU MLP."""

    def __init__(self, width: int, heads: int, eps: float = 1e-5, layer_scale: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale1 = nn.Parameter(torch.full((width,), 1e-5)) if layer_scale else None
        self.scale2 = nn.Parameter(torch.full((width,), 1e-5)) if layer_scale else None

    def forward(self, tokens: torch.Tensor, rotation: Rotation | None = None) -> torch.Tensor:
        """``[B, N, E]`` → ``[B, N, E]``; ``rotation`` turns the last tokens, as many as it has rows."""
        tokens = tokens + self._scaled(self.attend(self.norm1(tokens), rotation), self.scale1)
        return tokens + self._scaled(self.mlp(self.norm2(tokens)), self.scale2)

    def attend(self, tokens: torch.Tensor, rotation: Rotation | None = None) -> torch.Tensor:
        """Self-attention of normed tokens."""
        b, n, e = tokens.shape
        q, k, v = self.qkv(tokens).view(b, n, 3, self.heads, e // self.heads).permute(2, 0, 3, 1, 4)
        if rotation is not None:
            before = n - rotation[0].shape[-2]
            q, k = (torch.cat([x[:, :, :before], rotate(x[:, :, before:], *rotation)], dim=2) for x in (q, k))
        attended = attention(q, k, v).transpose(1, 2).reshape(b, n, e)
        return self.proj(attended)

    @staticmethod
    def _scaled(branch: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        return branch if scale is None else branch * scale


class ViT(Backbone):
    """Vision transformer on 3-D patches (Dosovitskiy et al. 2021).

    Ours rather than MONAI's: positions follow other sizes, masked pre-training sends only the visible tokens through the
    blocks, and attention writes no N × N matrix but where that is quicker. Forward and backward in float32 take 0.72 of MONAI's
    time at 1,728 tokens, with 0.40 of its memory; in bf16 on a CPU 0.62 of its time (docs/backbones.md).

    Attributes:
        patch: voxels of a patch in the plane; ``patch_shape`` along d, h, w.
        heads: of every block's attention.
        grid: patches along d, h, w of the volumes it was made for.
    """

    def __init__(
        self,
        shape: Shape,
        channels: int,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        options: ViTOptions = PLAIN,
    ) -> None:
        super().__init__()
        self.options, self.patch, self.heads, self.feature_size = options, patch, heads, width
        self.patch_shape = options.patch_shape(patch)
        self.fit = Fit(self.patch_shape)
        self.grid = self._grid(shape)
        self.embed = nn.Conv3d(channels, width, self.patch_shape, stride=self.patch_shape)
        self.positions: torch.Tensor
        if options.positions == "sincos":
            self.register_buffer("positions", sincos_positions(self.grid, width)[None], persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, options.eps, options.layer_scale) for _ in range(depth))
        self.norm = nn.LayerNorm(width, options.eps)
        self.apply(_init_transformer)
        if options.positions == "learned":
            self.positions = nn.Parameter(_normal(1, self.grid[0] * self.grid[1] * self.grid[2], width))
        self.class_token = nn.Parameter(_normal(1, 1, width)) if options.class_token else None
        self.registers = nn.Parameter(_normal(1, options.registers, width)) if options.registers else None

    def tokens(self, image: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """``[B, C, D, H, W]`` → ``[B, N, E]``; with ``keep [B, n]`` only those tokens go through the blocks, ``[B, n, E]``."""
        encoded, prefix = self.encode(image, keep)
        return encoded[:, prefix:]

    def encode(self, image: torch.Tensor, keep: torch.Tensor | None = None) -> tuple[torch.Tensor, int]:
        """Class token and registers, then patches, ``[B, P + N, E]``, and P."""
        self._check(image)
        grid = self._grid((image.shape[2], image.shape[3], image.shape[4]))
        patches, positions = self.patches(image), self.positions_at(grid)
        if keep is not None:
            patches = patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[2]))
            positions = positions.expand(len(keep), -1, -1).gather(1, keep[..., None].expand(-1, -1, self.feature_size))
        # the convolution as one product: in bf16 on a CPU a step of the MAE takes a quarter of the time; what is hidden costs nothing
        tokens = F.linear(patches, self.embed.weight.flatten(1), self.embed.bias) + positions
        rotation = self._rotation(grid, keep, image.device) if self.options.rope else None
        first: list[torch.Tensor] = [token for token in (self.class_token, self.registers) if token is not None]
        copies = grid[0] if self.options.prefix_per_layer else 1
        if first:
            prefix = torch.cat(first, dim=1).repeat(tokens.shape[0], copies, 1)
            tokens = torch.cat([prefix.to(tokens.dtype), tokens], dim=1)
        for block in self.blocks:
            tokens = self._block(block, tokens, rotation)
        tokens = self.norm(tokens) if self.options.final == "tokens" else tokens
        return tokens, copies * sum(token.shape[1] for token in first)

    def patches(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, C, D, H, W]`` → ``[B, N, C·voxels of a patch]`` in the order of the tokens."""
        b, c, d, h, w = image.shape
        p, q, r = self.patch_shape
        cut = image.reshape(b, c, d // p, p, h // q, q, w // r, r).permute(0, 2, 4, 6, 1, 3, 5, 7)
        return cut.reshape(b, -1, c * p * q * r)

    def positions_at(self, grid: Shape) -> torch.Tensor:
        """Positions ``[1, N, E]`` of a grid that spans the extent it was made for: sines exactly, a table interpolated."""
        if grid == self.grid:
            return self.positions
        if self.options.positions == "learned":
            return resize_positions(self.positions, self.grid, grid)
        return sincos_positions(grid, self.feature_size, self.grid)[None].to(self.positions)

    def feature_map(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, E, D/patch, H/patch, W/patch]``."""
        tokens = self.tokens(image)
        return tokens.transpose(1, 2).unflatten(2, self._grid((image.shape[2], image.shape[3], image.shape[4])))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, E]``, mean over patch tokens or the class token."""
        tokens, prefix = self.encode(image)
        pooled = tokens[:, 0] if self.options.pool == "cls" else tokens[:, prefix:].mean(1)
        return pooled if self.options.final == "tokens" else self.norm(pooled)

    def layer_prefixes(self) -> list[tuple[str, ...]]:
        """Embedding with positions and first tokens, every block, last norm."""
        blocks = [(f"blocks.{i}",) for i in range(len(self.blocks))]
        return [("embed", "positions", "class_token", "registers"), *blocks, ("norm",)]

    def _grid(self, shape: Shape) -> Shape:
        d, h, w = self.patch_shape
        return (shape[0] // d, shape[1] // h, shape[2] // w)

    def _rotation(self, grid: Shape, keep: torch.Tensor | None, device: torch.device) -> Rotation:
        cosine, sine = axial_rotations(grid, self.feature_size // self.heads)
        cosine, sine = cosine.to(device), sine.to(device)
        return (cosine, sine) if keep is None else (cosine[keep][:, None], sine[keep][:, None])

    def _block(self, block: nn.Module, tokens: torch.Tensor, rotation: Rotation | None) -> torch.Tensor:
        if self.options.checkpointing and torch.is_grad_enabled():
            again: torch.Tensor = checkpoint(block, tokens, rotation, use_reentrant=False)
            return again
        made: torch.Tensor = block(tokens, rotation)
        return made


def _normal(*shape: int) -> torch.Tensor:
    return nn.init.trunc_normal_(torch.empty(*shape), std=0.02)


def _init_transformer(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
