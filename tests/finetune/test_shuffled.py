"""Shuffled labels: quiet where nothing leaks whatever the features say, loud where something does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune import shuffled
from finetune.cohort import load_cohort
from finetune.controls import as_planned
from finetune.protocol import Arm, Protocol, run_experiment
from finetune.shuffled import PERMUTATIONS, interval_of_mean, permuted_figures
from finetune.splits import Persons, folds
from finetune.tasks import TASKS
from synth.corpus import Corpus

GRID = ((32, 40, 32), (5.0, 5.0, 5.0))


def held(seed: int, classes: bool, leak: str = "", people: int = 60, scans: int = 1) -> bool | None:
    """Whether the control holds on features with a strong signal, classes one to three, in three folds."""
    rng = np.random.Generator(np.random.Philox(seed))
    target = (np.arange(people) % 4 == 0).astype(float) if classes else rng.uniform(50, 80, people)
    features = rng.standard_normal((people, 40)) + 1.5 * ((target - target.mean()) / target.std())[:, None]
    rows = np.repeat(np.arange(people), scans)
    persons = Persons([f"p{who}" for who in rows])
    figures = []
    for split in folds(target, classes, 3, seed):
        train = np.union1d(split.train, split.test[::2]) if leak == "test people in training" else split.train
        tests = [persons.rows(split.test)]
        figures.append(
            permuted_figures(
                features[rows], target[rows], persons, persons.rows(train), tests, classes, 0.01, seed, PERMUTATIONS
            )[0]
        )
    return as_planned("shuffled", {"roc_auc" if classes else "r": interval_of_mean(np.mean(figures, 0))})


@pytest.mark.parametrize("classes, scans", [(True, 1), (False, 2)])
def test_strong_features_without_a_leak_raise_no_alarm(classes: bool, scans: int) -> None:
    assert sum(held(seed, classes, scans=scans) is False for seed in range(8)) <= 1


@pytest.mark.parametrize("classes", [True, False])
def test_people_who_are_tested_and_were_trained_on_are_found(classes: bool) -> None:
    assert [held(seed, classes, "test people in training") for seed in range(3)] == [False] * 3


def test_labels_that_were_not_shuffled_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shuffled, "shuffled_labels", lambda own, *_: own)
    assert held(0, True) is False and held(0, False) is False


@pytest.mark.parametrize("task", ["ad", "age"])
def test_an_experiment_tells_the_mean_over_permutations_and_resumes_to_the_same(
    people: Corpus, tmp_path: Path, task: str
) -> None:
    cohort, arms = load_cohort(people.path), [Arm("labels shuffled", control="shuffled")]
    protocol = Protocol(seeds=2, folds=2, grid=GRID)

    def results() -> dict[str, Any]:
        return run_experiment(cohort, TASKS[task], arms, protocol, tmp_path, lambda *_: None)

    first = results()
    kept = [json.loads(path.read_text())["permuted"]["cross-validation"] for path in (tmp_path / "arms").glob("*.json")]
    assert sum(map(len, kept)) >= 20
    figure = first["arms"][0]["metrics"]["cross-validation"]["roc_auc" if task == "ad" else "r"]
    assert figure["value"] == pytest.approx(np.mean(kept))
    assert results()["arms"] == first["arms"]
