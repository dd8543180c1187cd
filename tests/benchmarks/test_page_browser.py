"""The report page in a headless Chromium: drawn without an error, turning, dark, narrow, accessible."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.recipe import read_recipe
from benchmarks.report import Story, write_report
from synth.corpus import Corpus
from tests.benchmarks.chrome import BINARY, Chrome
from tests.benchmarks.made_up import experiment, write_experiment
from tests.benchmarks.profiles import PROFILE

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium on this machine")
AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
STAGE = "(r => [r.x + scrollX, r.y + scrollY, r.width, r.height])(document.getElementById('viewer-canvas').getBoundingClientRect())"
SAYS = "document.getElementById('viewer-says').textContent"


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    browser = Chrome(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module", params=["of made-up results", "of a run"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Path:
    """A page of results without gaps, and the one that ``benchmark run`` writes."""
    folder = tmp_path_factory.mktemp("page")
    if request.param == "of a run":
        (folder / "profile.yaml").write_text(PROFILE)
        matrix: Any = read_recipe(folder / "profile.yaml")
        assert matrix.run(folder / "out") == 0
        return folder / "out" / "report.html"
    runs = [write_experiment(experiment(task, version=2), folder / task) for task in ("ad", "age")]
    return write_report(Story.of([*runs, corpus.path]), folder / "out")


def test_every_figure_is_drawn_without_a_complaint(chrome: Chrome, page: Path) -> None:
    chrome.open(page)
    sizes = chrome.run("[...document.querySelectorAll('svg')].map(s => Math.min(s.clientWidth, s.clientHeight))")
    assert len(sizes) >= 5 and min(sizes) > 50
    assert chrome.run("[...document.querySelectorAll('figure')].every(one => one.querySelector('svg, img, canvas'))")
    assert chrome.run("[...document.images].every(i => i.naturalWidth > 100)")
    assert chrome.errors() == []


def test_nothing_is_loaded_from_elsewhere(chrome: Chrome, page: Path) -> None:
    chrome.open(page)
    loaded = chrome.run("performance.getEntriesByType('resource').map(one => one.name)")
    assert [name for name in loaded if not name.startswith(("data:", "blob:"))] == []


def test_the_viewer_shows_a_brain_and_turns_it_when_dragged(chrome: Chrome, page: Path) -> None:
    chrome.open(page)
    chrome.run("document.getElementById('viewer-open').click()")
    chrome.wait(f"{SAYS} !== ''")
    assert "is shown" in chrome.run(SAYS)
    chrome.run("document.getElementById('viewer-stage').scrollIntoView({block: 'center'})")
    box = chrome.run(STAGE)
    assert box[3] > 200
    before = settled(chrome, box)
    x, y = chrome.run(
        "(r => [r.x + r.width / 2, r.y + r.height / 2])(document.getElementById('viewer-canvas').getBoundingClientRect())"
    )
    chrome.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", buttons=1, clickCount=1)
    for step in range(1, 6):
        chrome.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + 20 * step, y=y, button="left", buttons=1)
    chrome.call("Input.dispatchMouseEvent", type="mouseReleased", x=x + 100, y=y, button="left", clickCount=1)
    dragged = settled(chrome, box)
    assert dragged != before
    turn = "document.getElementById('viewer-turn')"
    chrome.run(f"{turn}.value = 250, {turn}.dispatchEvent(new Event('input'))")
    assert settled(chrome, box) != dragged
    assert chrome.errors() == []


def settled(chrome: Chrome, box: list[float]) -> bytes:
    """The canvas after two frames."""
    chrome.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
    return chrome.picture(box)


def test_a_click_on_a_head_sorts_its_column(chrome: Chrome, page: Path) -> None:
    chrome.open(page)
    head = "document.querySelector('table.sortable thead tr').cells[1]"
    keys = "[...document.querySelector('table.sortable').tBodies[0].rows].map(r => Number(r.cells[1].dataset.key))"
    chrome.run(f"{head}.querySelector('button').click()")
    values = chrome.run(keys)
    assert values == sorted(values) and chrome.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    chrome.run(f"{head}.querySelector('button').click()")
    assert chrome.run(keys) == values[::-1]


def test_dark_follows_the_reader_figures_included(chrome: Chrome, page: Path) -> None:
    look = (
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('svg .bar')).stroke]"
    )
    chrome.open(page)
    light = chrome.run(look)
    chrome.open(page, dark=True)
    dark = chrome.run(look)
    assert light[0] == "rgb(255, 255, 255)" and all(a != b for a, b in zip(light, dark, strict=True))


def test_on_a_phone_nothing_sticks_out(chrome: Chrome, page: Path) -> None:
    chrome.open(page, width=360)
    chrome.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert chrome.run("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_violation(chrome: Chrome, page: Path, dark: bool) -> None:
    chrome.open(page, dark=dark)
    chrome.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    chrome.run(AXE + ";1")
    found = chrome.run("axe.run().then(r => [r.passes.length, r.violations.map(v => [v.id, v.nodes[0].html])])")
    assert found[0] > 10 and found[1] == []
