"""A small network that segments volumes on the working grid: it learns on the reference's own label maps in about a
minute, and its errors are measured on volumes that it did not learn from.

For every voxel the network sees the intensity and the position and adds its evidence to the logarithm of the prior,
how often the reference has each group there. Volumes are sums of probabilities, so that partial voxels count by share,
and are calibrated: the line from true to summed volume is fitted on volumes kept apart, and inverted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from synth.audit.grid import Floats, Triple, Volumes, some
from synth.audit.groups import GROUPS, NAMES, PARTS
from synth.audit.matching import Show
from synth.keys import rng_for

if TYPE_CHECKING:
    import torch
    from torch import nn

LEARNT_FROM = 120  # volumes, at most
CHECKED_ON = 50
BATCH = 2
RATE = 1.5e-2  # highest learning rate of the one-cycle schedule (Smith & Topin 2019)
CHANNELS = (8, 16, 32)
MULTIPLE = 4  # voxels along an axis that the strides need
PRIOR_SD = 1.5  # voxels
GAMMA, NOISE = (0.8, 1.25), 0.05  # of the augmentation: exponent, SD at most
NAME = "3D U-Net (8, 16, 32 channels) on intensity, position and the reference's prior"


def padding(shape: Triple) -> list[tuple[int, int]]:
    """(before, after) along each axis up to the next multiple of ``MULTIPLE``."""
    return [(0, -n % MULTIPLE) for n in shape]


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A trained network.

    Attributes:
        network: ``[B, 4, D, H, W]`` intensity and position → ``[B, G, D, H, W]`` evidence.
        prior: ``[G, D, H, W]`` logarithm of how often a voxel belongs to each group; padded.
        shape: of the volumes, not padded.
    """

    network: nn.Module
    prior: torch.Tensor
    shape: Triple

    def probabilities(self, image: Floats) -> Floats:
        """``[G, D, H, W]`` of one standardised volume."""
        import torch

        from synth.repeatable import repeatable

        with repeatable():
            x = torch.cat([_padded(image)[None], positions(self.shape)])[None]
            probability = (self.network(x)[0] + self.prior).softmax(dim=0).numpy()
        d, h, w = self.shape
        inside: Floats = probability[:, :d, :h, :w]
        return inside


def positions(shape: Triple) -> torch.Tensor:
    """``[3, D, H, W]`` coordinates from -1 to 1, padded."""
    import torch

    axes = [
        np.linspace(-1, 1, n + after, dtype=np.float32) for n, (_, after) in zip(shape, padding(shape), strict=True)
    ]
    return torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij")))


def _padded(image: Floats) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.pad(image, padding((image.shape[0], image.shape[1], image.shape[2]))))


def log_prior(shares: npt.NDArray[np.uint8]) -> torch.Tensor:
    """``[G, D, H, W]`` from the reference's shares ``[N, G, D, H, W]`` in 255ths: blurred, so that no voxel is certain."""
    import torch
    from scipy.ndimage import gaussian_filter

    mean = shares.mean(axis=0, dtype=np.float32) / 255
    blurred = np.stack([gaussian_filter(one, PRIOR_SD) for one in mean]) + 1e-3
    blurred /= blurred.sum(axis=0)
    d, h, w = mean.shape[1:]
    edges = [(0, 0), *padding((d, h, w))]
    return torch.from_numpy(np.log(np.pad(blurred, edges, constant_values=1 / len(GROUPS))).astype(np.float32))


def train(
    volumes: Volumes, learn_from: list[int], groups: npt.NDArray[np.uint8], steps: int, seed: int, show: Show
) -> Segmenter:
    """A segmenter that learnt from some of the reference's volumes; one thread, the same bits every time."""
    import torch
    from monai.networks.nets.unet import UNet

    threads = torch.get_num_threads()
    images = np.stack([volumes.image(i).astype(np.float16) for i in learn_from])
    shares = np.stack([np.rint(volumes.shares(i, groups) * 255).astype(np.uint8) for i in learn_from])
    prior = log_prior(shares)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(3, 4, len(GROUPS), CHANNELS, (2,) * (len(CHANNELS) - 1), num_res_units=0)
    optimiser = torch.optim.AdamW(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    torch.set_num_threads(1)
    try:
        for step in range(steps):
            rng = rng_for(seed, step, "audit segmenter")
            chosen = rng.integers(len(images), size=BATCH)
            x = torch.stack([_augmented(images[i].astype(np.float32), rng) for i in chosen])
            loss = loss_of(network(x) + prior, _targets(shares[chosen]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            show(step + 1, steps)
    finally:
        torch.set_num_threads(threads)
    return Segmenter(network.eval(), prior, volumes.shape)


def _augmented(image: Floats, rng: np.random.Generator) -> torch.Tensor:
    """``[4, D, H, W]``: intensity with another gamma and noise, and position."""
    import torch

    changed = np.sign(image) * np.abs(image) ** rng.uniform(*GAMMA)
    changed = changed + rng.normal(0, rng.uniform(0, NOISE), image.shape)
    d, h, w = image.shape
    return torch.cat([_padded(changed.astype(np.float32))[None], positions((d, h, w))])


def _targets(shares: npt.NDArray[np.uint8]) -> torch.Tensor:
    """``[B, G, D, H, W]`` shares that add up to 1, padded with background."""
    import torch

    d, h, w = shares.shape[2:]
    edges = padding((d, h, w))
    padded = np.pad(shares.astype(np.float32) / 255, [(0, 0), (0, 0), *edges])
    padded[:, 0] += 1 - padded.sum(axis=1)
    return torch.from_numpy(padded)


def loss_of(evidence: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus soft Dice loss (Milletari et al. 2016), both ``[B, G, D, H, W]``."""
    entropy = -(target * evidence.log_softmax(dim=1)).sum(dim=1).mean()
    probability = evidence.softmax(dim=1)
    axes = (0, 2, 3, 4)
    dice = (2 * (probability * target).sum(axes) + 1) / ((probability + target).sum(axes) + 1)
    return entropy + 1 - dice.mean()


def regions_of(probability: Floats, voxel_mm3: float) -> dict[str, float]:
    """mm³ of every measured region from ``[G, D, H, W]`` probabilities or shares."""
    sums = dict(zip(GROUPS, probability.sum(axis=(1, 2, 3), dtype=np.float64) * voxel_mm3, strict=True))
    sums["brain"] = sum(sums[part] for part in PARTS)
    return {name: float(sums[name]) for name in NAMES}


def split(count: int) -> tuple[list[int], list[int]]:
    """Reference volumes to learn from, and those kept apart: every fifth, up to ``CHECKED_ON``."""
    apart = list(range(4, count, 5))
    learnt = [i for i in range(count) if i % 5 != 4]
    return [learnt[i] for i in some(len(learnt), LEARNT_FROM)], [apart[i] for i in some(len(apart), CHECKED_ON)]
