"""Is it learning? A planted signal raises the probe, shuffled covariates do not; looking changes nothing."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pretrain import train
from pretrain.held_out import evaluating, split
from pretrain.launch import world_here
from pretrain.objectives import make_objective
from pretrain.objectives.base import Objective
from pretrain.probes import (
    Targets,
    alarm,
    correlation,
    fisher_interval,
    rankme,
    read_out,
    spread,
    targets_of,
)
from pretrain.probing import Outlook, Probe, Probing, affordable, thinned
from pretrain.testing import Small, planted_corpus
from pretrain.train import TrainOptions, pretrain
from synth.corpus import Corpus
from synth.keys import rng_for
from synth.stream.merged import Merged
from tests.conftest import Run

STEPS = 80


def normals(*shape: int, seed: int = 0) -> Any:
    return rng_for(seed, 0, "test").standard_normal(shape)


def test_rankme_is_the_number_of_directions_that_features_use() -> None:
    assert rankme(np.eye(12)) == pytest.approx(12, rel=1e-3)
    assert rankme(np.outer(normals(30), normals(8))) == pytest.approx(1, rel=1e-3)
    two = np.zeros((20, 6))
    two[:10, 0] = two[10:, 3] = 1.0
    assert rankme(two) == pytest.approx(2, rel=1e-3)


def test_spread_is_one_where_features_point_everywhere_and_nothing_where_they_are_alike() -> None:
    assert spread(normals(2000, 16)) == pytest.approx(1, abs=0.05)
    assert spread(np.tile(normals(1, 16), (50, 1))) == pytest.approx(0, abs=1e-6)
    assert spread(3 * normals(200, 16)) == pytest.approx(spread(normals(200, 16)))


def test_the_alarm_says_what_is_wrong() -> None:
    broken = normals(64, 8)
    broken[3, 2] = np.nan
    assert "not finite" in alarm(broken)
    assert "nearly the same features" in alarm(5 + 1e-5 * normals(64, 8))
    assert "one direction" in alarm(np.outer(normals(64), normals(8)))
    assert alarm(normals(64, 8)) == ""


def test_what_features_hold_is_read_and_what_they_do_not_is_not() -> None:
    x = normals(300, 10)
    truth = Targets(
        {"age": x[:, 0] + 0.1 * normals(300, seed=1), "height": normals(300, seed=2)},
        {"sex": (x[:, 1] > 0).astype(np.int64), "site": (normals(300, seed=3) > 0).astype(np.int64)},
    )
    first, rest = np.arange(200), np.arange(200, 300)
    found = {r.covariate: r for r in read_out(x[first], truth.of(first), x[rest], truth.of(rest))}
    assert found["age"].linear > 0.98 and found["age"].knn > 0.5 and found["age"].low > 0.9
    assert found["sex"].linear > 0.9 and found["sex"].knn > 0.6
    assert found["height"].low < 0 < found["height"].high
    assert found["site"].low < found["site"].chance < found["site"].high


def test_missing_covariates_and_columns_that_name_things_are_left_out() -> None:
    import pandas as pd

    ages = np.where(np.arange(60) < 50, np.arange(60.0), np.nan)
    table = pd.DataFrame(
        {"age": ages, "participant_id": [f"sub-{n}" for n in range(60)], "one": 1.0, "sex": ["F", "M", None] * 20}
    )
    targets = targets_of(table)
    assert set(targets.numbers) == {"age"} and set(targets.words) == {"sex"}
    assert (targets.words["sex"] == -1).sum() == 20
    first, rest = np.arange(0, 60, 2), np.arange(1, 60, 2)
    x = np.stack([np.arange(60.0), normals(60)], axis=1)
    found = read_out(x[first], targets.of(first), x[rest], targets.of(rest))
    assert next(r for r in found if r.covariate == "age").linear > 0.99


def test_the_interval_of_a_correlation_is_fisher_s() -> None:
    low, high = fisher_interval(0.5, 103)
    assert (low, high) == (pytest.approx(0.339, abs=2e-3), pytest.approx(0.632, abs=2e-3))
    assert correlation(np.ones(9), normals(9)) == 0.0


def test_samples_looked_at_are_spread_over_the_corpus() -> None:
    assert thinned(np.arange(100), 5).tolist() == [0, 25, 50, 74, 99]
    assert thinned(np.arange(3), 5).tolist() == [0, 1, 2]


def test_all_of_a_person_s_scans_are_held_out_or_none(told: Any) -> None:
    people = [f"sub-{n % 7}" for n in range(40)]  # the last four scans are of four people
    alone = told(age=np.arange(40.0))
    known, one = told(participant_id=people), told(participant_id=["sub-1"] * 10)
    merged: Any = SimpleNamespace(corpora=(alone, known, one), offsets=(0, 40, 80, 90))
    training, held_out = split(merged)
    assert np.array_equal(np.sort(np.concatenate([training, held_out])), np.arange(90))
    assert held_out[held_out < 40].tolist() == [36, 37, 38, 39]
    theirs = {people[at - 40] for at in held_out if 40 <= at < 80}
    assert theirs == {"sub-1", "sub-2", "sub-3", "sub-4"}
    assert not theirs & {people[at - 40] for at in training if 40 <= at < 80}
    assert held_out[-1:].tolist() == [89] and 88 in training, "of one person the last tenth, as of nobody known"


def test_evaluating_puts_every_part_back_as_it_was() -> None:
    backbone = Small().train()
    backbone.stages[1].eval()
    with evaluating(backbone):
        assert not backbone.training and not torch.is_grad_enabled()
    assert backbone.training and backbone.stages[0].training and not backbone.stages[1].training


def fitted(objective: Objective, corpus: Corpus, out: Path, options: TrainOptions) -> Probing:
    """Train an objective as ``pretrain`` does it; what looked at it."""
    merged = Merged([corpus])
    training, held_out = split(merged)
    job = train.Job(merged, objective.backbone, objective, training, held_out, "test", None, None, False)
    _, _, probing = train._fit(job, out, options, ("csv",), world_here())
    assert probing is not None
    return probing


def trained(corpus: Corpus, out: Path) -> tuple[Objective, Probing, Probe]:
    """A small backbone trained on age and sex, looked at before, in between and after."""
    options = TrainOptions(
        steps=STEPS, batch_size=16, learning_rate=1e-2, precision="fp32", probe_every=STEPS // 2, probe_samples=400
    )
    merged = Merged([corpus])
    objective = make_objective("supervised", Small(seed=1), merged, 0)
    probing = fitted(objective, corpus, out, options)
    return objective, probing, Probe(merged, *split(merged), 400)


def readings(outlook: Outlook) -> dict[str, Any]:
    return {reading.covariate: reading for reading in outlook.readings}


def test_a_planted_signal_raises_the_probe_and_shuffled_covariates_stay_at_chance(tmp_path: Path) -> None:
    corpus = planted_corpus(tmp_path / "blobs.zarr", 640)
    objective, probing, probe = trained(corpus, tmp_path / "w")
    assert sorted(probing.history) == [0, STEPS // 2, STEPS]
    before, after = readings(probe.look(Small(seed=1))), readings(probe.look(objective.backbone))
    assert after["age"].low > before["age"].high and after["sex"].linear > before["sex"].linear
    assert after["age"].knn > before["age"].knn
    assert [probing.history[step]["r_age"] for step in (0, STEPS)] == [
        pytest.approx(found["age"].linear, abs=1e-3) for found in (before, after)
    ]
    chance = readings(probe.look(objective.backbone, rng_for(0, 0, "shuffled")))
    assert chance["age"].low < 0 < chance["age"].high
    assert chance["sex"].low < 0.5 < chance["sex"].high


def test_training_on_covariates_that_say_nothing_leaves_the_probe_at_chance(tmp_path: Path) -> None:
    corpus = planted_corpus(tmp_path / "shuffled.zarr", 640, shuffled=True)
    objective, _, probe = trained(corpus, tmp_path / "w")
    found = readings(probe.look(objective.backbone))
    assert found["age"].low < 0 < found["age"].high
    assert found["sex"].low < 0.5 < found["sex"].high


def test_training_is_bit_identical_with_and_without_looking(planted: Corpus, tmp_path: Path) -> None:
    for backbone, objective in (("vit_xs", "mae"), ("sfcn_s", "contrasts")):  # batch norm would keep what it sees
        # fp32: torch 2.13's bfloat16 gradients of convolutions to 2³ cells differ from call to call on CPU
        weights = []
        for every in (0, 1):
            out = tmp_path / f"{objective}-{every}"
            pretrain(planted.path, out, TrainOptions(backbone, objective, 3, 4, precision="fp32", probe_every=every))
            weights.append((out / "model.safetensors").read_bytes())
        assert weights[0] == weights[1]


def test_what_was_seen_is_logged_and_survives_a_kill(
    planted: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.train.CHECKPOINT_STEPS", 2)
    options = TrainOptions("vit_xs", "mae", 6, 4, probe_every=2)
    step = train.Pretraining.training_step

    def dies(self: Any, batch: Any, number: int) -> Any:
        if self.global_step == 5:
            raise RuntimeError("killed")
        return step(self, batch, number)

    with monkeypatch.context() as broken:
        broken.setattr(train.Pretraining, "training_step", dies)
        with pytest.raises(RuntimeError, match="killed"):
            pretrain(planted.path, tmp_path / "w", options)
    about = pretrain(planted.path, tmp_path / "w", options)
    log = tmp_path / "w" / "log" / "version_0"
    rows = list(csv.DictReader((log / "probes.csv").open()))
    assert [row["step"] for row in rows] == ["0", "2", "4", "6"]
    assert about.figures["probe_rankme"] == pytest.approx(float(rows[-1]["rankme"]))
    logged = [row for row in csv.DictReader((log / "metrics.csv").open()) if row["probe/rankme"]]
    assert logged and float(logged[-1]["probe/rankme"]) == pytest.approx(float(rows[-1]["rankme"]))
    assert len(list(log.glob("pictures-*.png"))) == 4


def test_a_collapse_is_told(planted: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Collapsing(Objective):
        def __init__(self, backbone: Any) -> None:
            super().__init__()
            self.backbone = backbone

        def loss(self, image: Any, index: Any, generator: Any, label: Any = None) -> Any:
            with torch.no_grad():
                for parameter in self.backbone.stages[3].parameters():
                    parameter.zero_()
            return self.backbone(image).square().mean() + 1.0

    options = TrainOptions(steps=2, batch_size=4, precision="fp32", probe_every=1)
    probing = fitted(Collapsing(Small()), planted, tmp_path / "w", options)
    assert probing.history[2]["alarm"] == 1.0
    assert "warning: step 2: all volumes have nearly the same features" in capfd.readouterr().err


def test_training_that_broke_ends_in_one_sentence(
    planted: Corpus, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.module.BROKEN_STEPS", 3)
    prepare = "pretrain.objectives.base.standardise"
    monkeypatch.setattr(prepare, lambda image: image * float("nan"))
    words = ("pretrain", "run", "--corpus", planted.path, "--backbone", "vit_xs", "--steps", 9, "--batch-size", 4)
    answer = run(*words, "--out", tmp_path / "w", "--probe-every", 0)
    assert answer.code == 2 and "had no finite gradients; choose a --learning-rate below 0.001" in answer.err
    assert not (tmp_path / "w" / "model.safetensors").exists()


def test_probe_prints_what_is_read_from_weights_beside_an_untrained_backbone(
    corpus: Corpus, people: Corpus, planted: Corpus, tmp_path: Path, run: Run
) -> None:
    pretrain(corpus.path, tmp_path / "w", TrainOptions("vit_xs", "mae", 2, 4, probe_every=0))
    words = ("pretrain", "probe", tmp_path / "w", "--corpus")
    answer = run(*words, f"{people.path},{corpus.path}")
    assert answer.code == 0, answer.err
    assert "on another corpus than it was trained on: fitted to 101 volumes, tested on 11 others" in answer.out
    head, *lines = [line.split() for line in answer.out.splitlines()[1:]]
    assert head[:3] == ["covariate", "metric", "linear"] and {line[0] for line in lines} >= {"age", "volumes", "sex"}
    assert "RankMe" in answer.out
    refused = run(*words, planted.path)
    assert refused.code == 2 and "the weights expect (1, 32, 40, 32) at (5.0, 5.0, 5.0) mm" in refused.err
    few = run(*words, corpus.path)
    assert few.code == 2 and "has 4 samples in its last tenth" in few.err


@pytest.mark.parametrize(
    "words, says", [(["--probe-every", -1], "--probe-every"), (["--probe-samples", 1], "--probe-samples")]
)
def test_what_cannot_be_looked_at_is_refused(
    planted: Corpus, tmp_path: Path, run: Run, words: list[Any], says: str
) -> None:
    answer = run("pretrain", "run", "--corpus", planted.path, "--out", tmp_path / "w", *words)
    assert answer.code == 2 and says in answer.err and not (tmp_path / "w").exists()


@pytest.mark.parametrize("volumes, samples", [(32_000, 256), (6_400, 192), (48, 64)])
def test_short_runs_are_looked_at_through_fewer_samples(volumes: int, samples: int) -> None:
    assert affordable(volumes, looks=5) == samples
