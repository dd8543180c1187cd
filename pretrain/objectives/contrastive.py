"""What contrastive objectives share: a projector, and the loss that pulls views together that should be near."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from synth.errors import UserError

FAR = -1e4  # a logit whose softmax is 0


def projector(features: int, size: int) -> nn.Module:
    """Two layers with batch norm (Chen et al. 2020, ICML): ``[B, F]`` → ``[B, size]``. Thrown away after pre-training."""
    return nn.Sequential(
        nn.Linear(features, features, bias=False),
        nn.BatchNorm1d(features),
        nn.ReLU(),
        nn.Linear(features, size),
    )


def contrast(views: torch.Tensor, weights: torch.Tensor, temperature: float) -> torch.Tensor:
    """``-Σ_j w_ij log softmax_j(cos(z_i, z_j) / T)``, mean over i; j runs over all other views.

    With a weight on each view's own other view alone it is NT-Xent (Chen et al. 2020, ICML), with a kernel on
    covariates y-Aware InfoNCE (Dufumier et al. 2021, MICCAI).

    Args:
        views: ``[N, E]``.
        weights: ``[N, N]``, 0 or more; a row is divided by its sum, the diagonal is not used.
        temperature: T.
    """
    near = F.normalize(views.float(), dim=1)
    with torch.autocast(views.device.type, enabled=False):  # bfloat16 keeps three digits, of logits up to 1 / T
        logits = near @ near.T / temperature
    self_ = torch.eye(len(views), dtype=torch.bool, device=views.device)
    share = F.log_softmax(logits.masked_fill(self_, FAR), dim=1)
    weights = weights.masked_fill(self_, 0.0)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-12)
    return -(weights * share).sum(1).mean()


def own_other_view(count: int, device: torch.device | None = None) -> torch.Tensor:
    """``[2B, 2B]`` 1 between the two views of a volume; views i and B + i are of volume i."""
    return torch.eye(2 * count, device=device).roll(count, 0)


def check_temperature(temperature: float) -> float:
    """``temperature`` itself. Raises UserError where it is not above 0."""
    if not 0 < temperature <= 10:
        raise UserError(f"--objective.temperature is {temperature:g}; expected a number above 0, such as 0.1")
    return temperature


def check_projection(projection: int) -> int:
    """``projection`` itself. Raises UserError where it is not 1 or more."""
    if projection < 1:
        raise UserError(f"--objective.projection is {projection}; expected 1 or more, such as 128")
    return projection
