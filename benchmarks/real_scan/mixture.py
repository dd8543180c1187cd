"""What intensities say of classes: the generator's own model, a Gaussian per class under a smooth field, read backwards.

A network that must name tissues in any contrast finds where things are long before it learns that the folds between
them follow whatever contrast this one image has. That second half is known: every class was painted with one mean and
one spread, under a bias field. So the network's probabilities serve as prior of a mixture whose means and spreads are
found in the image itself, by expectation maximisation (Wells et al. 1996, IEEE TMI 15:429; Van Leemput et al. 1999,
IEEE TMI 18:897; with a learnt prior in place of an atlas, Ashburner and Friston 2005, NeuroImage 26:839).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 8  # voxels along the edge of a block, which has one mean and spread of every class
STRIDE = 2  # every second voxel along each axis is enough to find them
EVERYWHERE = 0.02  # weight, in a block, of the class in the whole image: what a block lacks is known from there
LEAST_SD = 0.03  # of the image's range 0 to 1
TRUST = 1.0  # weight of the fit beside the prior


@torch.no_grad()
def posterior(image: Tensor, logits: Tensor, rounds: int) -> Tensor:
    """``[B, C, D, H, W]`` probabilities: the prior's ``logits`` times what the intensities say, by Bayes' rule.

    Class 0, whatever is outside, has no intensity of its own: it fits as well as the best other class everywhere.

    Args:
        image: ``[B, 1, D, H, W]``, 0 to 1; D, H, W divide by ``BLOCK``.
        logits: ``[B, C, D, H, W]``.
        rounds: of expectation maximisation; at 0 the prior itself comes back.
    """
    if not rounds:
        return logits.float().softmax(1)
    return (logits.float().log_softmax(1) + TRUST * log_likelihood(image, logits, rounds - 1)).softmax(1)


@torch.no_grad()
def log_likelihood(image: Tensor, logits: Tensor, rounds: int) -> Tensor:
    """``[B, C, D, H, W]`` log density of each voxel's intensity in each class, less the best class's, at least -10.

    Args:
        image: ``[B, 1, D, H, W]``, 0 to 1.
        logits: ``[B, C, D, H, W]`` of the prior.
        rounds: of expectation maximisation; at 0 means and spreads are the prior's.
    """
    image, logits = image.float(), logits.float()
    few, prior = (v[:, :, ::STRIDE, ::STRIDE, ::STRIDE] for v in (image, logits))
    prior = prior.log_softmax(1)
    share = prior.exp()
    for turn in range(rounds + 1):
        mean, variance = moments(few, share)
        if turn < rounds:
            share = (prior + _density(few, mean, variance, BLOCK // STRIDE)).softmax(1)
    return _density(image, mean, variance, BLOCK)


def moments(image: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """``[B, C, d, h, w]`` mean and variance per block of every class, from ``[B, 1, …]`` and the classes' shares ``[B, C, …]``."""

    def near(values: Tensor) -> Tensor:
        blocks = F.avg_pool3d(values, BLOCK // STRIDE)
        around = F.avg_pool3d(blocks, 3, 1, 1, count_include_pad=False)
        return around + EVERYWHERE * blocks.mean((2, 3, 4), keepdim=True)

    weight = near(share) + 1e-9
    mean = near(share * image) / weight
    variance = near(share * image * image) / weight - mean * mean
    return mean, variance.clamp_min(0) + LEAST_SD**2


def _density(image: Tensor, mean: Tensor, variance: Tensor, block: int) -> Tensor:
    mean, variance = (F.interpolate(v, scale_factor=float(block), mode="trilinear") for v in (mean, variance))
    density = -0.5 * ((image - mean) ** 2 / variance + variance.log())
    density[:, 0] = density[:, 1:].amax(1)
    return (density - density.amax(1, keepdim=True)).clamp_min_(-10)
