"""One row in a process of its own.

``python -m benchmarks.speed.child ROW.json ANSWER.json`` times it at once; without ANSWER.json it is made ready and then
measures when asked: see :mod:`benchmarks.speed.turns`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from benchmarks.speed.timing import Skip, hold_to_threads, measure, warm_up
from benchmarks.speed.turns import turn
from synth.memory import peak_mb


def maker(spec: dict[str, Any]) -> Any:
    """What makes the row's volumes: see :class:`benchmarks.speed.timing.Row`."""
    module, function = spec["maker"].split(":")
    return getattr(importlib.import_module(module), function)(**spec["options"])


def why(error: Exception) -> dict[str, Any]:
    """The answer of a row that cannot be measured; whatever a peer raises is a reason."""
    if isinstance(error, Skip):
        return {"skipped": str(error)}
    if isinstance(error, ModuleNotFoundError):
        return {"skipped": f"not installed ({error})"}
    return {"skipped": " ".join(f"failed: {type(error).__name__}: {error}".split())[:300]}


def answer(spec: dict[str, Any]) -> dict[str, Any]:
    """Times, threads and peak memory of a row, or why there are none."""
    try:
        make = maker(spec)
        threads = hold_to_threads(spec["threads"])
        outcome = measure(make, spec["repeats"], getattr(make, "volumes_per_call", 1))
        extras = make.extras(outcome) if hasattr(make, "extras") else {}
        return {**outcome, "threads": threads, "peak_mb": peak_mb(), **extras}
    except Exception as error:
        return why(error)


def serve(spec: dict[str, Any], words: Iterable[str], out: TextIO) -> None:
    """Make the row ready, then answer each word with a line of JSON: a number asks for that turn, ``end`` for the rest."""

    def say(found: dict[str, Any]) -> None:
        out.write(json.dumps(found) + "\n")
        out.flush()

    try:
        make = maker(spec)
        hold_to_threads(spec["threads"])
        warm_up(make)
        threads = hold_to_threads(spec["threads"])  # of what was imported meanwhile, too
        say({"volumes": getattr(make, "volumes_per_call", 1)})
        for word in map(str.strip, words):
            if word == "end":
                extras = make.extras({}) if hasattr(make, "extras") else {}
                say({"threads": threads, "peak_mb": peak_mb(), **extras})
                return
            say(turn(make, int(word)))
    except Exception as error:
        say(why(error))


if __name__ == "__main__":
    row = json.loads(Path(sys.argv[1]).read_text())
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(answer(row)))
    else:
        with os.fdopen(os.dup(1), "w") as answers:  # whatever a package prints goes elsewhere
            os.dup2(2, 1)
            serve(row, sys.stdin, answers)
