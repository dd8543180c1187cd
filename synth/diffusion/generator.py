"""Diffusion: a generator that learnt its volumes from a corpus (latent diffusion)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from synth.diffusion.conditions import encode
from synth.diffusion.people import Masks, People, Ranges, Table, asked_for, narrowed
from synth.diffusion.weights import open_weights
from synth.errors import UserError
from synth.generator import Generator, Params
from synth.keys import new_seed
from synth.sample import Sample

if TYPE_CHECKING:
    from torch import Tensor

    from synth.diffusion.sampling import Networks


class Diffusion(Generator):
    """Latent diffusion under conditions (age, sex, diagnosis…), with weights made by ``brainloom synth train``.

    Grid, affine and conditions are the training corpus's. Conditions are drawn from ranges (numbers uniform and
    independent of one another, words as often as in the training corpus), from a table of people, or from a corpus whose
    label maps the volumes follow. Networks always see batches of one size, filled up where samples are too few, on one
    CPU thread: a volume's bits depend neither on what it is made together with nor on the number of cores; more Ray
    workers make it faster. Bits do depend on the kind of processor or GPU, on torch's version and on ``batch``.

    Args:
        weights: folder made by brainloom synth train, or published weights: a folder or an id of the Hugging Face hub.
        steps: calls of the U-Net, 1 to 1000; if not given 25, or 10 along a rectified flow; with published weights as many as
            their makers take.
        guidance: 1 follows the conditions as trained, more exaggerates them at twice the cost; 1 if not given, with published
            weights what their makers take.
        sampler: ddim or pndm (of noise and v), adams_bashforth or rectified_flow (Euler) of a flow; the first if not given.
        ages: youngest,oldest in years, within the trained range; the trained range if absent.
        diagnoses: only these; all of the trained ones if absent.
        asked: of any condition one value, low:high or words, such as sex=F,ventricular_volume=20000:40000,site=A|B; the
            trained ranges of those not named.
        people: tab-separated table with a column for every condition; each volume's person is one of its rows, numbers
            outside the trained range at its end.
        masks: corpus with label maps that volumes follow and come with; the weights need a ControlNet for it.
        untold: conditions that are left to the model.
        batch: volumes that the networks see at once; where that would change their bits from place to place (found out
            at the start) they are shown one by one.
        precision: fp32, or bf16 (bfloat16 where torch's autocast takes it): faster on processors and GPUs that compute in it,
            with other bits, and quality as docs/diffusion.md measured it.
    """

    needs_actor = True

    def __init__(
        self,
        weights: Path,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: Literal["ddim", "pndm", "adams_bashforth", "rectified_flow"] | None = None,
        ages: tuple[float, float] | None = None,
        diagnoses: tuple[str, ...] = (),
        asked: str = "",
        people: Path | None = None,
        masks: Path | None = None,
        untold: tuple[str, ...] = (),
        batch: int = 4,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        _check_numbers(steps, guidance, batch)
        if precision not in ("fp32", "bf16"):
            raise UserError(f"precision is '{precision}'; expected fp32 or bf16")
        self.weights = open_weights(Path(weights))
        self.conditions = self.weights.conditions
        self.sampler = self._sampler(sampler)
        self.steps = int(steps or self.weights.steps(self.sampler))
        self.weights.check_steps(self.steps)
        self.guidance = self.weights.guidance if guidance is None else float(guidance)
        if self.guidance != 1 and not self.weights.guided:
            raise UserError(
                f"guidance is {guidance}, but the weights '{weights}' were never trained without conditions; leave it at 1"
            )
        self.untold, self.batch, self.precision = tuple(untold), int(batch), precision
        self._check_told(ages, tuple(diagnoses), asked, people, masks)
        self.people = self._people(ages, tuple(diagnoses), asked, people, masks)

    def _people(
        self,
        ages: tuple[float, float] | None,
        diagnoses: tuple[str, ...],
        asked: str,
        people: Path | None,
        masks: Path | None,
    ) -> People:
        told = [condition for condition in self.conditions if condition.name not in self.untold]
        partly = bool(self.weights.config.get("untold_each"))
        if masks is not None:
            return Masks(Path(masks), told, self.weights.shape, self.weights.labels, partly)
        if people is not None:
            return Table(Path(people), told, partly)
        wished = asked_for(asked, told)
        drawn = [narrowed(condition, ages, diagnoses) for condition in told]
        both = [a.name for a, b, c in zip(told, wished, drawn, strict=True) if a not in (b, c)]
        if both:
            raise UserError(f"{both[0]} is asked for twice, in asked and in ages or diagnoses; give one")
        return Ranges([b if b != a else c for a, b, c in zip(told, wished, drawn, strict=True)])

    def _check_told(
        self,
        ages: tuple[float, float] | None,
        diagnoses: tuple[str, ...],
        asked: str,
        people: Path | None,
        masks: Path | None,
    ) -> None:
        known = [condition.name for condition in self.conditions]
        given = [("ages", "age", ages), ("diagnoses", "diagnosis", diagnoses), *(("untold", n, n) for n in self.untold)]
        for option, name, value in given:
            if value and name not in known:
                raise UserError(
                    f"{option} was given, but the weights '{self.weights.path}' are not told {name}; they are told "
                    f"{', '.join(known)}"
                )
        if bool(ages or diagnoses or asked) + (people is not None) + (masks is not None) > 1:
            raise UserError(
                "people come from asked, ages and diagnoses, or from --generator.people, or from masks; give one"
            )
        if masks is not None and not self.weights.controlled:
            raise UserError(
                f"masks were given, but the weights '{self.weights.path}' have no ControlNet; train with --control.steps"
            )
        if self.untold and not self.weights.config.get("untold_each") and set(self.untold) != set(known):
            raise UserError(
                "untold names some conditions, but these weights learnt to do without all of them or none "
                "(--diffusion.untold-each)"
            )

    def _sampler(self, asked: str | None) -> str:
        fitting = self.weights.samplers
        if asked is not None and asked not in fitting:
            raise UserError(f"sampler is '{asked}'; for these weights expected {' or '.join(fitting)}")
        return asked or fitting[0]

    @classmethod
    def complete(cls, arguments: Params) -> Params:
        """Sampler, steps and guidance as they are taken, also those left to the weights."""
        try:
            weights = open_weights(Path(arguments["weights"]))
        except (UserError, KeyError, TypeError):
            return arguments  # refused in the constructor's or the command line's own words
        sampler = arguments.get("sampler") or weights.samplers[0]
        usual = {"sampler": sampler, "steps": weights.steps(sampler), "guidance": weights.guidance}
        return {**arguments, **{name: value for name, value in usual.items() if arguments.get(name) is None}}

    def draw(self, rng: np.random.Generator) -> Params:
        """Who, and the seed of the noise."""
        return {**self.people.draw(rng), "noise_seed": new_seed(rng)}

    def render(self, params: Params) -> Sample:
        """The volume ``[1, D, H, W]`` in [0, 1] of one record, with the conditions as covariates and, where the weights
        have a ControlNet, the label map that it follows."""
        return self.render_batch([params])[0]

    def render_batch(self, batch: Sequence[Params]) -> list[Sample]:
        """Volumes of several records, ``together`` of them at a time.

        Raises:
            ValueError: the networks gave NaN or infinity (the training diverged, or the files are damaged).
        """
        starts = range(0, len(batch), self.together)
        return [sample for start in starts for sample in self._together(batch[start : start + self.together])]

    @cached_property
    def together(self) -> int:
        """Volumes that the networks see at once: ``batch``, or 1 where a volume's bits would depend on its place."""
        from synth.diffusion.sampling import places_agree

        followed = isinstance(self.people, Masks)
        alike = self.batch > 1 and places_agree(
            self._networks, self.batch, self.conditions, self.weights.shape, followed
        )
        return self.batch if alike else 1

    def _together(self, batch: Sequence[Params]) -> list[Sample]:
        import torch

        from synth.diffusion.sampling import decode, noise_of
        from synth.repeatable import repeatable

        networks, count = self._networks, len(batch)
        filled = [*batch, *[batch[-1]] * (self.together - count)]
        device, shape = networks.centre.device, networks.centre.shape[1:]
        vector = np.stack([encode(self.conditions, params["conditions"]) for params in filled])
        noise = np.stack([noise_of(params["noise_seed"], shape) for params in filled])
        labels = [self._mask(params) for params in filled]
        label = None if labels[0] is None else torch.from_numpy(np.stack(labels)).to(device)
        with repeatable():
            told = torch.from_numpy(vector).to(device)
            latent = self.latent(torch.from_numpy(noise).to(device), told, label)
            images = decode(networks, latent[:count], self.weights.shape)
        if not np.isfinite(images).all():
            raise ValueError(
                f"weights '{self.weights.path}' gave NaN or infinity; train them again with another --seed"
            )
        return [
            Sample(image, mask, params["conditions"], self.weights.affine)
            for image, mask, params in zip(images, labels[:count], batch, strict=True)
        ]

    def latent(self, noise: Tensor, told: Tensor, label: Tensor | None) -> Tensor:
        """Scaled latents ``[B, c, d, h, w]`` from noise, condition vectors [B, K] and label maps ``[B, D, H, W]``."""
        from synth.diffusion.sampling import sample_latent

        sampler = self.weights.sampler(self.sampler, self.steps)
        return sample_latent(self._networks, sampler, noise, told, self.guidance, label)

    def _mask(self, params: Params) -> Any:
        return self.people.corpus.label(params["mask"]) if isinstance(self.people, Masks) else None

    def parents(self) -> list[dict[str, Any]]:
        """The weights, the corpus they learnt from and everything that derives from, and the table or label maps that
        people are drawn from."""
        return [*self.weights.parents(), *self.people.parents()]

    def labels(self) -> dict[int, str]:
        """Those of the label maps, where there are any."""
        return self.weights.labels if isinstance(self.people, Masks) else {}

    @cached_property
    def _networks(self) -> Networks:
        from synth.diffusion.networks import best_device

        return replace(self.weights.networks(best_device()), bf16=self.precision == "bf16")


def _check_numbers(steps: int | None, guidance: float | None, batch: int) -> None:
    if steps is not None and not 1 <= steps <= 1000:
        raise UserError(f"steps is {steps}; expected a whole number from 1 to 1000")
    if guidance is not None and not 0 <= guidance <= 20:
        raise UserError(f"guidance is {guidance}; expected a number from 0 to 20 (1 is as trained)")
    if batch < 1:
        raise UserError(f"batch is {batch}; expected 1 or more")
