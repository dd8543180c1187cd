"""The report and the demo: one self-contained page that says plainly what was simulated."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.report import Story, findings, write_report
from synth.corpus import Corpus
from synth.errors import UserError
from tests.conftest import Run


class Page(HTMLParser):
    """Collects tags and the addresses they load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src",) or (tag == "link" and name == "href")]


@pytest.mark.timeout(240)
def test_the_demo_ends_in_a_self_contained_page_and_is_not_made_twice(tmp_path: Path, run: Run) -> None:
    answer = run("demo", "--size", "tiny", "--out", tmp_path / "demo", "--workers", 0)
    assert answer.code == 0, answer.err
    path = Path(answer.out.strip().splitlines()[-1].removeprefix("report: "))
    page = Page()
    page.feed(path.read_text())
    assert page.tags.count("table") >= 7 and "svg" in page.tags and page.tags.count("img") == 2
    assert all(address.startswith("data:") for address in page.loaded)
    assert not re.search(r"(src|href)=[\"']https?:", path.read_text())
    for words in (
        "What was simulated",
        "regional volumes + logistic",
        "regional volumes + ridge",
        "held-out site",
        "gain over scratch",
        "balanced accuracy",
        "Timings",
        "Recipe",
    ):
        assert words in path.read_text()
    shards = {
        p: p.stat().st_mtime_ns
        for p in (tmp_path / "demo").rglob("*")
        if p.is_file() and p.name not in ("report.html", "timings.json")
    }
    again = run("demo", "--size", "tiny", "--out", tmp_path / "demo", "--workers", 0)
    assert again.code == 0 and "nothing to do" in again.out and str(path) in again.out
    assert "SIMULATED" in again.out
    assert shards == {p: p.stat().st_mtime_ns for p in shards}


def results(ours: float, control: float, simulated: bool = True) -> dict:
    """A minimal results.json with one pre-trained arm, scratch and a control."""

    def row(name: str, mode: str, value: float, weights: dict | None = None) -> dict:
        interval = {"value": value, "low": value - 0.1, "high": value + 0.1}
        return {"name": name, "mode": mode, "weights": weights, "metrics": {"cross-validation": {"roc_auc": interval}}}

    return {
        "task": "ad",
        "title": "AD",
        "test_sets": {"cross-validation": 50},
        "cohort": {"simulated": simulated},
        "arms": [row("pre", "frozen", ours, {}), row("scratch", "full", 0.6), row("volumes", "control", control)],
    }


def test_the_finding_says_when_a_control_wins_and_when_it_does_not() -> None:
    assert "“volumes” does better" in " ".join(findings([results(0.7, 0.8)]))
    assert "“volumes” does not do better" in " ".join(findings([results(0.8, 0.7)]))


def test_the_finding_calls_simulated_people_simulated_and_real_ones_not() -> None:
    assert "simulated" in " ".join(findings([results(0.7, 0.8)]))
    assert "simulated" not in " ".join(findings([results(0.7, 0.8, simulated=False)]))


def test_a_report_of_nothing_is_refused(tmp_path: Path, corpus: Corpus, run: Run) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no results"):
        Story.of([tmp_path / "empty"])
    answer = run("benchmark", "report", corpus.path, "--out", tmp_path / "r")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert not (tmp_path / "r").exists()


def test_text_from_a_cohort_cannot_become_markup(tmp_path: Path, people: Corpus, run: Run) -> None:
    import json

    assert (
        run(
            "finetune",
            "run",
            "--task",
            "age",
            "--cohort",
            people.path,
            "--out",
            tmp_path / "r",
            "--mode",
            "frozen",
            "--shape",
            "32,40,32",
            "--spacing",
            5,
            "--folds",
            3,
        ).code
        == 0
    )
    path = tmp_path / "r" / "results.json"
    content = json.loads(path.read_text())
    content["cohort"]["name"] = "<script>alert(1)</script>"
    path.write_text(json.dumps(content))
    page = write_report(Story.of([tmp_path / "r"]), tmp_path / "report").read_text()
    assert "<script>" not in page
