"""Experiments: fractions, external cohorts, workers, controls, and nothing of test people in what is fitted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.cohort import load_cohort
from finetune.heads import FineTuning
from finetune.protocol import Arm, Bench, Mode, Protocol, controls, layouts, run_experiment
from finetune.tasks import TASKS, participants_of
from pretrain.train import TrainOptions, pretrain
from synth.corpus import Corpus
from tests.conftest import Run

GRID = ((32, 40, 32), (5.0, 5.0, 5.0))


def quiet(*_: Any) -> None:
    """No progress."""


def test_fractions_are_nested_and_each_has_figures(people: Corpus, tmp_path: Path) -> None:
    cohort, task = load_cohort(people.path), TASKS["ad"]
    protocol = Protocol(folds=2, fractions=(50, 100))
    results = run_experiment(cohort, task, controls(cohort, task), protocol, tmp_path, quiet)
    half, whole = results["fractions"]
    assert (half["percent"], whole["percent"]) == (50, 100)
    assert half["train_people"][0] * 2 == pytest.approx(whole["train_people"][0], abs=1)
    assert whole["arms"][results["arms"][0]["name"]] == results["arms"][0]["metrics"]
    names, target = participants_of(task, cohort)
    plans = [layouts(cohort, task, names, target, protocol, percent) for percent in (50, 100)]
    for (_, small), (_, large) in zip(plans[0][0].splits, plans[1][0].splits, strict=True):
        assert set(small.train) < set(large.train) and np.array_equal(small.test, large.test)


def test_planted_signals_are_found_and_shuffled_labels_are_not(people: Corpus, tmp_path: Path) -> None:
    cohort, task = load_cohort(people.path), TASKS["ad"]
    arms = [Arm("sfcn_s, untrained, frozen")]
    made = [*arms, *controls(cohort, task, arms)]
    results = run_experiment(cohort, task, made, Protocol(seeds=3, folds=3, grid=GRID), tmp_path, quiet)
    told = {one["kind"]: one["held"] for one in results["controls_hold"]}
    assert told["planted"] is True and told["shuffled"] is True
    planted = next(arm for arm in results["arms"] if arm["control"] == "planted")
    assert planted["metrics"]["cross-validation"]["roc_auc"]["value"] >= 0.95
    assert results["arms"][0]["site_probe"]["chance"] == 0.5
    assert {row["kind"] for row in results["subgroups"]} >= {"age", "sex", "site"}


def test_targets_of_test_people_change_no_correction(people: Corpus, tmp_path: Path) -> None:
    cohort, task = load_cohort(people.path), TASKS["age"]
    names, target = participants_of(task, cohort)
    protocol = Protocol(folds=2)
    plan = layouts(cohort, task, names, target, protocol)
    split = plan[0].splits[0][1]
    arm, said = Arm("volumes", control="volumes"), []
    for shift in (0.0, 30.0):
        moved = target.copy()
        moved[split.test] += shift
        bench = Bench(cohort, task, names, moved, protocol, tmp_path, plan)
        fitted = bench.fit(arm, 0, bench.features(arm, 0), split.train, split.test)
        said.append((fitted.test.tolist(), bench._aside(fitted, split.test)[1]["correction"]))
    assert said[0] == said[1]


def test_an_external_cohort_is_a_test_set_of_its_own_name(people: Corpus, corpus: Corpus, tmp_path: Path) -> None:
    ours, theirs, task = load_cohort(people.path), load_cohort(corpus.path), TASKS["age"]
    arms = [Arm("age", control="mean"), Arm("volumes", control="volumes")]
    results = run_experiment(ours, task, arms, Protocol(folds=2), tmp_path, quiet, externals=[theirs])
    assert list(results["test_sets"]) == ["cross-validation", "corpus.zarr"]
    assert results["test_sets"]["corpus.zarr"] == results["external"][0]["people"]
    assert np.isfinite(results["arms"][1]["metrics"]["corpus.zarr"]["mae_years"]["value"])


def test_workers_give_what_one_process_gives_and_files_explain_themselves(
    people: Corpus, tmp_path: Path, ray_of_two: Any
) -> None:
    cohort, task = load_cohort(people.path), TASKS["ad"]
    arms, protocol = controls(cohort, task), Protocol(seeds=2, folds=2)
    results = [run_experiment(cohort, task, arms, protocol, tmp_path / str(n), quiet, n) for n in (0, 2)]
    assert [arm["metrics"] for arm in results[0]["arms"]] == [arm["metrics"] for arm in results[1]["arms"]]
    files = sorted((tmp_path / "2" / "arms").glob("*.json"))
    assert len(files) == len(arms) * 2
    told = json.loads(files[0].read_text())
    assert {"arm", "seed", "percent", "chosen", "predictions", "seconds"} <= set(told)


def test_the_front_door_runs_modes_fractions_and_maps(people: Corpus, tmp_path: Path, run: Run) -> None:
    words = ("--task", "ad", "--cohort", people.path, "--out", tmp_path / "r", "--shape", "32,40,32", "--spacing", 5)
    answer = run("finetune", "run", *words, "--mode", "frozen,knn", "--fractions", "50,100", "--folds", 2, "--explain")
    assert answer.code == 0, answer.err
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    assert [arm["mode"] for arm in results["arms"][:2]] == ["frozen", "knn"]
    (maps,) = (tmp_path / "r" / "explanations").glob("*.npz")
    found = np.load(maps)
    assert set(found) == {"CN", "AD"} and found["AD"].shape == (32, 40, 32) and found["AD"].max() > 0
    assert maps.with_suffix(".png").is_file()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--mode", "frozn"], "frozen"),
        (["--mode", "lora"], "sfcn_s has none"),
        (["--fractions", "0,50"], "expected percents"),
        (["--positive", "CN"], "positive and a negative"),
        (["--layer-decay", "2"], "--layer-decay is 2"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    people: Corpus, tmp_path: Path, run: Run, words: list[str], said: str
) -> None:
    answer = run("finetune", "run", "--task", "ad", "--cohort", people.path, "--out", tmp_path / "r", *words)
    assert (answer.code, answer.err.count("\n")) == (2, 1) and said in answer.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "mode, weighted, decays", [("full", True, True), ("full", False, False), ("lora", True, False)]
)
def test_layers_of_given_weights_learn_slower_towards_the_input_in_mode_full_alone(
    people: Corpus,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Mode,
    weighted: bool,
    decays: bool,
) -> None:
    cohort, task = load_cohort(people.path), TASKS["ad"]
    if weighted:
        pretrain(corpus.path, tmp_path / "w", TrainOptions(steps=1, batch_size=4, backbone="vit_xs"))
    rates: list[list[float]] = []
    adamw = torch.optim.AdamW

    def watched(groups: list[dict[str, Any]], rate: float, **options: Any) -> Any:
        rates.append([group.get("lr", rate) for group in groups])
        return adamw(groups, rate, **options)

    monkeypatch.setattr(torch.optim, "AdamW", watched)
    names, target = participants_of(task, cohort)
    tuning = FineTuning(epochs=1, learning_rate=1e-3, layer_decay=0.5, rank=2)
    bench = Bench(cohort, task, names, target, Protocol(grid=GRID, fine_tuning=tuning), tmp_path)
    healthy, ill = np.flatnonzero(target < 0.5), np.flatnonzero(target > 0.5)
    some = np.sort(np.concatenate([healthy[:4], ill[:4]]))
    arm = Arm("a", mode, tmp_path / "w" if weighted else None, "vit_xs")
    bench.fit(arm, 0, None, some, np.array([healthy[5]]))
    head, *layers = rates[-1]
    assert head == 1e-3
    assert layers == [pytest.approx(1e-3 * 0.5 ** (len(layers) - 1 - depth)) for depth in range(len(layers))]
    assert (len(layers) > 2) is decays
