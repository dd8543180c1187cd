"""The three stages: autoencoder, denoising U-Net in its latent, ControlNet beside the U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synth.diffusion import networks
from synth.diffusion.conditions import UNTOLD, Condition, spans
from synth.diffusion.learning import Course, Learning, initialised
from synth.diffusion.losses import Judges
from synth.diffusion.processes import TRAIN_TIMESTEPS, noisy_and_wanted, shifted
from synth.diffusion.settings import Autoencoding, Denoising
from synth.stream import Batch


@dataclass(frozen=True)
class Frame:
    """How a corpus's volumes are brought to the networks.

    Attributes:
        low, high: intensities that become 0 and 1.
        margins: voxels to add before and after each axis.
        labels: label numbers of the corpus in ascending order; a voxel of ``labels[k]`` becomes k.
    """

    low: float
    high: float
    margins: tuple[tuple[int, int], ...]
    labels: tuple[int, ...] = ()

    def image(self, image: Tensor) -> Tensor:
        """Padded images ``[B, 1, D, H, W]`` in [0, 1] of intensities ``[B, 1, D, H, W]``."""
        return F.pad(((image - self.low) / (self.high - self.low)).clamp(0, 1), self._pads())

    def places(self, label: Tensor) -> Tensor:
        """Padded label places ``[B, D, H, W]`` of label maps; a number that is not among ``labels`` becomes 0."""
        numbers = torch.tensor(self.labels, device=label.device)
        found = torch.searchsorted(numbers, label.long()).clamp_max(len(numbers) - 1)
        return F.pad(torch.where(numbers[found] == label, found, 0), self._pads())

    def _pads(self) -> list[int]:
        return [n for pair in reversed(self.margins) for n in pair]


class LearnAutoencoder(Learning):
    """Stage 1: reconstruct volumes."""

    name = "autoencoder"

    def __init__(self, net: networks.Autoencoder, course: Course, options: Autoencoding, frame: Frame) -> None:
        super().__init__(net, course)
        self.frame, self.options = frame, options
        shape = frame.image(torch.zeros(1, 1, 1, 1, 1)).shape[2:]
        padded = (shape[0], shape[1], shape[2])
        self.judges: Judges = initialised(course.seed, lambda: Judges(options, padded))  # a discriminator is drawn too
        self.pair: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))  # images of the last step, and back

    def loss_of(self, batch: Batch, step: int) -> Tensor:
        """The judges' sum."""
        image = self.frame.image(batch.image)
        net: Any = self.net
        mean, sd = net.encode(image)
        back = net.decode(mean + sd * self.like(mean, self.rng(step, "noise")))
        terms = self.judges(image, back, mean, sd, step)
        self.log_dict({name: term.detach() for name, term in terms.items()})
        self.pair = (image, back.detach())
        return torch.stack(list(terms.values())).sum()

    def after(self, step: int) -> None:
        """The discriminator, if there is one, learns from the batch that the autoencoder has just learnt from."""
        if self.judges.discriminator is None or step < self.options.adversarial_from:
            return
        _, optimizer = self.optimizers(use_pl_optimizer=False)  # type: ignore[misc]
        loss = self.judges.discriminator_loss(*self.pair)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        self.log("discriminator", loss.detach())

    def configure_optimizers(self) -> Any:
        """The autoencoder's optimiser, and the discriminator's if there is one."""
        mine = super().configure_optimizers()
        if self.judges.discriminator is None:
            return mine
        own = torch.optim.AdamW(self.judges.discriminator.parameters(), self.options.discriminator_rate)
        return [mine, own]


@dataclass(frozen=True)
class Latents:
    """How stored latents become what the U-Net sees: ``(mean - centre) × scale``.

    Attributes:
        centre: ``[c, d, h, w]``, mean latent of the corpus, or zeros.
        scale: 1 / SD of what is left (Rombach et al. 2022).
    """

    centre: Tensor
    scale: float

    def drawn(self, stored: Tensor, noise: Tensor) -> Tensor:
        """Latents ``[B, c, d, h, w]`` of stored means and SDs ``[B, 2c, d, h, w]``, drawn anew with ``noise``."""
        mean, sd = stored.float().chunk(2, dim=1)
        return (mean + sd * noise - self.centre.to(mean.device)) * self.scale


class LearnDenoising(Learning):
    """Stage 2: foretell noise, v or velocity in the latent (Ho et al. 2020; Salimans & Ho 2022; Liu et al. 2023)."""

    name = "diffusion"

    def __init__(
        self,
        net: nn.Module,
        course: Course,
        options: Denoising,
        latents: Latents,
        conditions: Sequence[Condition],
        vectors: npt.NDArray[np.float32],
    ) -> None:
        super().__init__(net, course, options.ema)
        self.options, self.latents, self.conditions = options, latents, list(conditions)
        self.vectors = torch.from_numpy(vectors)

    def loss_of(self, batch: Batch, step: int) -> Tensor:
        """Mean squared error at one random time per latent."""
        latent, noise, times, vector = self.drawn(batch, step)
        noisy, wanted = noisy_and_wanted(self.options.prediction, latent, noise, times)
        return F.mse_loss(self.answer(noisy, times, vector, batch).float(), wanted)

    def answer(self, noisy: Tensor, times: Tensor, vector: Tensor, batch: Batch) -> Tensor:
        """What the networks foretell."""
        return networks.foretell(self.net, noisy, times, vector)

    def drawn(self, batch: Batch, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents and noise ``[B, c, d, h, w]``, times [B] and condition vectors [B, K] of a step."""
        rng = self.rng(step, "step")
        stored = self.stored(batch)
        latent = self.latents.drawn(stored, self.like(stored[:, : stored.shape[1] // 2], rng))
        noise = self.like(latent, rng)
        times = rng.integers(0, TRAIN_TIMESTEPS, len(latent))
        if self.options.prediction == "rectified_flow" and self.options.shift != 1:
            times = shifted(times, self.options.shift)
        told = torch.from_numpy(times).to(latent.device)
        return latent, noise, told, self._told(batch.index, rng).to(latent.device)

    def stored(self, batch: Batch) -> Tensor:
        """Means and SDs ``[B, 2c, d, h, w]`` of the batch's latents."""
        return batch.image

    def _told(self, index: Tensor, rng: np.random.Generator) -> Tensor:
        vector = self.vectors[index].clone()
        hidden = untold(self.options, (len(vector), len(self.conditions)), rng)
        for span, column in zip(spans(self.conditions), hidden.T, strict=True):
            vector[torch.from_numpy(column), span] = UNTOLD
        return vector


def untold(options: Denoising, size: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which of ``size`` = (volumes, conditions) a step leaves untold, ``[B, K]``.

    Where some are left out (``untold_each``) the rate is drawn for each volume, so that every number of them is as likely as
    any other: at one fixed rate a single condition would hardly ever be seen without the rest.
    """
    volumes, conditions = size
    nothing, some = rng.random(volumes) < options.untold, rng.random(volumes) < options.untold_each
    rates = np.where(some, rng.random(volumes), 0.0)
    hidden: npt.NDArray[np.bool_] = rng.random((volumes, conditions)) < rates[:, None]
    return hidden | nothing[:, None]


class LearnControl(LearnDenoising):
    """Stage 3: the ControlNet learns what the U-Net, which stays as it is, needs to follow a label map."""

    name = "control"

    def __init__(
        self, net: networks.Control, fixed: tuple[networks.Autoencoder, nn.Module], frame: Frame, **rest: Any
    ) -> None:
        super().__init__(net, **rest)
        self.frame = frame
        self.fixed = tuple(network.eval().requires_grad_(False) for network in fixed)  # a tuple: not in checkpoints

    def stored(self, batch: Batch) -> Tensor:
        """As the autoencoder gives them: this stage is fed volumes with their label maps."""
        autoencoder: Any = self.fixed[0].to(batch.image.device)
        with torch.no_grad():
            return torch.cat(autoencoder.encode(self.frame.image(batch.image)), dim=1)

    def answer(self, noisy: Tensor, times: Tensor, vector: Tensor, batch: Batch) -> Tensor:
        """What both networks foretell together."""
        assert batch.label is not None
        control: Any = self.net
        hint = control.embed(self.frame.places(batch.label))
        return networks.foretell(self.fixed[1].to(noisy.device), noisy, times, vector, control, hint)
