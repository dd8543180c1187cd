"""benchmark morphometry: the numbers it computes, going on after a stop, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import chunks, morphometry
from benchmarks.morphometry import Check
from synth.anatomy.people import effects
from synth.errors import UserError
from tests.conftest import Run


def test_cohens_d_is_the_group_difference_in_residual_sds() -> None:
    rng = np.random.Generator(np.random.Philox(0))
    group, age = np.repeat([0.0, 1.0], 4000), rng.uniform(60, 85, 8000)
    values = 3 - 0.02 * age - 0.7 * 0.1 * group + rng.normal(0, 0.1, 8000)
    found = morphometry.cohens_d(np.column_stack([np.ones(8000), group, age]), values)
    assert found == pytest.approx(-0.7, abs=0.05)


def test_the_volume_table_says_how_many_draws_were_close_enough() -> None:
    realised = [100, 104, 96, 106]
    draws = pd.DataFrame({"structure": ["hippocampus"] * 4, "asked": [100.0] * 4, "realised": realised})
    row = morphometry.volume_table(draws).loc["hippocampus"]
    assert row["within"] == 0.75 and row["largest"] == pytest.approx(0.06) and row["median"] == pytest.approx(0.04)


def test_people_of_all_groups_are_matched(tmp_path: Path) -> None:
    rows = pd.DataFrame(morphometry.group_rows(Check(1, 2, 2.0, 0, None), range(2)))
    assert rows.groupby("index")["diagnosis"].apply(list).tolist() == [["CN", "MCI", "AD", "PD"]] * 2
    assert (rows.groupby("index")[["age", "sex"]].nunique() == 1).all().all()
    of = rows.set_index(["index", "diagnosis"])["hippocampus"]
    assert all(of[i, "AD"] < of[i, "MCI"] < of[i, "CN"] for i in range(2))
    assert set(effects()) <= set(rows.columns)


def test_rows_that_are_there_are_not_made_again(tmp_path: Path) -> None:
    made: list[int] = []

    def make(chunk: range) -> list[dict[str, Any]]:
        made.extend(chunk)
        if 40 in chunk:
            raise KeyboardInterrupt
        return [{"index": index, "value": index**2} for index in chunk]

    path = tmp_path / "rows.tsv"
    with pytest.raises(KeyboardInterrupt):
        chunks.resumed_rows(path, 50, make, 1, lambda n: None)
    assert len(pd.read_csv(path, sep="\t")) == 40
    made.clear()
    table = chunks.resumed_rows(path, 40, make, 1, lambda n: None)
    assert made == [] and table["value"].tolist() == [n**2 for n in range(40)]


def test_rows_of_other_options_are_kept_apart(tmp_path: Path) -> None:
    chunks.same_options({"seed": 0}, tmp_path)
    chunks.same_options({"seed": 0}, tmp_path)
    with pytest.raises(UserError, match="choose another --out"):
        chunks.same_options({"seed": 1}, tmp_path)


def test_the_command_writes_its_table_and_picture(run: Run, tmp_path: Path) -> None:
    words = ("benchmark", "morphometry", "--out", tmp_path / "m", "--draws", 3, "--people", 0, "--spacing", 2.5)
    answer = run(*words, "--workers", 1)
    assert answer.code == 0 and "hippocampus" in answer.out
    results = json.loads((tmp_path / "m" / "results.json").read_text())
    assert results["smallest_jacobian"] > 0 and results["volumes"]["lateral_ventricle"]["largest"] < 0.2
    assert (tmp_path / "m" / "asked_realised.png").exists()
    assert run(*words, "--seed", 1).code == 2


@pytest.mark.parametrize(
    "words, says",
    [
        (("--draws", "0"), "--draws is 0"),
        (("--people", "1"), "--people 1"),
        (("--anatomies", "nowhere"), "there is no folder 'nowhere'"),
        (("--spacing", "0"), "spacing"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_made(words: tuple[str, str], says: str, run: Run, tmp_path: Path) -> None:
    answer = run("benchmark", "morphometry", "--out", tmp_path / "new", *words)
    assert answer.code == 2 and says in answer.err and not (tmp_path / "new").exists()
