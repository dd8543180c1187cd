"""The simple fully convolutional network."""

from __future__ import annotations

import torch
from torch import nn

from pretrain.backbones.base import Backbone, Fit, Shape


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
        self.fit = Fit(smallest=2 ** (len(widths) - 1))

    def feature_map(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, F, D/2^s, H/2^s, W/2^s]`` for s pooled stages."""
        self._check(image)
        return self.stages(image.contiguous(memory_format=torch.channels_last_3d))

    def layer_prefixes(self) -> list[tuple[str, ...]]:
        """Each convolution with its norm."""
        return [(f"stages.{i}", f"stages.{i + 1}") for i, part in enumerate(self.stages) if isinstance(part, nn.Conv3d)]
