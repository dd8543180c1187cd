"""One run of a speed benchmark: measure, write results.json and speed.png, print the table."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.speed import show
from benchmarks.speed.machine import describe
from benchmarks.speed.timing import FEWEST, Row
from benchmarks.speed.turns import measure_groups
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

    label_map, results = _begin("labelmap", anatomies)
    name, machine = results["label_map"]["name"], results["machine"]
    results["spacing_mm"] = SPACING_MM
    print(f"label map: {name}, the same for every row; {SPACING_MM:g} mm; one thread; {machine['cpu']}")
    rows = _written(measure_rows(label_map, size, repeats, only, _say), results, ratios, out)
    show.chart(rows, out / "speed.png", f"{machine['cpu']}; label map {name}, {SPACING_MM:g} mm")
    print(show.table(rows, MAIN))
    print("\n".join([*show.sentences(results["ratios"]), *show.gpu_sentences(rows), *show.shared_core(rows)]))
    print(f"results: {out / 'results.json'}")
    return _failed(rows)


def stream(out: Path, anatomies: Path | None, repeats: int, size: int, only: tuple[str, ...]) -> int:
    """Batches of a Stream beside other readers: see :mod:`benchmarks.speed.stream`."""
    from benchmarks.speed import stream as benchmark
    from benchmarks.speed.stream_data import VOLUMES, Data

    label_map, results = _begin("stream", anatomies)
    with tempfile.TemporaryDirectory(prefix="brainloom-speed-") as folder:
        chosen = pick(benchmark.rows(Path(folder), size), only)
        data = Data(Path(folder), label_map, size)
        for form in benchmark.forms_of(chosen):
            _say(f"{VOLUMES} volumes of {size}³, {form}")
            data.make(form)
        rows = _written(measure_groups(chosen, repeats, _say), results, benchmark.ratios, out)
    return _shown(rows, results, benchmark.sentences(results["ratios"]), out)


def corpus(out: Path, anatomies: Path | None, repeats: int, size: int, only: tuple[str, ...]) -> int:
    """What writing and Ray cost: see :mod:`benchmarks.speed.corpus`."""
    from benchmarks.speed import corpus as benchmark

    label_map, results = _begin("corpus", anatomies)
    with tempfile.TemporaryDirectory(prefix="brainloom-speed-") as folder:
        chosen = pick(benchmark.rows(Path(folder), label_map, size), only)
        rows = _written(measure_groups(chosen, repeats, _say), results, benchmark.ratios, out)
    return _shown(rows, results, benchmark.sentences(results["ratios"]), out)


def diffusion(out: Path, anatomies: Path | None, repeats: int, size: int, only: tuple[str, ...]) -> int:
    """Sampling of latent diffusion beside MONAI's: see :mod:`benchmarks.speed.diffusion`."""
    from benchmarks.speed import diffusion as benchmark

    _, results = _begin("diffusion", anatomies)
    rows = _written(measure_groups(pick(benchmark.rows(size), only), repeats, _say), results, benchmark.ratios, out)
    return _shown(rows, results, benchmark.sentences(results["ratios"]), out)


def train(out: Path, anatomies: Path | None, repeats: int, size: int, only: tuple[str, ...]) -> int:
    """Training steps beside MONAI's: see :mod:`benchmarks.speed.train`."""
    from benchmarks.speed import train as benchmark

    _, results = _begin("train", anatomies)
    rows = _written(measure_groups(pick(benchmark.rows(size), only), repeats, _say), results, benchmark.ratios, out)
    return _shown(rows, results, benchmark.sentences(results["ratios"]), out)


def pick(rows: list[Row], only: tuple[str, ...]) -> list[Row]:
    """The rows whose name, group or kind holds one of the words (case apart); all without words.

    Raises:
        UserError: there is none.
    """
    chosen = [
        row
        for row in rows
        if not only or any(word.lower() in f"{row.name}, {row.group}, {row.kind}".lower() for word in only)
    ]
    if not chosen:
        names = ", ".join(dict.fromkeys(row.name for row in rows))
        raise UserError(f"--only {','.join(only)} names no row; expected words from: {names}")
    return chosen


def _begin(what: str, anatomies: Path | None) -> tuple[Path | None, dict[str, Any]]:
    """The label map, None for the built-in one, and what results.json says before its rows."""
    from synth.anatomy.source import builtin_path, find_label_maps, load_anatomy, sha256_of

    label_map = None if anatomies is None else find_label_maps(anatomies)[0].resolve()
    path = label_map or builtin_path()
    machine = describe()
    _warn_if_busy(machine)
    about = {"name": load_anatomy(path).name, "sha256": sha256_of(path), "built_in": label_map is None}
    return label_map, {"benchmark": f"speed {what}", "machine": machine, "label_map": about}


def _say(text: str) -> None:
    print(f"  {text} …", flush=True)


def _written(
    found: Iterable[dict[str, Any]],
    results: dict[str, Any],
    ratios: Callable[[list[dict[str, Any]]], dict[str, Any]],
    out: Path,
) -> list[dict[str, Any]]:
    """Every row; results.json is written anew after each."""
    from synth.storage import write_atomically

    rows: list[dict[str, Any]] = []
    for row in found:
        rows.append(row)
        results |= {"rows": rows, "ratios": ratios(rows)}
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False))
    return rows


def _shown(rows: list[dict[str, Any]], results: dict[str, Any], sentences: list[str], out: Path) -> int:
    """Table, chart and sentences of rows that were measured in groups."""
    machine = results["machine"]
    show.chart(rows, out / "speed.png", f"{machine['cpu']}; label map {results['label_map']['name']}", rate=True)
    print(show.rate_table(rows))
    print("\n".join([*sentences, f"results: {out / 'results.json'}"]))
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


BENCHMARKS: dict[str, Callable[[Path, Path | None, int, int, tuple[str, ...]], int]] = {
    "labelmap": labelmap,
    "stream": stream,
    "corpus": corpus,
    "diffusion": diffusion,
    "train": train,
}
