"""Arms that begin with others' weights: images, videos, or our own, without pre-training here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from finetune.bench import Bench
from finetune.cohort import load_cohort
from finetune.protocol import Arm, Protocol, bench_of
from finetune.tasks import TASKS
from pretrain.train import TrainOptions, pretrain
from synth.corpus import Corpus
from synth.errors import UserError
from tests.conftest import Run

GRID = ((32, 32, 32), (5.0, 5.0, 5.0))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet18 of images, as a file."""
    from monai.networks.nets import resnet18
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("start") / "images.safetensors"
    save_file(resnet18(spatial_dims=2, n_input_channels=3, shortcut_type="A").state_dict(), path)
    return path


def bench(people: Corpus, out: Path) -> Bench:
    return bench_of(load_cohort(people.path), TASKS["ad"], Protocol(folds=2, grid=GRID), out)


def test_a_start_is_an_arm_of_its_own_with_what_it_was(people: Corpus, images: Path, tmp_path: Path, run: Run) -> None:
    words = ["--task", "ad", "--cohort", people.path, "--out", tmp_path / "r", "--init", images, "--folds", 2]
    answer = run("finetune", "run", *words, "--backbone", "resnet18", "--mode", "frozen", "--shape", "32,32,32")
    assert answer.code == 0, answer.err
    arms = {arm["name"]: arm for arm in json.loads((tmp_path / "r" / "results.json").read_text())["arms"]}
    begun = arms[f"resnet18 from {images}, frozen"]
    assert begun["start"]["kind"] == "ResNet of images" and begun["weights"] is None
    assert arms["resnet18, untrained, frozen"]["start"] is None
    assert "gain_over_untrained" in begun["metrics"]["cross-validation"]
    assert begun["metrics"] != arms["resnet18, untrained, frozen"]["metrics"]


def test_a_file_that_changed_is_another_arm(people: Corpus, images: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(images.read_bytes())
    arm, here = Arm("a", "frozen", None, "resnet18", init=str(copy)), bench(people, tmp_path)
    before = here.record_path(arm, 0, 100)
    assert here.record_path(arm, 0, 100) == before
    copy.write_bytes(images.read_bytes()[:-4] + b"\1\2\3\4")
    assert here.record_path(arm, 0, 100) != before


def test_our_weights_as_a_start_are_searched_for_tested_people(people: Corpus, tmp_path: Path) -> None:
    pretrain(people.path, tmp_path / "w", TrainOptions(steps=1, batch_size=8))
    here = bench(people, tmp_path / "r")
    with pytest.raises(UserError, match="w"):
        here.check(Arm("a", "frozen", None, "sfcn_s", init=str(tmp_path / "w")))
    here.check(Arm("b", "frozen", None, "sfcn_s"))


def test_a_start_of_another_network_is_refused_before_anything_is_written(
    people: Corpus, images: Path, tmp_path: Path, run: Run
) -> None:
    answer = run("finetune", "run", "--task", "ad", "--cohort", people.path, "--out", tmp_path / "r", "--init", images)
    assert answer.code == 2 and "choose --backbone resnet18" in answer.err and not (tmp_path / "r").exists()
