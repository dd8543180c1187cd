"""Tables whose rows are made in chunks, by several processes, and that go on where they were stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from synth.errors import UserError
from synth.storage import write_atomically

CHUNK = 20


def processes(out: Path, workers: int | None) -> int:
    """How many processes fill a table below ``out``: those asked for, else two where there are two cores.

    Raises:
        UserError: a negative number, or ``out`` is a file.
    """
    if out.is_file():
        raise UserError(f"--out '{out}' is a file; expected a folder to make")
    if workers is not None and workers < 0:
        raise UserError(f"--workers is {workers}; expected 0, which takes no further process, or more")
    return min(2, os.cpu_count() or 1) if workers is None else workers


def same_options(options: Mapping[str, Any], out: Path) -> None:
    """Keep the options in ``out``. Raises UserError when others are kept there already."""
    kept = out / "options.json"
    wanted = json.dumps(options, sort_keys=True)
    if kept.exists() and kept.read_text() != wanted:
        raise UserError(f"'{out}' holds rows of other options ({kept.read_text()}); choose another --out")
    write_atomically(kept, wanted)


def resumed_rows(
    path: Path, count: int, make: Callable[[range], list[dict[str, Any]]], workers: int, done: Callable[[int], None]
) -> pd.DataFrame:
    """The table at ``path`` (TSV) with rows of every index below ``count``; chunks that it holds are not made again.

    Args:
        make: a range of indices → their rows, each with its ``index``; picklable where ``workers`` is above 1.
        workers: processes.
        done: called with the number of indices that are there.
    """
    held = pd.read_csv(path, sep="\t") if path.exists() else pd.DataFrame({"index": []})
    wanted = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    missing = [chunk for chunk in wanted if not set(chunk) <= set(held["index"])]
    left = {index for chunk in missing for index in chunk}
    parts = [held[~held["index"].isin(left) & (held["index"] < count)]]
    finished = count - len(left)
    for rows in _spread(make, missing, workers):
        parts.append(pd.DataFrame(rows))
        whole = pd.concat([part for part in parts if len(part)], ignore_index=True)
        write_atomically(path, whole.to_csv(sep="\t", index=False))
        finished += len({row["index"] for row in rows})
        done(finished)
    return pd.concat([part for part in parts if len(part)], ignore_index=True) if count else held


def _spread(make: Callable[[range], Any], chunks: list[range], workers: int) -> Iterator[Any]:
    if workers < 2 or len(chunks) < 2:
        yield from map(make, chunks)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(make, chunks)
