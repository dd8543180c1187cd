"""An objective without randomness: what several workers compute must be what one computes on the whole batch."""

from __future__ import annotations

import torch
from torch import nn

from pretrain.backbones import Backbone
from pretrain.intensity import standardise
from pretrain.objectives.base import Objective


class Plainly(Objective):
    """Squared error of a linear head to a number that the sample's own number gives."""

    def __init__(self, backbone: Backbone, corpus: object, seed: int) -> None:
        super().__init__()
        self.backbone = backbone
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(backbone.feature_size, 1)

    def prepare(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Standardised only."""
        return standardise(image)

    def loss(
        self, image: torch.Tensor, index: torch.Tensor, generator: torch.Generator, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean squared error."""
        target = torch.sin(index.float()).to(image.device)
        return (self.head(self.backbone(image)).float()[:, 0] - target).square().mean()
