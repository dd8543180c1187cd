"""What a backbone costs, counted without running it."""

from __future__ import annotations

from typing import Any

import torch

from pretrain.backbones.base import Shape, count_parameters
from pretrain.backbones.table import BACKBONES

LISTED: Shape = (96, 96, 96)


def describe(shape: Shape = LISTED) -> list[dict[str, Any]]:
    """One row per backbone: name, parameters, length of the pooled feature, what it is."""
    rows = []
    for name, entry in BACKBONES.items():
        with torch.device("meta"):
            made = entry.make(shape, 1, entry.options())
        rows.append(
            {"backbone": name, "parameters": count_parameters(made), "feature": made.feature_size, "about": entry.about}
        )
    return rows
