"""Diffusion: a generator that learnt its volumes from a corpus (latent diffusion)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synth.diffusion.conditions import Condition, encode
from synth.diffusion.weights import open_weights
from synth.errors import UserError
from synth.generator import Generator, Params
from synth.keys import new_seed
from synth.sample import Sample

if TYPE_CHECKING:
    from synth.diffusion.weights import Networks


class Diffusion(Generator):
    """Latent diffusion under conditions (age, sex, diagnosis…), with weights made by ``brainloom synth train``.

    Grid, affine and conditions are the training corpus's; label maps there are none. Numbers are drawn uniform in the
    trained range and independent of one another, words as often as in the training corpus. Volumes are rendered one
    by one on one CPU thread, so that a volume's bits depend neither on its batch nor on the number of cores; more
    Ray workers make it faster. Bits do depend on the kind of processor or GPU, as all of torch's do.

    Args:
        weights: folder made by brainloom synth train, or published weights: a folder or an id of the Hugging Face hub.
        steps: denoising steps, 1 to 1000; if not given 25, with published weights as many as their makers take.
        guidance: 1 follows the conditions as trained, more exaggerates them at twice the cost; 1 if not given, with published
            weights what their makers take.
        ages: youngest,oldest in years, within the trained range; the trained range if absent.
        diagnoses: only these; all of the trained ones if absent.
    """

    needs_actor = True

    def __init__(
        self,
        weights: Path,
        steps: int | None = None,
        guidance: float | None = None,
        ages: tuple[float, float] | None = None,
        diagnoses: tuple[str, ...] = (),
    ) -> None:
        if steps is not None and not 1 <= steps <= 1000:
            raise UserError(f"steps is {steps}; expected a whole number from 1 to 1000")
        if guidance is not None and not 0 <= guidance <= 20:
            raise UserError(f"guidance is {guidance}; expected a number from 0 to 20 (1 is as trained)")
        self.weights = open_weights(Path(weights))
        if guidance not in (None, 1) and not self.weights.guided:
            raise UserError(
                f"guidance is {guidance}, but the weights '{weights}' were never trained without conditions; leave it at 1"
            )
        self.steps = int(steps or self.weights.steps)
        self.guidance = self.weights.guidance if guidance is None else float(guidance)
        self.conditions = self.weights.conditions
        self._drawn = [_narrowed(condition, ages, tuple(diagnoses)) for condition in self.conditions]
        for option, name, given in (("ages", "age", ages), ("diagnoses", "diagnosis", diagnoses)):
            if given and name not in [condition.name for condition in self.conditions]:
                told = ", ".join(condition.name for condition in self.conditions)
                raise UserError(
                    f"{option} was given, but the weights '{weights}' are not told {name}; they are told {told}"
                )

    @classmethod
    def complete(cls, arguments: Params) -> Params:
        """Steps and guidance as numbers, also those left to the weights."""
        try:
            weights = open_weights(Path(arguments["weights"]))
        except (UserError, KeyError, TypeError):
            return arguments  # refused in the constructor's or the command line's own words
        usual = {"steps": weights.steps, "guidance": weights.guidance}
        return {**arguments, **{name: value for name, value in usual.items() if arguments.get(name) is None}}

    def draw(self, rng: np.random.Generator) -> Params:
        """Who, and the seed of the noise."""
        person = {condition.name: condition.draw(rng) for condition in self._drawn}
        return {"conditions": person, "noise_seed": new_seed(rng)}

    def render(self, params: Params) -> Sample:
        """The volume ``[1, D, H, W]`` in [0, 1] of one record, with the conditions as covariates.

        Raises:
            ValueError: the networks gave NaN or infinity (the training diverged, or the files are damaged).
        """
        import torch

        from synth.diffusion.networks import margins
        from synth.diffusion.sampling import decode_volume, noise_of, sample_latent
        from synth.repeatable import repeatable

        autoencoder, unet, mean = self._networks
        config, device = self.weights.config, mean.device
        before = tuple(low for low, _ in margins(self.weights.shape, autoencoder.size))
        vector = torch.from_numpy(encode(self.conditions, params["conditions"]))[None].to(device)
        noise = torch.from_numpy(noise_of(params["noise_seed"], mean.shape)).to(device)
        with repeatable():
            latent = sample_latent(unet, self.weights.sampler(self.steps), noise, vector, self.guidance)
            image = decode_volume(autoencoder, latent / config["scale_factor"] + mean, before, self.weights.shape)
        if not np.isfinite(image).all():
            raise ValueError(
                f"weights '{self.weights.path}' gave NaN or infinity; train them again with another --seed"
            )
        return Sample(image, None, params["conditions"], self.weights.affine)

    def parents(self) -> list[dict[str, Any]]:
        """The weights, the corpus they learnt from, and everything that corpus derives from."""
        return self.weights.parents()

    @cached_property
    def _networks(self) -> Networks:
        """Autoencoder, U-Net and the mean latent ``[1, c, d, h, w]`` on the device."""
        from synth.diffusion.networks import best_device

        return self.weights.networks(best_device())


def _narrowed(condition: Condition, ages: tuple[float, float] | None, diagnoses: tuple[str, ...]) -> Condition:
    """The condition as it is drawn: within the ages and diagnoses that were asked for."""
    if condition.name == "age" and ages is not None:
        if len(ages) != 2 or not condition.low <= ages[0] <= ages[1] <= condition.high:
            raise UserError(
                f"ages is {','.join(map(str, ages))}; expected youngest,oldest within the trained range "
                f"{condition.low:g},{condition.high:g}"
            )
        return Condition("age", float(ages[0]), float(ages[1]))
    if condition.name == "diagnosis" and diagnoses:
        unknown = [word for word in diagnoses if word not in condition.words]
        if unknown:
            raise UserError(f"diagnoses holds '{unknown[0]}'; the weights know {', '.join(condition.words)}")
        shares = dict(zip(condition.words, condition.shares, strict=True))
        return Condition(condition.name, words=diagnoses, shares=tuple(shares[word] for word in diagnoses))
    return condition
