"""Splits as tables: what is written is what was done, and is read back the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from finetune.cohort import Cohort, load_cohort
from finetune.layouts import Layout, layouts
from finetune.protocol import Protocol, controls, run_experiment
from finetune.split_files import HEAD, Rows, read_splits, write_splits
from finetune.tasks import TASKS, participants_of
from synth.corpus import Corpus
from synth.errors import UserError

AD = TASKS["ad"]


@pytest.fixture
def cohort(people: Corpus) -> Cohort:
    """The simulated cohort."""
    return load_cohort(people.path)


def planned(cohort: Cohort, **options: Any) -> list[Layout]:
    names, target = participants_of(AD, cohort)
    return layouts(cohort, AD, names, target, Protocol(**options))


def same(one: list[Layout], other: list[Layout]) -> bool:
    """Whether two plans train and test the same people in every seed."""
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x.splits, y.splits, strict=True)]
    return all(
        a[0] == b[0] and np.array_equal(a[1].train, b[1].train) and np.array_equal(a[1].test, b[1].test)
        for a, b in pairs
    )


@pytest.mark.parametrize(
    "options", [{"folds": 3, "seeds": 2}, {"test_site": "south", "seeds": 2, "labels": 12}, {"folds": 2, "labels": 12}]
)
def test_a_written_split_is_read_back_as_the_same_split(cohort: Cohort, tmp_path: Path, options: Any) -> None:
    rows = Rows(cohort, AD, *participants_of(AD, cohort))
    plan = planned(cohort, **options)
    write_splits(tmp_path / "s.tsv", rows, [layout.pool for layout in plan])
    again = {key: value for key, value in options.items() if key in ("seeds", "labels")}
    assert same(plan, planned(cohort, split=tmp_path / "s.tsv", **again))


def test_a_run_leaves_its_splits_as_a_table_with_site_and_label(cohort: Cohort, tmp_path: Path) -> None:
    run_experiment(cohort, AD, controls(cohort, AD), Protocol(folds=3, seeds=2), tmp_path / "r", lambda *_: None)
    table = pd.read_csv(tmp_path / "r" / "splits.tsv", sep="\t")
    assert tuple(table.columns) == HEAD
    assert set(table["split"]) == {"fold-1", "fold-2", "fold-3"} and set(table["seed"]) == {0, 1}
    known = cohort.table.loc[table["participant_id"]]
    assert table["site"].tolist() == known["site"].tolist()
    assert table["label"].tolist() == known["diagnosis"].tolist()


def test_another_content_under_the_same_name_is_another_experiment(cohort: Cohort, tmp_path: Path) -> None:
    rows = Rows(cohort, AD, *participants_of(AD, cohort))
    path = tmp_path / "s.tsv"
    write_splits(path, rows, [layout.pool for layout in planned(cohort, folds=3)])
    arms = controls(cohort, AD)
    run_experiment(cohort, AD, arms, Protocol(split=path), tmp_path / "r", lambda *_: None)
    write_splits(path, rows, [layout.pool for layout in planned(cohort, folds=2)])
    with pytest.raises(UserError, match="another experiment"):
        run_experiment(cohort, AD, arms, Protocol(split=path), tmp_path / "r", lambda *_: None)


def test_folds_by_site_keep_sites_whole(cohort: Cohort) -> None:
    names, _ = participants_of(AD, cohort)
    sites = cohort.table.loc[names, "site"].to_numpy()
    (layout,) = planned(cohort, fold_by="site")
    assert sorted(np.concatenate([split.test for _, split in layout.splits])) == list(range(len(names)))
    for _, split in layout.splits:
        assert not set(sites[split.train]) & set(sites[split.test])


def given(cohort: Cohort, change: Any) -> pd.DataFrame:
    names, target = participants_of(AD, cohort)
    words = np.where(target > 0, "AD", "CN")
    table = pd.DataFrame({"participant_id": names, "split": "train", "seed": "0", "label": words})
    table.loc[::3, "split"] = "test"
    return change(table)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t.drop(columns="split"), "expected participant_id and split"),
        (lambda t: t[t["split"] == "train"], "leaves train or test empty"),
        (lambda t: t.assign(split="fold-1"), "has one fold"),
        (lambda t: t.assign(split=["fold-1", *t["split"][1:]]), "folds beside train or test"),
        (lambda t: t.assign(label="PD"), "gives sample.* the label 'PD'"),
        (lambda t: pd.concat([t, t.assign(seed="1")]), "holds 2 seeds; expected 3"),
        (lambda t: pd.concat([t, t.assign(split="test")]), "in train and test"),
    ],
)
def test_a_split_that_cannot_be_is_refused_and_says_why(cohort: Cohort, tmp_path: Path, change: Any, said: str) -> None:
    given(cohort, change).to_csv(tmp_path / "s.tsv", sep="\t", index=False)
    with pytest.raises(UserError, match=said):
        read_splits(tmp_path / "s.tsv", Rows(cohort, AD, *participants_of(AD, cohort)), 3)


def test_people_a_split_does_not_name_and_other_words_take_no_part(cohort: Cohort, tmp_path: Path) -> None:
    table = given(cohort, lambda t: t.assign(split=["validation", *t["split"][1:]]).iloc[:-1])
    strangers = pd.DataFrame({"participant_id": ["nobody"], "split": ["test"], "seed": ["0"], "label": ["PD"]})
    pd.concat([table, strangers]).to_csv(tmp_path / "s.tsv", sep="\t", index=False)
    names, target = participants_of(AD, cohort)
    ((_, split),) = read_splits(tmp_path / "s.tsv", Rows(cohort, AD, names, target), 1)[0]
    assert sorted([*split.train, *split.test]) == list(range(1, len(names) - 1))
