"""Every built-in objective passes the suite that plug-in authors are given, and the suite finds bad ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from pretrain.backbones import Backbone, make_backbone
from pretrain.objectives import BUILT_IN, make_objective
from pretrain.objectives.base import Objective
from pretrain.objectives.contrasts import TwoContrasts
from pretrain.objectives.mae import MaskedAutoencoder
from pretrain.objectives.masked import MaskedModelling
from pretrain.objectives.segment import Segmentation
from pretrain.objectives.simclr import SimCLR
from pretrain.objectives.supervised import Supervised
from pretrain.objectives.yaware import YAware
from pretrain.testing import Blobs, ObjectiveConformance
from synth.testing import GeneratorConformance


class TestSupervisedConforms(ObjectiveConformance):
    objective = Supervised
    options: ClassVar[Mapping[str, Any]] = {"weights": ("age=2", "sex=0.5")}


class TestMaskedAutoencoderConforms(ObjectiveConformance):
    objective = MaskedAutoencoder
    backbone = "vit_xs"


class TestMaskedModellingConforms(ObjectiveConformance):
    objective = MaskedModelling
    options: ClassVar[Mapping[str, Any]] = {"cube": 4}


class TestSimCLRConforms(ObjectiveConformance):
    objective = SimCLR


class TestYAwareConforms(ObjectiveConformance):
    objective = YAware


class TestSegmentationConforms(ObjectiveConformance):
    objective = Segmentation


class TestTwoContrastsConforms(ObjectiveConformance):
    objective = TwoContrasts


class TestHybridConforms(ObjectiveConformance):
    def make(self, seed: int = 0) -> Objective:
        backbone = make_backbone("vit_xs", self.corpus.image_shape[1:], 1, seed)
        return make_objective("mae+segment+yaware", backbone, self.corpus, seed, {"weights": [1, 0.5, 0.1]})

    def test_every_option_has_a_type_the_command_line_can_read(self) -> None:
        """Those of its parts, which are tested above."""


class TestBlobsConform(GeneratorConformance):
    generator = Blobs


def test_every_built_in_objective_is_tested() -> None:
    tested = {cls.objective for cls in ObjectiveConformance.__subclasses__()}
    names = {f"{cls.__module__}:{cls.__qualname__}" for cls in tested if cls is not None}
    assert set(BUILT_IN.values()) <= names


class Careless(Objective):
    """What an author may get wrong, one mistake at a time."""

    def __init__(self, backbone: Backbone, corpus: Any, seed: int, mistake: str = "") -> None:
        super().__init__()
        self.backbone, self.mistake = backbone, mistake
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(backbone.feature_size, 1)
        if mistake == "weights":
            self.head = nn.Linear(backbone.feature_size, 1)

    def loss(
        self, image: torch.Tensor, index: torch.Tensor, generator: torch.Generator, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        features = self.backbone(image)
        if self.mistake == "detached":
            features = features.detach()
        if self.mistake == "noise":
            features = features + torch.randn(features.shape)
        if self.mistake == "in place":
            image.mul_(0.5)
        loss = self.head(features).square().mean()
        return -loss if self.mistake == "rises" else loss


@pytest.mark.parametrize(
    "mistake, test, says",
    [
        ("detached", "test_the_loss_is_a_finite_number_that_reaches_the_backbone", "no gradient"),
        ("noise", "test_all_randomness_comes_from_the_generator", "generator=generator"),
        ("noise", "test_the_global_random_state_is_left_alone", "fork_rng"),
        ("weights", "test_equal_seeds_give_equal_first_weights", "equal seeds"),
        ("in place", "test_neither_prepare_nor_loss_changes_its_input", "in place"),
    ],
)
def test_the_suite_names_a_mistake(
    mistake: str, test: str, says: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from pretrain.testing import planted_corpus

    class Suite(ObjectiveConformance):
        objective = Careless
        options: ClassVar[Mapping[str, Any]] = {"mistake": mistake}

    suite = Suite()
    Suite.corpus = planted_corpus(tmp_path_factory.mktemp("careless") / "blobs.zarr", 12)
    with pytest.raises(AssertionError, match=says):
        getattr(suite, test)()
