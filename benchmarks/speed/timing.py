"""Timing one row: warm-up, at least seven volumes, quartiles; in a fresh process held to its threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FEWEST = 7  # volumes that a median is taken of
LONGEST_S = 3600  # a row that takes longer is given up
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
Kind = Literal["ours", "floor", "peer", "gpu"]
Shape = tuple[int, int, int]


class Skip(Exception):  # noqa: N818  (it is no error: the row says why it is empty)
    """Raised by a row's maker that cannot run here; the text becomes the row's ``skipped``."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what is shown.
        kind: ours, floor (the plain loop), peer or gpu.
        shape: voxels of the volume that one call makes.
        maker: ``module:function``; the function takes ``options`` and returns ``make(i)``, which makes the i-th random
            volume, and may carry ``volumes_per_call`` and ``extras()``.
        options: the maker's keyword arguments, JSON-able.
        includes: in words, what one volume goes through.
        group: rows of one group are measured in turns (:mod:`benchmarks.speed.turns`).
        threads: of every library that has a number of threads; a row may start as many of its own.
    """

    name: str
    kind: Kind
    shape: Shape
    maker: str
    options: dict[str, Any] = field(default_factory=dict)
    includes: str = ""
    group: str = ""
    threads: int = 1

    @property
    def about(self) -> dict[str, Any]:
        """What results.json says of a row before its times."""
        told = {"name": self.name, "kind": self.kind, "shape": list(self.shape), "includes": self.includes}
        return {**told, "group": self.group} if self.group else told


def warm_up(make: Callable[[int], Any]) -> int:
    """For compilers and caches: one call and then as many, up to ten, as begin within 3 s. Returns how many."""
    started, done = time.perf_counter(), 0
    while done < 1 or (done < 10 and time.perf_counter() - started < 3):
        make(done)
        done += 1
    return done


def summary(ms: npt.NDArray[np.float64], cpu_ms: float, cores_busy: float) -> dict[str, Any]:
    """Median, quartiles and mean of milliseconds a volume, as they stand in results.json."""
    low, median, high = np.percentile(ms, [25, 50, 75])
    return {
        "repeats": len(ms),
        "ms_median": float(median),
        "ms_quartiles": [float(low), float(high)],
        "ms_mean": float(ms.mean()),
        "ms_all": [round(float(value), 4) for value in ms],
        "volumes_per_second": float(1000 / ms.mean()),
        "cpu_ms_mean": cpu_ms,
        "cores_busy": round(cores_busy, 3),
    }


def measure(make: Callable[[int], Any], repeats: int, volumes: int = 1) -> dict[str, Any]:
    """Wall-clock milliseconds a volume over at least ``repeats`` calls, a new random volume each.

    Of a fast row more than ``repeats`` volumes are timed, as many as fit in 3 s, at most 50. ``cores_busy`` is processor
    seconds by wall seconds: above 1 a row had more than one thread, well below 1 it had to share its core.
    """
    done = warm_up(make)
    wall: list[float] = []
    processor = time.process_time()
    while len(wall) < repeats or (len(wall) < 50 and sum(wall) < 3):
        before = time.perf_counter()
        make(done + len(wall))
        wall.append(time.perf_counter() - before)
    processor = time.process_time() - processor
    ms = 1000 * np.array(wall) / volumes
    return summary(ms, 1000 * processor / len(wall) / volumes, processor / sum(wall))


def run_row(row: Row, repeats: int) -> dict[str, Any]:
    """Time a row in a fresh process; whatever goes wrong there gives a row with ``skipped`` and the reason."""
    about = row.about
    with tempfile.TemporaryDirectory(prefix="brainloom-speed-") as folder:
        spec, answer = Path(folder) / "row.json", Path(folder) / "answer.json"
        spec.write_text(json.dumps({**asdict(row), "repeats": repeats}))
        command = [sys.executable, "-m", "benchmarks.speed.child", str(spec), str(answer)]
        try:
            ended = subprocess.run(
                command, env=environment(row.threads), capture_output=True, text=True, timeout=LONGEST_S
            )
        except subprocess.TimeoutExpired:
            return {**about, "skipped": f"was given up after {LONGEST_S} s"}
        if not answer.is_file():
            said = (ended.stderr.strip().splitlines() or [""])[-1][:200]
            return {**about, "skipped": f"its process ended with exit code {ended.returncode} {said}".strip()}
        outcome = json.loads(answer.read_text())
    if "skipped" not in outcome:
        outcome["ns_per_voxel"] = 1e6 * outcome["ms_median"] / float(np.prod(row.shape))
    return {**about, **outcome}


def environment(threads: int) -> dict[str, str]:
    """The child's environment: so many threads for every library that reads a variable; our packages are found."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), "PYTHONPATH": os.pathsep.join(paths)}


def hold_to_threads(threads: int) -> dict[str, int]:
    """Thread counts of the libraries that are loaded, after those that read no variable were told too."""
    counts = {}
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(threads)
        counts["torch"] = torch.get_num_threads()
    if "numba" in sys.modules:
        counts["numba"] = sys.modules["numba"].get_num_threads()
    if "SimpleITK" in sys.modules:
        itk = sys.modules["SimpleITK"].ProcessObject
        itk.SetGlobalDefaultNumberOfThreads(threads)
        counts["SimpleITK"] = itk.GetGlobalDefaultNumberOfThreads()
    return counts
