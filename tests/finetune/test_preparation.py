"""A cohort that is prepared otherwise than what the weights saw: said, with the command that mends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.cohort import load_cohort
from finetune.prepare import warn_if_prepared_otherwise
from pretrain.backbones import make_backbone
from pretrain.weights import Weights, save_weights
from tests.conftest import Run
from tests.finetune.studies import GRID, imported, make_study

SAID = "--shape 20,22,20 --spacing 8,8,8 --strip --align --out cohort.zarr"


def record(generator: str = "Scans", **options: Any) -> dict[str, Any]:
    """Parent record of a corpus made with these options."""
    recipe = {"generator": {"class_path": generator, "init_args": options}}
    return {"kind": "corpus", "name": "c.zarr", "identity": "c", "count": 1, "seed": 1, "recipe": recipe, "parents": []}


def people(folder: Path, count: int = 3) -> Path:
    return make_study(folder, [f"sub-{number:02d}" for number in range(1, count + 1)])


def test_finetune_warns_once_of_a_folder_that_is_not_prepared_as_the_weights_saw_it(tmp_path: Path, run: Run) -> None:
    about = Weights("sfcn_s", *GRID, 1, "mae", {}, {}, record(strip=True, align=True))
    save_weights(tmp_path / "w", make_backbone("sfcn_s", GRID[0], seed=1), about)
    study, words = people(tmp_path / "study", 12), ("--columns", "age=age", "--mode", "frozen,knn", "--folds", "2")
    weights = ("--weights", tmp_path / "w")
    answer = run("finetune", "run", "--task", "age", "--cohort", study, *words, *weights, "--out", tmp_path / "r")
    assert answer.code == 0, answer.err
    warnings = [line for line in answer.err.splitlines() if "warning: weights" in line]
    assert len(warnings) == 1 and "prepared with strip, align" in warnings[0] and SAID in warnings[0]


@pytest.mark.parametrize(
    "seen, warned",
    [
        (record(strip=True, align=True, n4=False), "lack strip, align"),
        (record(stripped=True, n4=True), "lack strip, n4"),
        (record("LabelMap", strip=1.0), "lack strip"),
        ({"recipe": {"mixture": [1, 1]}, "parents": [record(), record(align=True)]}, "lack align"),
        (record(), ""),
        (record("LabelMap", strip=0.5), ""),
    ],
)
def test_the_warning_names_what_the_cohort_lacks(
    seen: dict[str, Any], warned: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    warn_if_prepared_otherwise(load_cohort(people(tmp_path / "study")), seen, "w", GRID)
    said = capfd.readouterr().err
    assert (warned in said) if warned else said == ""


def test_a_corpus_that_is_prepared_alike_or_simulated_is_taken_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cohort = load_cohort(imported(people(tmp_path / "study"), tmp_path / "study.zarr").path)
    made = cohort.parents[0]["recipe"]["generator"]
    capfd.readouterr()
    warn_if_prepared_otherwise(cohort, record(strip=True), "w", GRID)
    assert "lack strip" in capfd.readouterr().err
    for changes in ({"init_args": {"strip": True}}, {"class_path": "LabelMap"}):
        made.update(changes)
        warn_if_prepared_otherwise(cohort, record(strip=True), "w", GRID)
        assert capfd.readouterr().err == ""
        made.update(class_path="Scans")
