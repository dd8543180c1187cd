"""Controls without a scan: what they read, what they refuse, and what a table says where one is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from finetune.cohort import Cohort, load_cohort
from finetune.columns import column_map
from finetune.controls import control_features, controls
from finetune.protocol import Protocol, run_experiment
from finetune.simple import control_columns, missing_controls
from finetune.tasks import TASKS, Task, participants_of
from synth.errors import UserError
from tests.conftest import Run
from tests.finetune.studies import make_study

NAMES = [f"sub-{number:02d}" for number in range(20)]


def cohort(**columns: Any) -> Cohort:
    """Twenty people, of whom the older half has AD."""
    table = pd.DataFrame({"diagnosis": ["CN"] * 10 + ["AD"] * 10, **columns}, index=NAMES)
    return Cohort("toy", table, dict.fromkeys(NAMES, 0))


def columns_of(one: Cohort, control: str = "demographics") -> dict[str, Any]:
    return control_columns(one, NAMES, control, TASKS["ad"])


@pytest.mark.parametrize("words", [["F", "M"], ["female", "Male"], ["f", "m "], ["Woman", "man"]])
def test_sex_is_read_by_its_words(words: list[str]) -> None:
    assert columns_of(cohort(sex=words * 10))["sex"].tolist() == [0.0, 1.0] * 10


@pytest.mark.parametrize("codes", [[1, 2], ["1", "2"], ["X", "Y"]])
def test_codes_of_sex_are_refused_with_the_words_that_explain_them(codes: list[Any]) -> None:
    with pytest.raises(UserError, match="--values sex:1=M,sex:2=F"):
        columns_of(cohort(sex=codes * 10))


def test_codes_of_sex_stop_a_run_before_it_begins_and_values_mend_it(tmp_path: Path, run: Run) -> None:
    folder = make_study(tmp_path / "s", NAMES)
    table = pd.read_csv(folder / "participants.tsv", sep="\t").assign(sex=[1, 2] * 10, group=["CN"] * 10 + ["AD"] * 10)
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    words = ("--task", "ad", "--cohort", folder, "--out", tmp_path / "r", "--mode", "frozen", "--folds", 2)
    grid = ("--shape", "20,22,20", "--spacing", 8)
    answer = run("finetune", "run", *words, *grid)
    assert (answer.code, answer.err.count("\n")) == (2, 1) and "has sex '1'" in answer.err
    assert not (tmp_path / "r").exists()
    answer = run("finetune", "run", *words, *grid, "--values", "sex:1=M,sex:2=F")
    assert answer.code == 0, answer.err
    assert "no control regional volumes: cohort 's' has no volume_*" in answer.out
    told = json.loads((tmp_path / "r" / "results.json").read_text())["missing_controls"]
    assert [one["control"] for one in told] == ["regional volumes"]


def test_one_missing_age_leaves_the_control_its_power(tmp_path: Path) -> None:
    age: list[Any] = [60.0 + number for number in range(20)]
    age[3] = None
    one = cohort(age=age, sex=["F", "M"] * 10)
    assert np.isnan(columns_of(one)["age"]).tolist() == [number == 3 for number in range(20)]
    arms = controls(one, TASKS["ad"])
    assert [arm.name for arm in arms] == ["age + sex + logistic"]
    results = run_experiment(one, TASKS["ad"], arms, Protocol(folds=2), tmp_path, lambda *_: None)
    assert results["arms"][0]["metrics"]["cross-validation"]["roc_auc"]["value"] > 0.8


def test_a_volume_missing_on_one_side_is_missing_and_not_nothing() -> None:
    left, right = [1000.0] * 20, [1000.0] * 20
    left[0] = float("nan")
    found = columns_of(cohort(volume_left_hippocampus=left, volume_right_hippocampus=right), "volumes")
    assert np.isnan(found["volume_hippocampus"][0]) and found["volume_hippocampus"][1] == pytest.approx(np.log(2000))


def test_an_age_that_is_a_word_is_refused_with_the_words_that_explain_it() -> None:
    with pytest.raises(UserError, match=r"sub-00 .* has age '89\+'; expected a number, or n/a"):
        columns_of(cohort(age=["89+"] + ["70"] * 19))


def test_a_control_never_looks_at_what_it_is_to_predict() -> None:
    task = Task("sex", "sex", "sex", "M", ("M",), ("F",))
    one = cohort(sex=["F", "M"] * 10, age=[float(number) for number in range(60, 80)])
    assert list(control_columns(one, NAMES, "demographics", task)) == ["age"]


def test_controls_that_cannot_be_are_told_with_the_reason() -> None:
    bare, half = cohort(), cohort(age=[60.0 + number for number in range(20)], sex=[None] * 20)
    assert controls(bare, TASKS["ad"]) == []
    assert [one["control"] for one in missing_controls(bare, TASKS["ad"], set())] == ["regional volumes", "age", "sex"]
    assert [arm.name for arm in controls(half, TASKS["ad"])] == ["age + logistic"]
    told = missing_controls(half, TASKS["ad"], {"demographics"})
    assert [one["control"] for one in told] == ["regional volumes", "sex"]
    assert all("cohort 'toy' has no" in one["reason"] for one in told)
    full = cohort(sex=["F", "M"] * 10, age=[70.0] * 20, volume_brain=[1e6] * 20)
    assert missing_controls(full, TASKS["ad"], {"demographics", "volumes"}) == []
    assert missing_controls(full, TASKS["ad"], {"demographics"})[0]["reason"] == "not among the arms of this run"


def test_columns_are_found_under_the_cohorts_own_names(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", NAMES[:10])
    one = load_cohort(folder, column_map(("age=age",)))
    people, _ = participants_of(TASKS["age"], one)
    assert control_features(one, people, "volumes", TASKS["age"]).shape == (10, 1)
