"""Rows that are compared with each other are measured in turns, so that a busy moment meets them all.

Every row of a group has a process of its own that lives as long as its group is measured. All are made ready, one after
the other; then each is asked, in turn, for one measurement, again and again. Nothing runs beside the one that is asked.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.timing import LONGEST_S, Row, environment, summary

TURN_S = 0.5  # calls of one turn, where they are quick
APART = 1000  # calls of two turns are numbered so far apart: the first call of a turn has the same number in every row


def turn(make: Any, number: int) -> dict[str, Any]:
    """Wall-clock and processor seconds of whole calls, as many as begin within ``make.turn_s`` (at least one).

    ``make.begin()`` and, before each call, ``make.before()``, where there are such, are untimed. A call that returns a
    float has timed itself. Nothing is left running for the next row's turn.
    """
    if hasattr(make, "begin"):
        make.begin()
    longest = getattr(make, "turn_s", TURN_S)
    wall, processor, calls = 0.0, 0.0, 0
    while calls < 1 or (wall < longest and calls < APART):
        if hasattr(make, "before"):
            make.before()
        started, busy = time.perf_counter(), time.process_time()
        own = make(APART * number + calls)
        seconds = time.perf_counter() - started
        processor += time.process_time() - busy
        wall += own if isinstance(own, float) else seconds
        calls += 1
    settle()
    return {"wall": wall, "cpu": processor, "calls": calls}


def settle() -> None:
    """Wait until this process's threads are idle (reading ahead, for one), at most three seconds."""
    for _ in range(150):
        busy = time.process_time()
        time.sleep(0.02)
        if time.process_time() - busy < 0.001:
            return


class Turns:
    """A row in a process of its own, measured when asked.

    Attributes:
        outcome: the row's part of results.json, once it was skipped or ended.
    """

    def __init__(self, row: Row) -> None:
        self.row = row
        self.outcome: dict[str, Any] = {}
        self.measured: list[dict[str, Any]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="brainloom-speed-")
        spec = Path(self._folder.name) / "row.json"
        spec.write_text(json.dumps(row.__dict__))
        self._said = (Path(self._folder.name) / "said").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed.child", str(spec)],
            env=environment(row.threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self._volumes = int(self._hear().get("volumes", 1))

    @property
    def skipped(self) -> bool:
        """Whether the row has said that it cannot be measured."""
        return "skipped" in self.outcome

    def measure(self, number: int) -> None:
        """One turn."""
        self.measured.append(self._ask(str(number)))

    def end(self) -> dict[str, Any]:
        """The whole row; its process ends."""
        rest = self._ask("end") if not self.skipped else {}
        if not self.skipped:
            wall = np.array([found["wall"] for found in self.measured])
            volumes = self._volumes * np.array([found["calls"] for found in self.measured])
            processor = sum(found["cpu"] for found in self.measured)
            times = summary(1000 * wall / volumes, 1000 * processor / volumes.sum(), processor / wall.sum())
            nanoseconds = 1e6 * times["ms_median"] / float(np.prod(self.row.shape))
            self.outcome = {**times, "ns_per_voxel": nanoseconds, **rest}
        self.close()
        return {**self.row.about, **self.outcome}

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._process.poll() is None:
            self._process.stdin.close()  # type: ignore[union-attr]
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._said.close()
        self._folder.cleanup()

    def _ask(self, word: str) -> dict[str, Any]:
        try:
            self._process.stdin.write(word + "\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
        except BrokenPipeError:
            pass  # it has died: hearing nothing tells
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        out = self._process.stdout
        assert out is not None
        ready, _, _ = select.select([out], [], [], LONGEST_S)
        line = out.readline() if ready else ""
        if line:
            found: dict[str, Any] = json.loads(line)
        elif ready:
            code = self._process.wait()
            self._said.seek(0)
            last = (self._said.read().strip().splitlines() or [""])[-1][:200]
            found = {"skipped": f"its process ended with exit code {code} {last}".strip()}
        else:
            self._process.kill()
            found = {"skipped": f"was given up after {LONGEST_S} s"}
        if "skipped" in found:
            self.outcome = found
        return found


def measure_groups(rows: Sequence[Row], repeats: int, show: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Every row, group after group; the rows of one group in turns, ``repeats`` of them."""
    for group, members in groupby(rows, key=lambda row: row.group):
        started: list[Turns] = []
        try:
            for row in members:
                show(f"{group}: {row.name}")
                started.append(Turns(row))
            for number in range(1, repeats + 1):
                for turns in started:
                    if not turns.skipped:
                        turns.measure(number)
            while started:
                yield started.pop(0).end()
        finally:
            for turns in started:
                turns.close()


def paired(slow: dict[str, Any] | None, quick: dict[str, Any] | None) -> float | None:
    """By how many times ``slow`` takes longer than ``quick``: median over turns; None where one was not measured."""
    if not slow or not quick or "skipped" in slow or "skipped" in quick:
        return None
    ratios = [a / b for a, b in zip(slow["ms_all"], quick["ms_all"], strict=False)]
    return float(np.median(ratios))
