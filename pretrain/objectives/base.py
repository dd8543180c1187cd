"""The Objective contract."""

from __future__ import annotations

import torch
from torch import nn

from pretrain.backbones import Backbone


class Objective(nn.Module):
    """A loss around a backbone; what it adds (heads, decoder) is thrown away after pre-training."""

    backbone: Backbone

    def loss(self, image: torch.Tensor, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Scalar loss of a standardised batch ``[B, C, D, H, W]`` whose samples have numbers ``index [B]``.

        ``generator`` is the only source of randomness.
        """
        raise TypeError(f"{type(self).__name__} defines no loss")

    def evaluate(self, images: list[torch.Tensor], indices: list[torch.Tensor]) -> dict[str, float]:
        """Figures on held-out samples for the model card."""
        generator = torch.Generator().manual_seed(0)
        losses = [float(self.loss(x, i, generator)) for x, i in zip(images, indices, strict=True)]
        return {"held_out_loss": sum(losses) / max(len(losses), 1)}
