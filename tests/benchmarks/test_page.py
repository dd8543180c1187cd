"""The report page as text: what it holds, what it leaves out, and that it is right with results of either format."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page import figures, leaderboard, viewer
from benchmarks.page.findings import findings
from benchmarks.page.story import kind_of, main_metric
from benchmarks.page.tables import csv_text, table
from benchmarks.report import Story, write_report
from synth.corpus import Corpus
from synth.errors import UserError
from tests.benchmarks.made_up import SETS, experiment, interval, write_experiment
from tests.conftest import Run


def page_of(tmp_path: Path, *experiments: dict[str, Any], corpora: tuple[Path, ...] = ()) -> str:
    folders = [write_experiment(one, tmp_path / f"run{at}") for at, one in enumerate(experiments)]
    return write_report(Story.of([*folders, *corpora]), tmp_path / "out").read_text()


def test_the_vendored_viewer_is_found_as_package_data_beside_its_licences() -> None:
    vendor = resources.files("benchmarks.page") / "vendor"
    assert b"niivue" in gzip.decompress((vendor / "niivue.umd.js.gz").read_bytes())[:2000]
    notice = (vendor / "NOTICE").read_text()
    assert "NiiVue 0.69.0" in notice and "BSD 2-Clause" in notice
    for name in ("style.css", "page.js"):
        assert (resources.files("benchmarks.page") / name).is_file()


def test_every_figure_has_its_data_as_csv(tmp_path: Path) -> None:
    page = page_of(tmp_path, experiment("ad"), experiment("age"))
    drawn = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    assert len(drawn) == 5  # arms, ROC and calibration of AD; arms and ages of brain age
    for one in drawn:
        (address,) = re.findall(r'href="data:text/csv;base64,([^"]+)"', one)
        rows = list(csv.reader(io.StringIO(base64.b64decode(address).decode())))
        assert len(rows) > 1 and len({len(row) for row in rows}) == 1


def test_a_page_without_a_corpus_carries_no_viewer(tmp_path: Path, corpus: Corpus) -> None:
    plain = page_of(tmp_path / "a", experiment("ad"))
    shown = page_of(tmp_path / "b", experiment("ad"), corpora=(corpus.path,))
    assert "viewer-bundle" not in plain.partition("<script")[0] and len(plain) < 300_000
    assert 'id="viewer-bundle"' in shown and len(shown) < 2_500_000


def test_real_people_are_never_shown(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "<canvas" in viewer.pictures([corpus.path])
    monkeypatch.setattr(viewer, "origin", lambda one: "real")
    assert viewer.pictures([corpus.path]) == ""


def test_label_efficiency_and_subgroups_are_drawn_where_results_know_them(tmp_path: Path) -> None:
    first, second = experiment("ad"), experiment("ad", version=2)
    assert figures.label_efficiency(first) == figures.subgroups(first) == ""
    assert figures.label_efficiency(second).count("<svg") == len(SETS)
    assert "70–80" in figures.subgroups(second)
    assert "holm" in page_of(tmp_path, second).lower()


def test_percents_of_labels_come_in_order_and_without_what_an_arm_lacks() -> None:
    known = {percent: {"net": {"all": {"roc_auc": interval(percent / 100)}}} for percent in (50, 10)}
    given = [{"percent": percent, "arms": arms} for percent, arms in {**known, 5: {}}.items()]
    points = figures.share_points({"fractions": given}, "net", "all", "roc_auc")
    assert [(share, value["value"]) for share, value in points] == [(10, 0.1), (50, 0.5)]


def failed(kind: str, held: bool) -> dict[str, Any]:
    return {"control": kind, "kind": kind, "expectation": "as planned", "held": held}


def test_a_failed_control_is_the_first_sentence() -> None:
    one = experiment("ad") | {"controls_hold": [failed("shuffled", False), failed("planted", True)]}
    first = findings([experiment("age"), one])[0]
    assert first.startswith("AD: “shuffled” (as planned) did not come out as expected")


def test_a_task_where_a_control_wins_stands_before_one_where_none_does() -> None:
    wins, loses = experiment("ad", control=0.9), experiment("pd", control=0.4)
    assert findings([loses, wins])[0].startswith("AD") and "does better" in findings([loses, wins])[0]


def test_runs_of_many_tasks_become_one_leaderboard() -> None:
    board = leaderboard.leaderboard([experiment("ad"), experiment("age")], ["a", "b"])
    assert len(board.head) == 1 + 2 * len(SETS)
    assert [row[0] for row in board.rows].count("pre, frozen") == 1
    twice = leaderboard.leaderboard([experiment("ad"), experiment("ad")], ["a", "b"])
    assert {"pre, frozen", "pre, frozen (b)"} <= {row[0] for row in twice.rows}


def test_published_numbers_stand_in_a_table_of_their_own(tmp_path: Path, run: Run) -> None:
    folder = write_experiment(experiment("ad"), tmp_path / "run")
    assert run("benchmark", "report", folder, "--out", tmp_path / "with").code == 0
    assert run("benchmark", "report", folder, "--out", tmp_path / "without", "--published=false").code == 0
    page = (tmp_path / "with" / "report.html").read_text()
    said = (tmp_path / "with" / "report.md").read_text()
    for whole, head in ((page, 'id="published"'), (said, "## Published elsewhere, not measured here")):
        measured, _, published = whole.partition(head)
        assert "MedicalNet" in published and "MedicalNet" not in measured
    for name in ("report.html", "report.md"):
        assert "MedicalNet" not in (tmp_path / "without" / name).read_text()
    assert all(one["source"] for one in leaderboard.published_rows())


def test_results_and_markdown_stand_beside_the_page(tmp_path: Path) -> None:
    page_of(tmp_path, experiment("ad"))
    gathered = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (gathered["format"], gathered["format_version"]) == ("brainloom-report", 1)
    assert gathered["experiments"][0]["task"] == "ad" and gathered["provenance"]["protocol"]
    said = (tmp_path / "out" / "report.md").read_text()
    assert gathered["findings"][0] in said and "| pre, frozen |" in said


def test_a_whole_run_is_looked_into_and_a_report_alone_is_refused(tmp_path: Path) -> None:
    write_experiment(experiment("ad"), tmp_path / "run" / "results" / "ad")
    write_report(Story.of([tmp_path / "run"]), tmp_path / "run")
    assert [one.name for one in Story.of([tmp_path / "run"]).experiments] == ["ad"]
    write_report(Story.of([tmp_path / "run"]), tmp_path / "report")
    with pytest.raises(UserError, match="holds no results"):
        Story.of([tmp_path / "report"])


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    evil = experiment("ad", version=2)
    evil["arms"][0]["name"] = evil["title"] = "<script>alert(1)</script>"
    assert "<script>alert" not in page_of(tmp_path, evil)
    assert "<b>" not in table("<b>", ["<b>"], [["<b>"]])


def test_an_interval_becomes_three_columns_of_the_csv() -> None:
    assert csv_text(("arm", "auc"), [("x", interval(0.5))]).splitlines() == [
        "arm,auc,auc low,auc high",
        "x,0.5,0.45,0.55",
    ]


def test_an_arm_is_coloured_by_what_it_started_from() -> None:
    kinds = [kind_of({"mode": mode, "weights": weights}) for mode, weights in
             (("control", None), ("lora", {}), ("knn", None), ("frozen", None), ("full", None))]  # fmt: skip
    assert kinds == ["control", "pretrained", "untrained", "untrained", "scratch"]
    assert kind_of({"mode": "control", "control": "planted", "weights": None}) == "check"
    assert main_metric(experiment("age")) == ("mae_years", False)
