"""What dense objectives take from a backbone."""

from __future__ import annotations

import torch

from pretrain.backbones import Backbone
from synth.errors import UserError

Grid = tuple[int, ...]


@torch.no_grad()
def map_grid(backbone: Backbone, shape: Grid, wanted_by: str) -> Grid:
    """d, h, w of the feature map of a volume ``shape`` (C, D, H, W).

    Raises:
        UserError: a backbone without feature maps.
    """
    device, training = next(backbone.parameters()).device, backbone.training
    try:
        return tuple(backbone.eval().feature_map(torch.zeros(1, *shape, device=device)).shape[2:])
    except TypeError as error:
        raise UserError(
            f"objective {wanted_by} needs a backbone with feature maps, which {type(backbone).__name__} has not"
        ) from error
    finally:
        backbone.train(training)
