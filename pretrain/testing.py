"""The conformance suite of objectives, and a toy generator with a planted signal: subclass, name your class, run pytest.

    from pretrain.testing import ObjectiveConformance

    class TestRotation(ObjectiveConformance):
        objective = Rotation
        options = {"turns": 4}

Every failure says what to mend. The suite trains a few steps on volumes of 16³ voxels.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.backbones import Backbone, make_backbone
from pretrain.held_out import HeldOut, evaluating
from pretrain.objectives.base import GIVEN, Objective
from synth.corpus import Corpus
from synth.engine import Job, generate
from synth.errors import UserError
from synth.generator import Generator, GeneratorSpec
from synth.keys import new_seed, rng_for
from synth.options import parse_value
from synth.plugins import constructor_hints, plain, restore_types
from synth.sample import Sample, centred_affine
from synth.stream import Batch
from synth.testing import stirred


class Small(Backbone):
    """Two strided convolutions with batch norm: a backbone that learns from volumes of 16³ voxels in seconds."""

    def __init__(self, channels: int = 1, width: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.feature_size = 2 * width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stages = nn.Sequential(
                nn.Conv3d(channels, width, 3, stride=2, padding=1),
                nn.BatchNorm3d(width),
                nn.ReLU(),
                nn.Conv3d(width, 2 * width, 3, stride=2, padding=1),
                nn.BatchNorm3d(2 * width),
                nn.ReLU(),
            )

    def feature_map(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, 2·width, D/4, H/4, W/4]``."""
        made: torch.Tensor = self.stages(image)
        return made


class Blobs(Generator):
    """A planted signal: a head with a chequered blob, whose size is the age, and a smooth one, whose size says nothing.

    Women's smooth blob is brighter than the other, men's darker.

    Args:
        shape: output voxels.
        spacing: voxel size in mm.
        shuffled: covariates that say nothing about the volume: what is read from it is chance.
    """

    def __init__(
        self, shape: tuple[int, int, int] = (16, 16, 16), spacing: float = 10.0, shuffled: bool = False
    ) -> None:
        self.shape, self.spacing, self.shuffled = shape, spacing, shuffled

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Sizes, places and brightness."""
        size, other, told = (round(float(u), 4) for u in rng.random(3))
        sex, told_sex = ("FM"[int(n)] for n in rng.integers(0, 2, 2))
        places = [[round(float(c), 3) for c in place] for place in rng.uniform(-0.35, 0.35, (2, 3))]
        return {
            "sizes": [size, other],
            "places": places,
            "sex": sex,
            "age": 20 + 60 * (told if self.shuffled else size),
            "told_sex": told_sex if self.shuffled else sex,
            "gain": round(float(rng.uniform(0.5, 2.0)), 3),
            "noise_seed": new_seed(rng),
        }

    def render(self, params: dict[str, Any]) -> Sample:
        """Label 1 is the head, 2 the smooth blob, 3 the chequered one."""
        axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in self.shape), indexing="ij")
        rng = rng_for(params["noise_seed"], 0)
        label = (np.sum(np.square(axes), axis=0) < 0.9).astype(np.int16)
        for number, size, place in (
            (2, params["sizes"][1], params["places"][0]),
            (3, params["sizes"][0], params["places"][1]),
        ):
            radius = (0.01 + 0.11 * size) ** (1 / 3)  # the volume grows evenly
            distance = sum((axis - at) ** 2 for axis, at in zip(axes, place, strict=True))
            label[distance < radius**2] = number
        mean = np.array([0.0, 0.5, 1.0 if params["sex"] == "F" else 0.7, 0.85])[label]
        chequers = 1 - 2 * (np.indices(self.shape).sum(0) % 2)
        image = mean + 0.25 * chequers * (label == 3) + 0.05 * rng.standard_normal(self.shape)
        image = np.clip(image, 0, None) * params["gain"]
        covariates = {"age": params["age"], "sex": params["told_sex"]}
        affine = centred_affine(self.shape, (self.spacing,) * 3)
        return Sample(image[None].astype(np.float32), label, covariates, affine)

    def labels(self) -> dict[int, str]:
        """Names of the labels."""
        return {1: "Head", 2: "Smooth-Blob", 3: "Chequered-Blob"}


def planted_corpus(folder: Any, count: int, seed: int = 5, shuffled: bool = False) -> Corpus:
    """A corpus of :class:`Blobs` in ``folder``."""
    spec = GeneratorSpec("pretrain.testing.Blobs", {"shuffled": shuffled})
    outcome = generate(Job(spec, count, seed, folder, shard_size=64), workers=0)
    assert not outcome.failed, outcome.failed
    return Corpus(folder)


class ObjectiveConformance:
    """What training, resuming and the model card rely on, as tests.

    Attributes:
        objective: the class under test.
        options: its constructor's, without backbone, corpus and seed.
        backbone: name of one that it can serve; :class:`Small` if empty.
        steps, learning_rate: of the little training.

    Where a class and its options do not say enough, override :meth:`make`.
    """

    objective: ClassVar[type[Objective] | None] = None
    options: ClassVar[Mapping[str, Any]] = {}
    backbone: ClassVar[str] = ""
    steps: ClassVar[int] = 20
    learning_rate: ClassVar[float] = 1e-3
    corpus: ClassVar[Corpus]

    @pytest.fixture(autouse=True, scope="class")
    def _corpus(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
        request.cls.corpus = planted_corpus(tmp_path_factory.mktemp("planted") / "blobs.zarr", 12)

    def make(self, seed: int = 0) -> Objective:
        """A new objective on a new backbone; equal seeds give equal ones."""
        if self.objective is None:
            raise TypeError(f"{type(self).__name__}: set the attribute 'objective' to your class, or override make()")
        return self.objective(self.make_backbone(seed), self.corpus, seed, **self.options)

    def make_backbone(self, seed: int) -> Backbone:
        """A new backbone; equal seeds give equal ones."""
        channels, *shape = self.corpus.image_shape
        if not self.backbone:
            return Small(channels, seed=seed)
        return make_backbone(self.backbone, (shape[0], shape[1], shape[2]), channels, seed)

    def batch(self, objective: Objective, count: int = 8) -> Batch:
        """The first samples as stored."""
        indices = np.arange(count)
        batch = next(iter(HeldOut(self.corpus, indices, torch.device("cpu"), objective.labels)))
        return Batch(batch.image, batch.index, batch.label)

    def loss(self, objective: Objective, seed: int = 1) -> torch.Tensor:
        """As training calls it: everything from one generator."""
        generator, batch = torch.Generator().manual_seed(seed), self.batch(objective)
        image = objective.prepare(batch.image, generator)
        return objective.loss(image, batch.index, generator, batch.label)

    def test_the_loss_is_a_finite_number_that_reaches_the_backbone(self) -> None:
        """One scalar, with gradients for the backbone's weights."""
        objective = self.make()
        loss = self.loss(objective)
        assert loss.shape == () and torch.isfinite(loss), f"loss gave {loss}; expected one finite number"
        loss.backward()
        gradients = [p.grad for p in objective.backbone.parameters() if p.grad is not None]
        assert any(bool(g.abs().sum() > 0) for g in gradients), (
            "no gradient reaches the backbone: compute the loss from self.backbone(image), and call neither detach() "
            "nor no_grad()"
        )

    def test_all_randomness_comes_from_the_generator(self) -> None:
        """A resumed run goes on with the very numbers of an undisturbed one."""
        losses = []
        for stir in (1, 2):
            with stirred(stir):
                losses.append(float(self.loss(self.make()).detach()))
        assert losses[0] == losses[1], (
            f"the same generator gave {losses[0]} and {losses[1]}: pass generator=generator to every random call, and "
            "draw first weights inside torch.random.fork_rng() after torch.manual_seed(seed)"
        )

    def test_the_global_random_state_is_left_alone(self) -> None:
        """Nothing else in the process changes its numbers because an objective was made."""
        with stirred(3):
            before = torch.random.get_rng_state()
            self.loss(self.make())
            assert torch.equal(before, torch.random.get_rng_state()), (
                "making the objective or its loss moved torch's global generator: see torch.random.fork_rng"
            )

    def test_equal_seeds_give_equal_first_weights(self) -> None:
        """The same command gives the same weights."""
        first, second = self.make(4).state_dict(), self.make(4).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first), "equal seeds gave other first weights"

    def test_neither_prepare_nor_loss_changes_its_input(self) -> None:
        """Batches lie in buffers that are used again."""
        objective = self.make()
        generator, batch = torch.Generator().manual_seed(0), self.batch(objective)
        before = batch.image.clone()
        image = objective.prepare(batch.image, generator)
        assert torch.equal(batch.image, before), "prepare changed the batch in place: work on a copy"
        kept = image.clone()
        objective.loss(image, batch.index, generator, batch.label)
        assert torch.equal(image, kept), "loss changed the image in place: work on a copy"

    def test_a_little_training_lowers_the_loss(self) -> None:
        """On the batch it is trained on, under the same random numbers."""
        objective = self.make()
        with torch.no_grad():
            before = float(sum(self.loss(objective, seed) for seed in range(100, 104)))
        optimizer = torch.optim.AdamW(objective.parameters(), self.learning_rate)
        for step in range(self.steps):
            optimizer.zero_grad()
            self.loss(objective, step).backward()
            optimizer.step()
        with torch.no_grad():
            after = float(sum(self.loss(objective, seed) for seed in range(100, 104)))
        assert after < before, f"{self.steps} steps brought the loss from {before / 4:.4g} to {after / 4:.4g}"

    def test_its_state_is_whole(self) -> None:
        """What a checkpoint keeps is enough to go on."""
        objective, other = self.make(1), self.make(2)
        other.load_state_dict(objective.state_dict())
        assert torch.equal(self.loss(objective), self.loss(other)), (
            "the loss differs after load_state_dict: keep what training changes in parameters and buffers"
        )

    def test_figures_are_numbers_and_evaluation_changes_nothing(self) -> None:
        """The model card's figures."""
        objective = self.make()
        before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
        batches = HeldOut(self.corpus, np.arange(8), torch.device("cpu"), objective.labels)
        with evaluating(objective):
            figures, again = objective.evaluate(batches), objective.evaluate(batches)
        assert figures and all(isinstance(v, float) for v in figures.values()), (
            f"evaluate gave {figures}; expected names with numbers"
        )
        assert repr(figures) == repr(again), f"evaluate gave {figures} and then {again}: seed its generator"
        json.dumps(figures)
        after = objective.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before), "evaluate changed the weights"

    def test_pictures_are_volumes(self) -> None:
        """Title → ``[B, C, D, H, W]``."""
        objective = self.make()
        with evaluating(objective):
            found = objective.pictures(self.batch(objective, 2), torch.Generator().manual_seed(0))
        for title, panel in found.items():
            assert panel.ndim == 5 and len(panel) == 2, f"picture '{title}' has shape {tuple(panel.shape)}"
            assert math.isfinite(float(panel.float().sum())), f"picture '{title}' holds NaN or infinity"

    def test_every_option_has_a_type_the_command_line_can_read(self) -> None:
        """The constructor's signature is its configuration."""
        cls = type(self.make())
        hints = constructor_hints(cls)
        parameters = inspect.signature(cls).parameters
        assert tuple(parameters)[:3] == GIVEN, f"the constructor takes {', '.join(parameters)}; begin with {GIVEN}"
        for name, parameter in parameters.items():
            if name in GIVEN:
                continue
            where = f"option '{name}' of {cls.__name__}"
            assert name in hints, f"{where} has no type hint: write {name}: int (or float, str, bool, tuple[…])"
            value = self.options.get(name, parameter.default)
            assert value is not parameter.empty, f"{where} has no default and the test gives none"
            try:
                parsed = parse_value(plain(value), hints[name], f"--objective.{name}")
            except UserError as error:
                raise AssertionError(f"{where} cannot be read back ({error}): give it a hint that fits") from error
            assert parsed == restore_types(cls, {name: plain(value)})[name], f"{where}: {value!r} is read as {parsed!r}"
