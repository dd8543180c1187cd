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
        bf16: whether they compute in bfloat16 where autocast takes it; latents stay in 32 bits between calls.
    """

    autoencoder: Autoencoder
    unet: nn.Module
    centre: Tensor
    scale: float
    frame: Frame
    control: Control | None = None
    bf16: bool = False

    def computing(self) -> torch.autocast:
        """Where the networks are called."""
        return torch.autocast(self.centre.device.type, torch.bfloat16, enabled=self.bf16)

    def foretell(self, *told: Any) -> Tensor:
        """What the U-Net says, in 32 bits (:func:`synth.diffusion.networks.foretell`)."""
        with self.computing():
            return foretell(self.unet, *told).float()


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
    rest = _followed(networks, label)
    nothing = torch.full_like(vector, UNTOLD)
    latent = noise
    for at, time in enumerate(sampler.times):
        times = torch.full((len(noise),), time, device=noise.device)
        answer = networks.foretell(latent, times, vector, *rest)
        if guidance != 1.0:
            untold = networks.foretell(latent, times, nothing, *rest)
            answer = untold + guidance * (answer - untold)
        latent = sampler.step(answer, at, latent)
    return sampler.end(latent)


def places_agree(
    networks: Networks, count: int, conditions: Sequence[Condition], shape: tuple[int, int, int], followed: bool = False
) -> bool:
    """Whether a volume comes out with the same bits from every place of a batch of ``count``, whatever is beside it.

    Different latents, timesteps, conditions and, where label maps are ``followed``, different label maps ``shape`` = [D, H,
    W] are shown in three arrangements: as they are, every one a place on, and the first at all places. Matrix products of
    few rows may sum rows in different orders: on the CPUs tried places of batches of 2 and 3 differed, places of batches
    of 4 and 8 agreed.
    """
    from synth.repeatable import repeatable

    parts = _probes(networks, count, width(conditions), shape if followed else None)
    orders = [torch.arange(count), torch.arange(count) - 1, torch.zeros(count, dtype=torch.long)]
    with repeatable():
        answers = [_answered(networks, *(part[order] for part in parts)) for order in orders]
        straight, moved, filled = answers
        first = straight[:1]
        volumes = decode(networks, first.expand(2, *first.shape[1:]).contiguous(), shape)
    same = all(torch.equal(straight[at - 1], moved[at]) for at in range(count))
    return same and all(torch.equal(first[0], other) for other in filled) and bool((volumes[0] == volumes[1]).all())


def _probes(networks: Networks, count: int, told: int, labelled: tuple[int, int, int] | None) -> list[Tensor]:
    """Noise, times, condition vectors and, on a grid ``labelled``, label maps of a batch, each volume's different."""
    device, cells = networks.centre.device, tuple(networks.centre.shape[1:])
    rng = rng_for(0, 0, "diffusion places")
    parts = [
        torch.from_numpy(np.stack([noise_of(seed, cells) for seed in range(count)])),
        torch.linspace(TRAIN_TIMESTEPS - 1, 0, count).long(),
        torch.from_numpy(rng.uniform(0, 1, (count, told)).astype(np.float32)),
    ]
    if labelled is not None:
        parts.append(torch.from_numpy(rng.choice(networks.frame.labels, (count, *labelled))))
    return [part.to(device) for part in parts]


def _answered(networks: Networks, noise: Tensor, times: Tensor, vector: Tensor, label: Tensor | None = None) -> Tensor:
    return networks.foretell(noise, times, vector, *_followed(networks, label))


def _followed(networks: Networks, label: Tensor | None) -> tuple[Any, ...]:
    """ControlNet and what it is shown, where there are both."""
    if label is None or networks.control is None:
        return ()
    with networks.computing():
        return networks.control, networks.control.embed(networks.frame.places(label))


def decode(networks: Networks, latent: Tensor, shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Volumes ``[B, 1, D, H, W]`` in [0, 1] of scaled latents, one decoded at a time, the padding cut off."""
    window = tuple(slice(low, low + n) for (low, _), n in zip(networks.frame.margins, shape, strict=True))
    whole = latent / networks.scale + networks.centre
    with networks.computing():
        decoded = [networks.autoencoder.decode(one)[0, 0][window] for one in whole.split(1)]
    volumes = [one.float().clamp(0, 1).cpu() for one in decoded]
    return torch.stack(volumes)[:, None].numpy()
