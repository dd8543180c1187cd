"""Backbones: volume ``[B, C, D, H, W]`` → pooled feature ``[B, F]``, and tokens or a feature map.

One file a family, one table (:data:`BACKBONES`) of them all.
"""

from __future__ import annotations

from pretrain.backbones.base import Backbone, Fit, Shape, count_parameters
from pretrain.backbones.cost import describe
from pretrain.backbones.positions import sincos_positions
from pretrain.backbones.sfcn import SFCN
from pretrain.backbones.table import BACKBONES, find_backbone, make_backbone, spell
from pretrain.backbones.vit import Block, ViT, ViTOptions

__all__ = [
    "BACKBONES",
    "SFCN",
    "Backbone",
    "Block",
    "Fit",
    "Shape",
    "ViT",
    "ViTOptions",
    "count_parameters",
    "describe",
    "find_backbone",
    "make_backbone",
    "sincos_positions",
    "spell",
]
