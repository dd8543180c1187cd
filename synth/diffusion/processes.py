"""From a clean latent to noise and back: DDPM's noise and rectified flow's straight path, on MONAI's schedulers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.schedulers.ddim import DDIMScheduler
from monai.networks.schedulers.ddpm import DDPMScheduler
from monai.networks.schedulers.rectified_flow import RFlowScheduler
from torch import Tensor

TRAIN_TIMESTEPS = 1000
BETAS: dict[str, Any] = {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0205}
"""Noise schedule of Pinaya et al. 2022 as in MONAI's model-zoo bundle brain_image_synthesis_latent_diffusion_model."""


def shifted(times: npt.NDArray[np.int64], shift: float) -> npt.NDArray[np.int64]:
    """Times in 0 … 999 moved towards noise: the share t of noise becomes ``shift · t / (1 + (shift − 1) · t)``."""
    share = (times + 1) / TRAIN_TIMESTEPS
    moved = shift * share / (1 + (shift - 1) * share)
    return np.clip(np.rint(moved * TRAIN_TIMESTEPS).astype(np.int64) - 1, 0, TRAIN_TIMESTEPS - 1)


def noisy_and_wanted(prediction: str, latent: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """What the U-Net is shown at ``times`` [B] in 0 … 999, and what it should foretell, both like ``latent`` [B, …]."""
    if (
        prediction == "rectified_flow"
    ):  # the velocity from noise to latent (Liu et al. 2023), as MONAI's scheduler steps
        return RFlowScheduler(TRAIN_TIMESTEPS).add_noise(latent, noise, times + 1), latent - noise
    scheduler = DDPMScheduler(TRAIN_TIMESTEPS, prediction_type=prediction, clip_sample=False, **BETAS)
    wanted = noise if prediction == "epsilon" else scheduler.get_velocity(latent, noise, times)
    return scheduler.add_noise(latent, noise, times), wanted


class DDIM:
    """DDIM (Song et al. 2021) at evenly spaced timesteps that begin at pure noise and end at a clean latent.

    MONAI's own list of timesteps (a linspace) is not spaced as its ``step`` assumes (``T // steps``), so latents would
    be taken for noisier than they are; the list is set anew, counted down from T as Lin et al. 2024 advise. Where the
    number of steps does not divide T, distances differ by one, and ``step`` is told each of them.
    """

    def __init__(self, prediction: str, steps: int) -> None:
        self.core = DDIMScheduler(TRAIN_TIMESTEPS, prediction_type=prediction, clip_sample=False, **BETAS)
        ends = [
            TRAIN_TIMESTEPS - 1 - at * TRAIN_TIMESTEPS // steps for at in range(steps + 1)
        ]  # the last, -1, is clean
        self.times: list[int] = ends[:-1]
        self.following = dict(pairwise(ends))
        self.clean = torch.empty(0)

    def step(self, answer: Tensor, at: int, latent: Tensor) -> Tensor:
        """The latent at the next of ``times``, from the U-Net's answer at place ``at`` of them."""
        time = self.times[at]
        # MONAI's step goes num_train_timesteps // num_inference_steps back
        self.core.num_train_timesteps, self.core.num_inference_steps = time - self.following[time], 1
        latent, self.clean = self.core.step(answer, time, latent)
        return latent

    def end(self, latent: Tensor) -> Tensor:
        """The clean latent when all steps are done."""
        return self.clean


class PNDM(DDIM):
    """Pseudo linear multistep (PNDM, Liu et al. 2022): DDIM's step with noise foretold from up to four answers.

    It starts with an improved Euler step instead of Runge-Kutta's: one call of the U-Net more than steps. MONAI's
    PNDMScheduler without Runge-Kutta forgets that this first step is made twice and is a step ahead from then on.
    """

    WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))

    def __init__(self, prediction: str, steps: int) -> None:
        super().__init__("epsilon", steps)
        self.prediction = prediction
        self.times = [self.times[0], *self.times[1:2], *self.times[1:]]
        self.noises: list[Tensor] = []  # the latest first
        self.first = torch.empty(0)

    def step(self, answer: Tensor, at: int, latent: Tensor) -> Tensor:
        """As :meth:`DDIM.step`; the second call makes the first step again, better."""
        noise = self._noise(answer, self.times[at], latent)
        if at == 1:
            return super().step((self.noises[0] + noise) / 2, 0, self.first)
        if at == 0:
            self.first = latent
        self.noises = [noise, *self.noises[:3]]
        mixed = torch.zeros_like(noise)
        for weight, known in zip(self.WEIGHTS[len(self.noises) - 1], self.noises, strict=True):
            mixed = mixed + weight * known
        return super().step(mixed, at, latent)

    def _noise(self, answer: Tensor, time: int, latent: Tensor) -> Tensor:
        """The noise that an answer means (Salimans & Ho 2022 for v)."""
        if self.prediction == "epsilon":
            return answer
        share = self.core.alphas_cumprod[time].to(latent)
        return share.sqrt() * answer + (1 - share).sqrt() * latent


class RectifiedFlow:
    """Euler steps along a straight path (Liu et al. 2023)."""

    def __init__(self, prediction: str, steps: int) -> None:
        self.core = RFlowScheduler(TRAIN_TIMESTEPS, use_discrete_timesteps=False)
        self.core.num_inference_steps = steps
        self.ends = [TRAIN_TIMESTEPS * (1 - at / steps) for at in range(steps + 1)]
        self.times: list[int] = [max(0, round(end) - 1) for end in self.ends[:-1]]  # as noisy_and_wanted counts

    def step(self, answer: Tensor, at: int, latent: Tensor) -> Tensor:
        """As :meth:`DDIM.step`."""
        return latent + answer * ((self.ends[at] - self.ends[at + 1]) / TRAIN_TIMESTEPS)

    def end(self, latent: Tensor) -> Tensor:
        """The latent itself."""
        return latent


class AdamsBashforth(RectifiedFlow):
    """Two-step Adams-Bashforth along the path, in steps that are shorter near noise, where the large shapes are made.

    Each step leans on the answer before it, at no further call: with ten steps it came nearer to held-out volumes than
    Euler's with fifty (docs/diffusion.md).
    """

    SHIFT = 3.0  # of the steps (Esser et al. 2024); of 2, 3, 4 and 6 it came nearest to a path of 120 steps

    def __init__(self, prediction: str, steps: int) -> None:
        super().__init__(prediction, steps)
        shares = [1 - at / steps for at in range(steps + 1)]
        self.ends = [TRAIN_TIMESTEPS * self.SHIFT * share / (1 + (self.SHIFT - 1) * share) for share in shares]
        self.times = [max(0, round(end) - 1) for end in self.ends[:-1]]
        self.before = torch.empty(0)

    def step(self, answer: Tensor, at: int, latent: Tensor) -> Tensor:
        """As :meth:`DDIM.step`; the first step is Euler's."""
        leaning = answer
        if at:
            now, last = self.ends[at] - self.ends[at + 1], self.ends[at - 1] - self.ends[at]
            leaning = answer + 0.5 * now / last * (answer - self.before)
        self.before = answer
        return super().step(leaning, at, latent)


def make_sampler(name: str, prediction: str, steps: int) -> DDIM | RectifiedFlow:
    """A sampler by name, for a U-Net that foretells ``prediction``."""
    kinds: dict[str, type[DDIM] | type[RectifiedFlow]] = {
        "ddim": DDIM,
        "pndm": PNDM,
        "adams_bashforth": AdamsBashforth,
        "rectified_flow": RectifiedFlow,
    }
    return kinds[name](prediction, steps)
