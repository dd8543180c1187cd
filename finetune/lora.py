"""LoRA: low-rank adapters on a transformer's linear layers (Hu et al. 2022), everything else frozen."""

from __future__ import annotations

import math

import torch
from torch import nn

from pretrain.backbones import Backbone
from synth.errors import UserError


class Adapted(nn.Module):
    """``base(x) + (alpha / rank) · B A x``; B begins at zero, so that an adapted network begins as the frozen one."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as nn.Linear, and the paper's code, begin

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` → ``[..., out]``."""
        adapted: torch.Tensor = self.base(x) + self.scale * ((x @ self.down.to(x.dtype).T) @ self.up.to(x.dtype).T)
        return adapted


def add_adapters(backbone: Backbone, rank: int, seed: int) -> Backbone:
    """Freeze ``backbone`` and put an adapter on each of its linear layers (attention and MLP), in place.

    Raises:
        UserError: a backbone without linear layers, as CNNs are.
    """
    backbone.requires_grad_(False)
    found = [(parent, name, child) for parent in backbone.modules() for name, child in parent.named_children()]
    linear = [(parent, name, child) for parent, name, child in found if isinstance(child, nn.Linear)]
    if not linear:
        raise UserError(
            f"mode lora adapts the linear layers of transformers, and backbone {backbone.name} has none; "
            "use --mode full or frozen"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parent, name, child in linear:
            setattr(parent, name, Adapted(child, rank, alpha=float(rank)))
    return backbone
