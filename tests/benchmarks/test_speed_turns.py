"""Rows that are measured in turns: what a turn is, what becomes of rows that fail, how ratios are taken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import show
from benchmarks.speed.run import pick
from benchmarks.speed.timing import Row
from benchmarks.speed.turns import measure_groups, paired, turn
from synth.errors import UserError

MAKERS = """
import os, time

class Noted:
    turn_s = 0.0
    volumes_per_call = 4
    def __init__(self, log, told):
        print("words of a package that is being imported")
        self.log, self.told = log, told
    def __call__(self, i):
        with open(self.log, "a") as file:
            file.write(f"{self.told} {i} {os.getpid()}\\\\n")
    def extras(self, outcome):
        return {"note": "noted"}

def fails_in_its_third_turn():
    def make(i):
        if i >= 3000:
            raise RuntimeError("two\\\\nlines")
    make.turn_s = 0.0
    return make

def dies():
    os._exit(3)
""".replace("\\\\", "\\")


@pytest.fixture
def makers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of makers that the rows' processes can import."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "turn_makers.py").write_text(MAKERS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")]))
    return "turn_makers"


def row_of(name: str, maker: str, group: str = "a group", **options: Any) -> Row:
    return Row(name, "ours", (4, 4, 4), maker, options, "", group)


def test_rows_of_a_group_take_turns_on_the_same_volumes(makers: str, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    rows = [row_of(name, f"{makers}:Noted", log=log, told=name) for name in "ab"]
    found = list(measure_groups(rows, 7, lambda _: None))
    lines = [line.split() for line in Path(log).read_text().splitlines()]
    turns = [(name, int(i)) for name, i, _ in lines if int(i) >= 1000]
    assert turns == [(name, 1000 * number) for number in range(1, 8) for name in "ab"]
    assert len({pid for *_, pid in lines}) == 2 and str(os.getpid()) not in {pid for *_, pid in lines}
    for row in found:
        assert row["repeats"] == len(row["ms_all"]) == 7 and row["group"] == "a group" and row["note"] == "noted"
        assert row["peak_mb"] > 5 and row["ns_per_voxel"] == pytest.approx(1e6 * row["ms_median"] / 64)


@pytest.mark.parametrize(
    "maker, said",
    [
        ("fails_in_its_third_turn", "failed: RuntimeError: two lines"),
        ("dies", "exit code 3"),
        ("absent", "AttributeError"),
    ],
)
def test_a_row_that_fails_says_so_and_the_others_go_on(makers: str, maker: str, said: str, tmp_path: Path) -> None:
    sound = row_of("sound", f"{makers}:Noted", log=str(tmp_path / "log"), told="sound")
    found = list(measure_groups([row_of("ill", f"{makers}:{maker}"), sound], 7, lambda _: None))
    assert [row["name"] for row in found] == ["ill", "sound"]
    assert said in found[0]["skipped"] and "ms_median" not in found[0]
    assert found[1]["repeats"] == 7


def test_a_package_that_is_not_installed_is_a_skipped_row() -> None:
    (found,) = measure_groups([row_of("absent", "no_such_package_at_all:make")], 7, lambda _: None)
    assert "not installed" in found["skipped"]


def test_a_turn_is_whole_calls_with_what_comes_before_them_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("benchmarks.speed.turns.time.perf_counter", lambda: now[0])
    asked: list[int] = []

    class Make:
        turn_s = 5.0

        def before(self) -> None:
            now[0] += 100.0

        def __call__(self, number: int) -> None:
            asked.append(number)
            now[0] += 2.0

    found = turn(Make(), 3)
    assert (found["wall"], found["calls"], asked) == (6.0, 3, [3000, 3001, 3002])


def test_a_call_that_timed_itself_is_believed() -> None:
    def make(number: int) -> float:
        return 2.5

    make.turn_s = 0.0  # type: ignore[attr-defined]
    assert turn(make, 1)["wall"] == 2.5


def test_a_ratio_is_the_median_over_turns_so_that_a_busy_moment_does_not_decide() -> None:
    slow, quick = {"ms_all": [4.0, 400.0, 4.0]}, {"ms_all": [2.0, 100.0, 2.0]}
    assert paired(slow, quick) == 2.0
    assert paired({"skipped": "why"}, quick) is None and paired(None, quick) is None


def test_only_picks_rows_by_name_group_or_kind() -> None:
    rows = [row_of("one", "m:f", "crops"), Row("two", "peer", (4, 4, 4), "m:f", {}, "", "cold")]
    assert [row.name for row in pick(rows, ())] == ["one", "two"]
    assert [pick(rows, (word,))[0].name for word in ("ONE", "crop", "ours", "peer")] == ["one", "one", "one", "two"]
    with pytest.raises(UserError, match="one, two"):
        pick(rows, ("moon",))


def test_the_table_gives_volumes_a_second_by_group_and_says_why_a_row_is_missing() -> None:
    rows = [
        {
            "name": "quick",
            "group": "crops",
            "kind": "ours",
            "shape": [4, 4, 4],
            "ms_median": 0.5,
            "ms_quartiles": [0.4, 1.0],
            "cores_busy": 1.9,
            "peak_mb": 120.0,
            "note": "half",
        },
        {"name": "absent", "group": "cold", "kind": "peer", "shape": [4, 4, 4], "skipped": "not installed"},
    ]
    lines = show.rate_table(rows).splitlines()
    assert "crops:" in lines and "cold:" in lines
    (quick,) = [line for line in lines if "quick" in line]
    assert quick.split() == ["quick", "4×4×4", "2,000", "[1,000,", "2,500]", "0.5", "1.90", "120", "half"]
    assert any(line.split()[0] == "absent" and line.endswith("skipped: not installed") for line in lines)
