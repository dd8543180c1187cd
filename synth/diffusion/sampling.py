"""From a condition vector and noise to a volume: DDIM in the latent, then the decoder. Deterministic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from synth.diffusion.conditions import UNTOLD
from synth.diffusion.networks import Autoencoder, Size, foretell, sample_scheduler
from synth.keys import rng_for


def noise_of(seed: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Standard normal noise of one volume's latent, the same on every device."""
    return rng_for(seed, 0, "diffusion noise").standard_normal(shape, np.float32)


class Sampler(Protocol):
    """Leads one batch from noise to a clean latent."""

    @property
    def times(self) -> Sequence[float]:
        """The timesteps that the U-Net is told, one per step."""
        ...

    def step(self, answer: Tensor, at: int, latent: Tensor) -> Tensor:
        """The latent after step ``at``, from the U-Net's answer at ``times[at]``."""
        ...

    def end(self, latent: Tensor) -> Tensor:
        """The clean latent when all steps are done."""
        ...


class DDIM:
    """The sampler of weights that brainloom trained, see :func:`synth.diffusion.networks.sample_scheduler`."""

    def __init__(self, size: Size, steps: int) -> None:
        self.core = sample_scheduler(size, steps)
        self.times: list[int] = self.core.timesteps.tolist()
        self.clean = torch.empty(0)

    def step(self, answer: Tensor, at: int, latent: Tensor) -> Tensor:
        """As :meth:`Sampler.step`."""
        latent, self.clean = self.core.step(answer, self.times[at], latent)
        return latent

    def end(self, latent: Tensor) -> Tensor:
        """What the last step took for clean: it stops short of timestep 0."""
        return self.clean


def sample_latent(unet: nn.Module, sampler: Sampler, noise: Tensor, vector: Tensor, guidance: float) -> Tensor:
    """Latents ``[B, c, d, h, w]`` (in units of the scaled latent) from ``noise`` under conditions ``vector`` [B, K].

    ``guidance`` 1 follows the conditions as trained; above, they are exaggerated (classifier-free guidance, Ho &
    Salimans 2022) at twice the cost.
    """
    latent = noise
    for at, timestep in enumerate(sampler.times):
        times = torch.full((len(noise),), timestep, device=noise.device)
        answer = foretell(unet, latent, times, vector)
        if guidance != 1.0:
            untold = foretell(unet, latent, times, torch.full_like(vector, UNTOLD))
            answer = untold + guidance * (answer - untold)
        latent = sampler.step(answer, at, latent)
    return sampler.end(latent)


def decode_volume(
    autoencoder: Autoencoder, latent: Tensor, before: tuple[int, ...], shape: tuple[int, int, int]
) -> npt.NDArray[np.float32]:
    """One volume ``[1, D, H, W]`` in [0, 1]: decoded, the padding cut off."""
    padded = autoencoder.decode(latent)[0]
    window = tuple(slice(start, start + n) for start, n in zip(before, shape, strict=True))
    return padded[(slice(None), *window)].clamp(0, 1).float().cpu().numpy()
