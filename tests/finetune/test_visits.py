"""Sessions of a person: which take part, in what order, what the tables say of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from finetune.cohort import load_cohort
from finetune.columns import column_map
from finetune.metrics import mean_absolute_error, with_interval
from finetune.tasks import TASKS, participants_of
from synth.errors import UserError
from tests.conftest import Run
from tests.finetune.studies import imported, make_study, put_scan, scan_path


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two people; the first has sessions 2, 10 and 11 and a second run in the last, the second a single scan."""
    folder = make_study(tmp_path / "s", ["sub-01/ses-2", "sub-01/ses-10", "sub-01/ses-11", "sub-02"])
    second = put_scan(folder, "sub-01/ses-11/x", 9)
    run2 = scan_path(folder, "sub-01/ses-11").with_name("sub-01_ses-11_run-2_T1w.nii.gz")
    second.rename(run2)
    table = "session_id\tage\tdx\nses-2\t61.5\tHC\nses-10\t63\tn/a\nses-11\t64\tAD\n"
    (folder / "sub-01/sub-01_sessions.tsv").write_text(table)
    return folder


def test_the_first_visit_is_the_first_by_number_and_brings_its_own_age(study: Path) -> None:
    cohort = load_cohort(study)
    assert cohort.table["age"].tolist() == [61.5, 61.0]
    assert cohort.table["session"].tolist() == ["ses-2", ""]
    assert cohort.scans["sub-01"] == scan_path(study, "sub-01/ses-2")
    assert len(cohort.files["sub-01"]) == 4


def test_the_last_visit_is_the_first_scan_of_the_last_session(study: Path) -> None:
    cohort = load_cohort(study, column_map(("diagnosis=dx",)), "last")
    assert cohort.scans["sub-01"] == scan_path(study, "sub-01/ses-11")
    assert cohort.table.loc["sub-01", "diagnosis"] == "AD"
    assert cohort.table.loc["sub-01", "age"] == 64


def test_all_visits_are_rows_of_one_person(study: Path) -> None:
    cohort = load_cohort(study, visits="all")
    rows = ["sub-01_ses-2", "sub-01_ses-10", "sub-01_ses-11", "sub-01_ses-11_2", "sub-02"]
    assert cohort.table.index.tolist() == list(cohort.scans) == rows
    assert cohort.people(rows) == ["sub-01"] * 4 + ["sub-02"]
    assert cohort.table["age"].tolist() == [61.5, 63, 64, 64, 61]


def test_times_of_acquisition_go_before_names(study: Path) -> None:
    table = "session_id\tacq_time\nses-2\t2020-01-01\nses-10\t2010-01-01\nses-11\t2015-06-01\n"
    (study / "sub-01/sub-01_sessions.tsv").write_text(table)
    assert load_cohort(study).table["session"].tolist() == ["ses-10", ""]
    assert load_cohort(study, visits="last").table["session"].tolist() == ["ses-2", ""]


@pytest.mark.parametrize("time", ["03/05/2019", "2019", "spring"])
def test_a_time_that_is_no_iso_time_is_refused_rather_than_sorted_as_text(study: Path, time: str) -> None:
    table = f"session_id\tacq_time\nses-2\t2020-01-01\nses-10\t{time}\nses-11\t2015-06-01\n"
    (study / "sub-01/sub-01_sessions.tsv").write_text(table)
    with pytest.raises(UserError, match=f"ses-10 of sub-01 has acq_time '{time}'; expected ISO 8601"):
        load_cohort(study)


def test_times_are_compared_as_times_whatever_their_zone(study: Path) -> None:
    table = "session_id\tacq_time\nses-2\t2020-01-01T05:00:00\nses-10\t2020-01-01T06:30:00+02:00\nses-11\t2021-01-01\n"
    (study / "sub-01/sub-01_sessions.tsv").write_text(table)
    assert load_cohort(study).table["session"].tolist() == ["ses-10", ""]  # 04:30


def test_one_table_of_everybodys_sessions_is_read_too(study: Path) -> None:
    (study / "sessions.tsv").write_text("participant_id\tsession_id\tage\tsite\nsub-01\tses-2\t50\tnorth\n")
    cohort = load_cohort(study)
    assert cohort.table.loc["sub-01", "age"] == 61.5  # the person's own table goes first
    assert cohort.table.loc["sub-01", "site"] == "north"


@pytest.mark.parametrize("visits, expected", [("first", [0, 3]), ("last", [2, 3]), ("all", [0, 1, 2, 3])])
def test_a_corpus_of_scans_takes_visits_as_its_folder_does(tmp_path: Path, visits: str, expected: list[int]) -> None:
    folder = make_study(tmp_path / "s", ["sub-01/ses-1", "sub-01/ses-2", "sub-01/ses-3", "sub-02"])
    corpus = load_cohort(imported(folder, tmp_path / "c.zarr").path, visits=visits)  # type: ignore[arg-type]
    direct = load_cohort(folder, visits=visits)  # type: ignore[arg-type]
    assert list(corpus.scans.values()) == expected
    assert list(corpus.scans) == list(direct.scans)
    assert corpus.people(corpus.scans) == direct.people(direct.scans)


def test_people_are_counted_not_scans(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", [f"sub-0{who}/ses-{visit}" for who in range(4) for visit in range(3)])
    with pytest.raises(UserError, match="has 4 healthy people"):
        participants_of(TASKS["age"], load_cohort(folder, visits="all"))


@pytest.mark.parametrize("table", ["session\tage\nses-2\t1\n", "session_id\tage\nses-2\t1\nses-2\t2\n"])
def test_a_table_of_sessions_without_its_key_is_refused(study: Path, table: str) -> None:
    (study / "sub-01/sub-01_sessions.tsv").write_text(table)
    with pytest.raises(UserError, match="no table of sessions"):
        load_cohort(study)


def test_an_interval_draws_people_with_all_their_scans() -> None:
    import numpy as np

    target = np.repeat(np.arange(10.0), 20)
    predicted = np.zeros((1, 200))
    whose = np.repeat(np.arange(10), 20)
    scans = with_interval(mean_absolute_error, target, predicted)
    people = with_interval(mean_absolute_error, target, predicted, whose)
    assert people["value"] == scans["value"] == 4.5
    assert people["high"] - people["low"] > 3 * (scans["high"] - scans["low"])


def test_results_say_which_scans_and_how_columns_were_read(tmp_path: Path, run: Run) -> None:
    scans = [f"sub-{who:02d}/ses-{visit}" for who in range(10) for visit in (1, 2)]
    folder = make_study(tmp_path / "s", scans)
    words = ("--visits", "all", "--columns", "age=age", "--folds", 2, "--shape", "20,22,20", "--spacing", 8)
    command = ("finetune", "run", "--task", "age", "--cohort", folder, "--out", tmp_path / "r", "--mode", "frozen")
    answer = run(*command, *words)
    assert answer.code == 0, answer.err
    assert "10 people (20 scans)" in answer.out
    split = pd.read_csv(tmp_path / "r/splits.tsv", sep="\t")
    assert split.groupby("participant_id")["split"].nunique().max() == 1 and len(split) == 20
    predictions = pd.read_csv(tmp_path / "r/predictions.tsv", sep="\t")
    assert set(predictions["scan"]) == {scan.replace("/", "_") for scan in scans}
