"""Samplers that step as the makers of published weights do. Imports torch and monai: import it late."""

from __future__ import annotations

from typing import cast

import torch
from monai.networks.schedulers.ddim import DDIMScheduler
from torch import Tensor

from synth.diffusion.processes import BETAS, TRAIN_TIMESTEPS


class LeadingDDIM:
    """DDIM (Song et al. 2021) at the timesteps of monai-generative and of MONAI to 1.5.1, for which the bundle was made.

    They end at 0 and begin a step short of pure noise: 980, 960, … 0 for 50 steps ("leading" in Lin et al. 2024). MONAI
    since then spreads its list from 999 to 0, but its step still assumes a distance of T // steps; so the list is set here.
    With a number of steps that does not divide T well it would begin far from noise: the bundle's weights refuse it.
    """

    def __init__(self, steps: int) -> None:
        self.core = DDIMScheduler(TRAIN_TIMESTEPS, prediction_type="epsilon", clip_sample=False, **BETAS)
        self.core.set_timesteps(steps)
        self.times: list[int] = [TRAIN_TIMESTEPS // steps * at for at in reversed(range(steps))]

    def step(self, answer: Tensor, at: int, latent: Tensor) -> Tensor:
        """The latent at the next of ``times``, from the U-Net's answer at place ``at`` of them."""
        following, _ = self.core.step(answer, self.times[at], latent)
        return following

    def end(self, latent: Tensor) -> Tensor:
        """The latent itself: the step from timestep 0 leaves no noise."""
        return latent


class TransformedFlow:
    """Euler steps along rectified flow (Liu et al. 2023) as MAISI takes them: the larger the latent, the longer it stays near
    noise (Esser et al. 2024). MONAI's scheduler keeps the timesteps to 11 binary digits, and steps to their whole part.
    """

    def __init__(self, steps: int, cells: int) -> None:
        from monai.networks.schedulers.rectified_flow import RFlowScheduler

        self.core = RFlowScheduler(TRAIN_TIMESTEPS, use_discrete_timesteps=False, use_timestep_transform=True)
        self.core.set_timesteps(steps, input_img_size_numel=cast(int, torch.tensor(cells)))  # as MAISI hands it over
        self.times: list[float] = self.core.timesteps.tolist()

    def step(self, answer: Tensor, at: int, latent: Tensor) -> Tensor:
        """As :meth:`LeadingDDIM.step`."""
        following = [*self.times[1:], 0][at]
        latent, _ = self.core.step(answer, cast(int, self.times[at]), latent, cast(int, following))
        return latent

    def end(self, latent: Tensor) -> Tensor:
        """The latent itself: the last step ends at 0."""
        return latent
