"""From a condition vector and noise to a volume: DDIM in the latent, then the decoder. Deterministic."""

from __future__ import annotations

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


def sample_latent(unet: nn.Module, size: Size, noise: Tensor, vector: Tensor, steps: int, guidance: float) -> Tensor:
    """Latents ``[B, c, d, h, w]`` (in units of the scaled latent) from ``noise`` under conditions ``vector`` [B, K].

    ``guidance`` 1 follows the conditions as trained; above, they are exaggerated (classifier-free guidance, Ho &
    Salimans 2022) at twice the cost.
    """
    scheduler = sample_scheduler(size, steps)
    latent = clean = noise
    for timestep in scheduler.timesteps.tolist():
        times = torch.full((len(noise),), timestep, device=noise.device)
        answer = foretell(unet, latent, times, vector)
        if guidance != 1.0:
            untold = foretell(unet, latent, times, torch.full_like(vector, UNTOLD))
            answer = untold + guidance * (answer - untold)
        latent, clean = scheduler.step(answer, timestep, latent)
    return clean


def decode_volume(
    autoencoder: Autoencoder, latent: Tensor, before: tuple[int, ...], shape: tuple[int, int, int]
) -> npt.NDArray[np.float32]:
    """One volume ``[1, D, H, W]`` in [0, 1]: decoded, the padding cut off."""
    padded = autoencoder.decode(latent)[0]
    window = tuple(slice(start, start + n) for start, n in zip(before, shape, strict=True))
    return padded[(slice(None), *window)].clamp(0, 1).float().cpu().numpy()
