"""One row in a process of its own: ``python -m benchmarks.speed.child ROW.json ANSWER.json``."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.speed.timing import Skip, hold_to_one_thread, measure, peak_mb


def answer(spec: dict[str, Any]) -> dict[str, Any]:
    """Times, threads and peak memory of a row (see :class:`benchmarks.speed.timing.Row`), or why there are none."""
    module, function = spec["maker"].split(":")
    try:
        make = getattr(importlib.import_module(module), function)(**spec["options"])
        threads = hold_to_one_thread()
        outcome = measure(make, spec["repeats"], getattr(make, "volumes_per_call", 1))
        extras = make.extras(outcome) if hasattr(make, "extras") else {}
        return {**outcome, "threads": threads, "peak_mb": peak_mb(), **extras}
    except Skip as reason:
        return {"skipped": str(reason)}
    except ModuleNotFoundError as error:
        return {"skipped": f"not installed ({error})"}
    except Exception as error:  # whatever a peer raises
        return {"skipped": " ".join(f"failed: {type(error).__name__}: {error}".split())[:300]}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(answer(json.loads(Path(sys.argv[1]).read_text()))))
