"""Subgroups: patients of each stage stand against everybody healthy, small groups are left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from finetune.arms import Arm
from finetune.bench import Outcome
from finetune.summary import subgroups
from finetune.tasks import TASKS


@pytest.mark.parametrize("column", ["hoehn_yahr", "stage", "NHY"])
def test_each_stage_of_pd_has_its_own_figure_against_all_healthy_people(column: str) -> None:
    # eight healthy people, four patients of stage 1 whom the arm misses by half, four of stage 3 whom it finds
    stage = [np.nan] * 4 + [0.0] * 4 + [1.0] * 4 + [3.0] * 4
    said = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.0, 0.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])
    target = np.array([0.0] * 8 + [1.0] * 8)
    names = [f"sub-{number:02d}" for number in range(16)]
    cohort = SimpleNamespace(table=pd.DataFrame({column: stage, "sex": ["F"] * 16}, index=names))
    about = {"people": names, "who": np.arange(16), "target": target, "cohort": cohort, "externals": []}
    bench: Any = SimpleNamespace(task=TASKS["pd"], **about)
    outcomes = {"arm": [Outcome({"cv": said}, {}, [])]}
    arms = [Arm("arm"), Arm("volumes", control="volumes")]
    found = {(row["kind"], row["group"]): row for row in subgroups(arms, outcomes, bench, {"cv": np.arange(16)})}
    assert set(found) == {("sex", "F"), ("stage", "1"), ("stage", "3")}
    assert found["stage", "1"]["value"] == pytest.approx(0.5) and found["stage", "1"]["people"] == 12
    assert found["stage", "3"]["value"] == 1.0
    assert found["sex", "F"]["value"] == pytest.approx(0.75)


def test_a_group_of_four_people_has_no_figure() -> None:
    names = [f"sub-{number}" for number in range(9)]
    table = pd.DataFrame({"site": ["a"] * 4 + ["b"] * 5}, index=names)
    target = np.array([0.0, 1, 0, 1, 0, 1, 0, 1, 0])
    about = {"people": names, "who": np.arange(9), "target": target, "externals": []}
    bench: Any = SimpleNamespace(task=TASKS["pd"], cohort=SimpleNamespace(table=table), **about)
    outcomes = {"arm": [Outcome({"cv": target}, {}, [])]}
    rows = subgroups([Arm("arm")], outcomes, bench, {"cv": np.arange(9)})
    assert [(row["group"], row["people"]) for row in rows] == [("b", 5)]


def test_people_of_an_external_cohort_are_grouped_by_its_own_table() -> None:
    def people(prefix: str, sites: list[str]) -> tuple[Any, list[str]]:
        names = [f"{prefix}-{number}" for number in range(len(sites))]
        return SimpleNamespace(table=pd.DataFrame({"site": sites}, index=names)), names

    (ours, rows), (first, firsts), (second, seconds) = (
        people("a", ["north"] * 6),
        people("b", ["east"] * 5 + ["south"] * 6),
        people("c", ["west"] * 7),
    )
    target = np.arange(24) % 2.0
    externals = [SimpleNamespace(cohort=first, rows=firsts), SimpleNamespace(cohort=second, rows=seconds)]
    about = {"people": rows, "who": np.arange(24), "target": target, "externals": externals}
    bench: Any = SimpleNamespace(task=TASKS["pd"], cohort=ours, **about)
    tested = {"cv": np.arange(6), "first": np.arange(6, 17), "second": np.arange(17, 24)}
    wrong = np.where(np.arange(24) < 17, target, 1 - target)
    outcomes = {"arm": [Outcome({name: wrong[who] for name, who in tested.items()}, {}, [])]}
    found = [(row["test_set"], row["group"], row["value"]) for row in subgroups([Arm("arm")], outcomes, bench, tested)]
    assert found == [("cv", "north", 1), ("first", "east", 1), ("first", "south", 1), ("second", "west", 0)]
