"""Hybrid: a weighted sum of objectives on one backbone, such as ``mae+supervised``.

Masked reconstruction does best on segmentation, contrastive learning on classification and hybrids of the two on both
(FOMO25 challenge, arXiv 2604.11679; OpenMind, arXiv 2412.17041).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from pretrain.augment import generator_on
from pretrain.backbones import Backbone
from pretrain.objectives.base import Objective
from synth.errors import UserError
from synth.stream import Batch


class Hybrid(Objective):
    """``Σ weight · loss``; every part prepares the batch in its own way and has its own pass through the backbone.

    Args:
        backbone: that all parts share.
        parts: name → objective.
        weights: one for each part; 1 if empty.

    Raises:
        UserError: weights that do not fit the parts.
    """

    def __init__(self, backbone: Backbone, parts: Mapping[str, Objective], weights: tuple[float, ...] = ()) -> None:
        super().__init__()
        weights = weights or (1.0,) * len(parts)
        if len(weights) != len(parts) or not all(0 <= w < math.inf for w in weights) or sum(weights) <= 0:
            raise UserError(
                f"--objective.weights is {','.join(f'{w:g}' for w in weights)}; expected one number of 0 or more for "
                f"each of {', '.join(parts)}"
            )
        self.backbone = backbone
        self.parts = nn.ModuleList(parts.values())
        self.names, self.weights = tuple(parts), weights
        self.labels = any(part.labels for part in parts.values())
        self.needs_covariates = any(part.needs_covariates for part in parts.values())
        self.smallest_batch = max(part.smallest_batch for part in parts.values())

    def prepare(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """As it is: every part prepares it for itself."""
        return image

    prepare_held_out = prepare

    def loss(
        self, image: torch.Tensor, index: torch.Tensor, generator: torch.Generator, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The weighted sum; ``image [B, C, D, H, W]`` as stored."""
        total = torch.zeros((), device=image.device)
        for part, weight in zip(self.parts, self.weights, strict=True):
            assert isinstance(part, Objective)
            own = part.prepare(image, generator_on(image.device, generator))
            total = total + weight * part.loss(own, index, generator, label)
        return total

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The figures of every part, with its name before them."""
        figures: dict[str, float] = {}
        for name, part in zip(self.names, self.parts, strict=True):
            assert isinstance(part, Objective)
            figures |= {f"{name}_{figure}": value for figure, value in part.evaluate(batches).items()}
        return figures

    def pictures(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The pictures of every part."""
        found: dict[str, torch.Tensor] = {}
        for part in self.parts:
            assert isinstance(part, Objective)
            found |= part.pictures(batch, generator)
        return found
