"""From condition vectors and noise to volumes: steps in the latent, then the decoder. Deterministic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from synth.diffusion.conditions import UNTOLD, Condition, width
from synth.diffusion.networks import Autoencoder, foretell
from synth.diffusion.processes import TRAIN_TIMESTEPS
from synth.keys import rng_for

if TYPE_CHECKING:
    from synth.diffusion.networks import Control
    from synth.diffusion.stages import Frame


@dataclass(frozen=True)
class Networks:
    """What sampling needs, on one device and in evaluation mode.

    Attributes:
        autoencoder, unet: the networks.
        centre: ``[1, c, d, h, w]``, mean latent.
        scale: of the latent.
        frame: margins, and labels where there is a ControlNet.
        control: the ControlNet, or None.
    """

    autoencoder: Autoencoder
    unet: nn.Module
    centre: Tensor
    scale: float
    frame: Frame
    control: Control | None = None


class Sampler(Protocol):
    """Leads one batch from noise to a clean latent; it holds what it saw."""

    @property
    def times(self) -> Sequence[float]:
        """The timesteps that the U-Net is told, one a call."""
        ...

    def step(self, answer: Tensor, at: int, latent: Tensor) -> Tensor:
        """The latent after call ``at``, from the U-Net's answer at ``times[at]``."""
        ...

    def end(self, latent: Tensor) -> Tensor:
        """The clean latent when all steps are done."""
        ...


def noise_of(seed: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Standard normal noise of one volume's latent, the same on every device."""
    return rng_for(seed, 0, "diffusion noise").standard_normal(shape, np.float32)


def sample_latent(
    networks: Networks,
    sampler: Sampler,
    noise: Tensor,
    vector: Tensor,
    guidance: float = 1.0,
    label: Tensor | None = None,
) -> Tensor:
    """Latents ``[B, c, d, h, w]`` (in units of the scaled latent) from ``noise`` under conditions ``vector`` [B, K] and,
    with a ControlNet, label maps ``label`` [B, D, H, W].

    ``guidance`` 1 follows the conditions as trained; above, they are exaggerated (classifier-free guidance, Ho &
    Salimans 2022) at twice the cost.
    """
    rest: tuple[Any, ...] = ()
    if label is not None and networks.control is not None:
        rest = (networks.control, networks.control.embed(networks.frame.places(label)))
    nothing = torch.full_like(vector, UNTOLD)
    latent = noise
    for at, time in enumerate(sampler.times):
        times = torch.full((len(noise),), time, device=noise.device)
        answer = foretell(networks.unet, latent, times, vector, *rest)
        if guidance != 1.0:
            untold = foretell(networks.unet, latent, times, nothing, *rest)
            answer = untold + guidance * (answer - untold)
        latent = sampler.step(answer, at, latent)
    return sampler.end(latent)


def places_agree(networks: Networks, count: int, conditions: Sequence[Condition]) -> bool:
    """Whether a latent comes out with the same bits from every place of a batch of ``count``.

    Matrix products of few rows may sum rows in different orders: on the CPUs tried places of batches of 2 and 3 differed,
    places of batches of 4 and 8 agreed.
    """
    from synth.repeatable import repeatable

    device, shape = networks.centre.device, tuple(networks.centre.shape[1:])
    noise = torch.from_numpy(noise_of(0, shape)).to(device).expand(count, *shape).contiguous()
    vector = torch.full((count, width(conditions)), 0.5, device=device)
    times = torch.full((count,), TRAIN_TIMESTEPS // 2, device=device)
    with repeatable():
        answer = foretell(networks.unet, noise, times, vector)
    return all(torch.equal(answer[0], other) for other in answer[1:])


def decode(networks: Networks, latent: Tensor, shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Volumes ``[B, 1, D, H, W]`` in [0, 1] of scaled latents, one decoded at a time, the padding cut off."""
    window = tuple(slice(low, low + n) for (low, _), n in zip(networks.frame.margins, shape, strict=True))
    whole = latent / networks.scale + networks.centre
    volumes = [networks.autoencoder.decode(one)[0, 0][window].clamp(0, 1).float().cpu() for one in whole.split(1)]
    return torch.stack(volumes)[:, None].numpy()
