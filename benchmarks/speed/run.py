"""One run of a speed benchmark: measure, write results.json and speed.png, print the table."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speed import show
from benchmarks.speed.machine import describe
from benchmarks.speed.timing import FEWEST
from synth.errors import UserError, near

SIZES = (16, 512)


def run(what: str, out: Path, anatomies: Path | None, repeats: int, size: int, only: tuple[str, ...]) -> int:
    """Measure the benchmark ``what``. Returns 0, or 1 when a row of brainloom itself failed.

    Raises:
        UserError: an unknown benchmark, options out of range, a label map that is not there, ``out`` not a folder.
    """
    if what not in BENCHMARKS:
        raise UserError(f"there is no speed benchmark '{what}'; near: {near(what, BENCHMARKS)}")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; expected a folder, there already or to be made")
    if repeats < FEWEST:
        raise UserError(f"--repeats is {repeats}; expected at least {FEWEST}, so that a median means something")
    if not SIZES[0] <= size <= SIZES[1] or size % 4:
        raise UserError(f"--size is {size}; expected a multiple of 4 from {SIZES[0]} to {SIZES[1]}")
    return BENCHMARKS[what](out, anatomies, repeats, size, only)


def labelmap(out: Path, anatomies: Path | None, repeats: int, size: int, only: tuple[str, ...]) -> int:
    """LabelMap beside a plain loop and other packages: see :mod:`benchmarks.speed.labelmap`."""
    from benchmarks.speed.labelmap import MAIN, SPACING_MM, measure_rows, ratios
    from synth.anatomy.source import builtin_path, find_label_maps, load_anatomy, sha256_of
    from synth.storage import write_atomically

    label_map = None if anatomies is None else find_label_maps(anatomies)[0].resolve()
    path = label_map or builtin_path()
    name = load_anatomy(path).name
    machine = describe()
    _warn_if_busy(machine)
    print(f"label map: {name}, the same for every row; {SPACING_MM:g} mm; one thread; {machine['cpu']}")
    results: dict[str, Any] = {
        "benchmark": "speed labelmap",
        "machine": machine,
        "label_map": {"name": name, "sha256": sha256_of(path), "built_in": label_map is None},
        "spacing_mm": SPACING_MM,
    }
    rows: list[dict[str, Any]] = []
    for row in measure_rows(label_map, size, repeats, only, lambda text: print(f"  {text} …", flush=True)):
        rows.append(row)
        results |= {"rows": rows, "ratios": ratios(rows)}
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False))
    show.chart(rows, out / "speed.png", f"{machine['cpu']}; label map {name}, {SPACING_MM:g} mm")
    print(show.table(rows, MAIN))
    print("\n".join([*show.sentences(results["ratios"]), *show.gpu_sentences(rows), *show.shared_core(rows)]))
    print(f"results: {out / 'results.json'}")
    return _failed(rows)


def _warn_if_busy(machine: dict[str, Any]) -> None:
    if (machine["load_before"] or 0) > 0.5:
        print(
            f"brainloom: warning: the machine is busy (load {machine['load_before']}); times will be too long",
            file=sys.stderr,
        )


def _failed(rows: list[dict[str, Any]]) -> int:
    own = [row for row in rows if "skipped" in row and row["kind"] in ("ours", "floor", "gpu")]
    for row in own:
        print(f"brainloom: error: the row '{row['name']}' was not measured: {row['skipped']}", file=sys.stderr)
    return 1 if own else 0


BENCHMARKS: dict[str, Callable[[Path, Path | None, int, int, tuple[str, ...]], int]] = {"labelmap": labelmap}
