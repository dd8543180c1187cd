"""Pre-training on natural video, alone and mixed with simulated people."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.weights import Weights, read_config
from synth.corpus import Corpus
from synth.engine import Job, generate
from synth.generator import GeneratorSpec
from tests.conftest import ROOT, Run

GRID = {"shape": (16, 16, 16), "spacing": 12.0}
STEPS = ("--steps", "2", "--batch-size", "4", "--probe-every", "0")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twelve volumes of clips and eight of simulated people, on one grid."""
    place = tmp_path_factory.mktemp("clips")
    video = GeneratorSpec("Video", {"folder": ROOT / "tests/fixtures/clips", **GRID})
    for spec, name, count in ((video, "video.zarr", 12), (GeneratorSpec("LabelMap", GRID), "people.zarr", 8)):
        assert not generate(Job(spec, count, 0, place / name, shard_size=4)).failed
    return place / "video.zarr", place / "people.zarr"


@pytest.mark.parametrize("objective, backbone", [("mae", "vit_ti"), ("masked", "sfcn_s")])
def test_pre_training_runs_on_clips(
    objective: str, backbone: str, corpora: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    words = ("--objective", objective, "--backbone", backbone, *STEPS, "--out", tmp_path / "weights")
    answer = run("pretrain", "run", "--corpus", corpora[0], *words)
    assert answer.code == 0, answer.err
    about: Weights = read_config(tmp_path / "weights")
    assert about.corpus["parents"] == Corpus(corpora[0]).header.parents
    assert "made from video clips" in (tmp_path / "weights/README.md").read_text()


@pytest.mark.parametrize("objective, backbone", [("mae", "vit_ti"), ("masked", "sfcn_s")])
def test_pre_training_runs_on_clips_mixed_with_simulated_people(
    objective: str, backbone: str, corpora: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    words = ("--objective", objective, "--backbone", backbone, *STEPS, "--out", tmp_path / "weights")
    answer = run("pretrain", "run", "--corpus", ",".join(map(str, corpora)), "--ratios", "3,1", *words)
    assert answer.code == 0, answer.err
    about: Weights = read_config(tmp_path / "weights")
    classes = [parent["recipe"]["generator"]["class_path"] for parent in about.corpus["parents"]]
    assert classes == ["Video", "LabelMap"] and about.corpus["ratios"] == [0.75, 0.25]
