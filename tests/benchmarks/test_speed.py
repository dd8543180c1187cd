"""The speed benchmark: what it measures, refuses and writes; never how long anything took."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.report import Story
from benchmarks.speed import labelmap, show
from benchmarks.speed.plain import plain_loop
from benchmarks.speed.timing import THREAD_VARIABLES, Row, measure, run_row
from synth.anatomy.source import builtin_path, load_anatomy
from synth.errors import UserError
from tests.conftest import Run

MAKERS = """
import importlib, os
from benchmarks.speed.timing import Skip

def noted(folder, package):
    importlib.import_module(package)  # its thread count is then told
    open(f"{folder}/{os.getpid()}", "w").close()
    return lambda i: None

def raises():
    raise RuntimeError("two\\nlines")

def raises_later():
    return lambda i: 1 // 0

def dies():
    os._exit(3)

def not_here():
    raise Skip("needs a moon")
"""


@pytest.fixture
def makers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of makers that the rows' processes can import."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "some_makers.py").write_text(MAKERS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")]))
    return "some_makers"


def row_of(maker: str, **options: Any) -> Row:
    return Row("a row", "peer", (4, 4, 4), maker, options)


def measured(name: str, kind: str, shape: tuple[int, int, int], ms: float) -> dict[str, Any]:
    """A row as it stands in results.json."""
    return {
        "name": name,
        "kind": kind,
        "shape": list(shape),
        "ms_median": ms,
        "ms_quartiles": [0.9 * ms, 1.1 * ms],
        "volumes_per_second": 1000 / ms,
        "ns_per_voxel": 1e6 * ms / float(np.prod(shape)),
        "peak_mb": 300.0,
    }


CUBE, LARGE = (10, 10, 10), (20, 20, 20)
SKIPPED = {"name": "absent", "kind": "peer", "shape": list(CUBE), "skipped": "not installed"}
ROWS = [
    measured(labelmap.MAIN, "ours", LARGE, 72.0),
    measured(labelmap.MAIN, "ours", CUBE, 10.0),
    measured("brainloom, t1w, mild", "ours", CUBE, 1.0),
    measured(labelmap.PLAIN, "floor", CUBE, 4.0),
    measured("slow", "peer", CUBE, 900.0),
    measured("quick", "peer", CUBE, 350.0),
    SKIPPED,
]


def test_one_run_writes_machine_versions_rows_and_a_chart(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "speed"
    answer = run("benchmark", "speed", "labelmap", "--out", out, "--size", 16, "--repeats", 7, "--only", "mild,plain")
    assert answer.code == 0, answer.err
    results = json.loads((out / "results.json").read_text())
    assert [row["name"] for row in results["rows"]] == ["brainloom, t1w, mild", "plain loop"]
    assert results["label_map"]["built_in"] and results["label_map"]["name"] == "builtin"
    assert results["machine"]["cpu"] and results["machine"]["versions"]["numpy"] == np.__version__
    for row in results["rows"]:
        assert row["repeats"] == len(row["ms_all"]) >= 7 and row["peak_mb"] > 10
        assert row["ms_quartiles"][0] <= row["ms_median"] <= row["ms_quartiles"][1]
        assert row["threads"]["numba"] == 1
        assert row["ns_per_voxel"] == pytest.approx(1e6 * row["ms_median"] / 16**3)
    assert (out / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert "builtin" in answer.out and "brainloom, t1w, mild" in answer.out
    with pytest.raises(UserError, match="benchmark speed"):
        Story.of([out])


@pytest.mark.parametrize(
    "words, said",
    [
        (["labelmaps"], "near: labelmap"),
        (["labelmap", "--anatomies", "nowhere"], "there is no folder 'nowhere'"),
        (["labelmap", "--anatomies", "empty"], "holds no label map"),
        (["labelmap", "--repeats", "3"], "at least 7"),
        (["labelmap", "--size", "18"], "multiple of 4"),
        (["labelmap", "--size", "16", "--only", "moon"], "TorchIO"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    answer = run("benchmark", "speed", *words, "--out", "speed")
    errors = [line for line in answer.err.splitlines() if "warning" not in line]
    assert answer.code == 2 and len(errors) == 1 and said in errors[0]
    assert not (tmp_path / "speed").exists()


def test_ours_is_timed_on_three_grids_and_every_peer_on_the_first() -> None:
    rows = labelmap.rows(None, Path("labels.npy"), 128, with_gpu=True)
    ours = [row for row in rows if row.name == labelmap.MAIN]
    assert [row.shape for row in ours] == [(128, 128, 128), (160, 192, 160), (256, 256, 256)]
    assert {row.shape for row in rows if row.kind in ("peer", "floor")} == {(128, 128, 128)}
    assert [row.shape[0] for row in rows if row.kind == "gpu"] == [128, 192]
    assert all(row.includes for row in rows)


def test_an_out_that_is_a_file_is_refused(tmp_path: Path, run: Run) -> None:
    (tmp_path / "speed").write_text("mine")
    answer = run("benchmark", "speed", "labelmap", "--out", tmp_path / "speed")
    assert answer.code == 2 and "is a file" in answer.err
    assert (tmp_path / "speed").read_text() == "mine"


def test_every_row_has_one_thread_and_a_process_of_its_own(
    makers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "2")
    (tmp_path / "seen").mkdir()
    for package in ("torch", "numba"):
        outcome = run_row(row_of(f"{makers}:noted", folder=str(tmp_path / "seen"), package=package), 7)
        assert outcome["threads"] == {package: 1}
    seen = {int(path.name) for path in (tmp_path / "seen").iterdir()}
    assert len(seen) == 2 and os.getpid() not in seen
    assert all(os.environ[name] == "2" for name in THREAD_VARIABLES)


@pytest.mark.parametrize(
    "maker, said",
    [
        ("raises", "failed: RuntimeError: two lines"),
        ("raises_later", "failed: ZeroDivisionError"),
        ("dies", "exit code 3"),
        ("not_here", "needs a moon"),
    ],
)
def test_a_peer_that_fails_is_a_skipped_row(makers: str, maker: str, said: str) -> None:
    outcome = run_row(row_of(f"{makers}:{maker}"), 7)
    assert said in outcome["skipped"] and "ms_median" not in outcome
    assert outcome["name"] == "a row" and outcome["shape"] == [4, 4, 4]


def test_a_peer_that_is_not_installed_is_a_skipped_row() -> None:
    assert "not installed" in run_row(row_of("no_such_package_at_all:make"), 7)["skipped"]


def test_a_row_makes_a_new_volume_each_time() -> None:
    asked: list[int] = []
    outcome = measure(asked.append, 7)
    assert asked == sorted(set(asked)) and outcome["repeats"] >= 7


def test_batches_are_timed_by_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("benchmarks.speed.timing.time.perf_counter", lambda: next(clock))
    outcome = measure(lambda i: None, 7, volumes=4)  # every look at this clock is a second later than the last
    assert (outcome["ms_median"], outcome["volumes_per_second"]) == (250.0, 4.0)


def test_ratios_take_medians_of_the_same_grid() -> None:
    found = labelmap.ratios(ROWS)
    assert found["fastest_peer"] == "quick"
    assert found["fastest_peer_by_ours"] == 35.0
    assert found["ours_by_plain_loop"] == 2.5
    assert found["ns_per_voxel"] == {"10×10×10": 10_000.0, "20×20×20": 9_000.0}
    assert found["growth"] == 0.9


def test_ratios_of_rows_that_were_skipped_are_left_out() -> None:
    found = labelmap.ratios([SKIPPED, {**SKIPPED, "name": labelmap.PLAIN, "kind": "floor"}])
    assert (found["fastest_peer"], found["ours_by_plain_loop"], found["growth"]) == (None, None, None)
    assert show.sentences(found) == []


def test_the_table_compares_with_ours_on_the_same_grid_and_says_why_a_row_is_missing() -> None:
    lines = show.table(ROWS, labelmap.MAIN).splitlines()
    (quick,) = [line for line in lines if line.startswith("quick")]
    assert quick.split() == ["quick", "10×10×10", "350.0", "[315.0,", "385.0]", "2.86", "35.00", "350000.0", "300"]
    assert any(line.startswith("absent") and line.endswith("skipped: not installed") for line in lines)


def test_rows_that_shared_their_core_are_told() -> None:
    assert show.shared_core([{**ROWS[0], "cores_busy": 0.97}, SKIPPED]) == []
    (said,) = show.shared_core([{**ROWS[0], "cores_busy": 0.97}, {**ROWS[1], "cores_busy": 0.4}])
    assert said.startswith("1 of 2 rows") and "0.40" in said


def test_every_row_gets_the_same_label_map() -> None:
    array = labelmap.resampled(builtin_path(), (128, 128, 128))
    anatomy = load_anatomy(builtin_path())
    numbers = np.array([label.number for label in anatomy.labels])
    middle = tuple(round(at) for at in anatomy.centre)
    assert array[64, 64, 64] in numbers[anatomy.index[tuple(slice(m - 1, m + 2) for m in middle)]]
    assert set(np.unique(array)) <= set(numbers.tolist())
    left, right = (array == 17).nonzero()[0].mean(), (array == 53).nonzero()[0].mean()  # hippocampi, RAS+
    assert left < 64 < right
    assert 40 < abs(right - left) < 70  # mm apart


def test_the_plain_loop_warps_colours_and_adds_noise(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", labelmap.resampled(builtin_path(), (64, 64, 64)))
    make = plain_loop(str(tmp_path / "labels.npy"))
    image, label = make(0)
    other = make(1)
    assert image.shape == label.shape == (64, 64, 64) and np.isfinite(image).all()
    assert len(np.unique(label)) > 10 and not np.array_equal(label, other[1])
    again = make(0)
    assert np.array_equal(again[0], image) and np.array_equal(again[1], label)
    medians = [np.median(image[label == n]) for n in np.unique(label) if (label == n).sum() > 500]
    assert np.std(medians) > 0.05  # tissues differ
    assert all(image[label == n].std() > 0.005 for n in np.unique(label) if (label == n).sum() > 500)
