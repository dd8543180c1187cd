"""Is a simulated T1-weighted cohort's image quality that of real scans? MRIQC's metrics against 1,101 scans of ABIDE."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.chunks import resumed_rows, same_options
from synth.anatomy.labels import label_table
from synth.keys import rng_for
from synth.labelmap import LabelMap
from synth.quality import METRICS, measure, real_percentiles
from synth.sample import Sample
from synth.storage import write_atomically

TO_REACH = 0.85  # share of volumes inside the real 5–95 % range, for every metric


@dataclass(frozen=True)
class Realism:
    """How many volumes, from which label maps."""

    count: int
    seed: int
    anatomies: str | None

    def generator(self) -> LabelMap:
        """LabelMap's own T1-weighted contrast at 1 mm, nothing changed, on a grid that holds the head."""
        folder = Path(self.anatomies) if self.anatomies else None
        return LabelMap(shape=(176, 216, 188), spacing=1.0, anatomies=folder, contrast="t1w")


def run(
    check: Realism, out: Path, cohort: Path | None, workers: int, show: Callable[[int, int], None]
) -> dict[str, Any]:
    """Measure (or go on), write realism.tsv, results.json, realism.png and, with a cohort, side_by_side.png."""
    from benchmarks import realism_figures

    scan = realism_figures.real_scan(cohort) if cohort is not None else None
    out.mkdir(parents=True, exist_ok=True)
    same_options(asdict(check), out)
    rows = resumed_rows(
        out / "realism.tsv", check.count, partial(quality_rows, check), workers, lambda n: show(n, check.count)
    )
    real = real_percentiles()
    results: dict[str, Any] = {"check": asdict(check), "metrics": inside(rows, real).to_dict("index")}
    realism_figures.ranges(rows, real, out / "realism.png")
    if scan is not None:
        realism_figures.side_by_side(volume(check, 0), scan, out / "side_by_side.png")
    write_atomically(out / "results.json", json.dumps(results, indent=1))
    return results


@lru_cache(maxsize=2)
def _generator(check: Realism) -> LabelMap:
    return check.generator()


def volume(check: Realism, index: int) -> Sample:
    """Volume ``index`` of the check."""
    generator = _generator(check)
    return generator.render(generator.draw(rng_for(check.seed, index, "realism")))


def quality_rows(check: Realism, chunk: range) -> list[dict[str, Any]]:
    """A row of metrics per volume."""
    rows = []
    for index in chunk:
        sample = volume(check, index)
        assert sample.label is not None
        found = measure(sample.image[0], sample.label, sample.spacing, label_table())
        rows.append({"index": index, **{name: round(value, 5) for name, value in found.items()}})
    return rows


def inside(rows: pd.DataFrame, real: pd.DataFrame) -> pd.DataFrame:
    """metric → our 5th, 50th, 95th percentile, theirs, and the share of our volumes inside their range."""
    table = {}
    for metric in METRICS:
        low, high = real.loc[metric, "p05"], real.loc[metric, "p95"]
        share = float(((rows[metric] >= low) & (rows[metric] <= high)).mean())
        ours = {f"ours_{name}": round(float(rows[metric].quantile(q)), 4) for name, q in _QUANTILES.items()}
        of_real: Any = real.loc[metric]
        theirs = {f"real_{name}": float(of_real[name]) for name in _QUANTILES}
        table[metric] = {**ours, **theirs, "inside": round(share, 4)}
    return pd.DataFrame.from_dict(table, orient="index")


_QUANTILES: Mapping[str, float] = {"p05": 0.05, "p50": 0.5, "p95": 0.95}


def summary(results: Mapping[str, Any]) -> str:
    """What came out, in lines."""
    lines = [f"{'metric':<14}{'ours: 5 %':>12}{'50 %':>8}{'95 %':>8}{'real: 5 %':>12}{'50 %':>8}{'95 %':>8}   inside"]
    for name, row in results["metrics"].items():
        ours = f"{row['ours_p05']:>12.3f}{row['ours_p50']:>8.3f}{row['ours_p95']:>8.3f}"
        lines.append(
            f"{name:<14}{ours}{row['real_p05']:>12.3f}{row['real_p50']:>8.3f}{row['real_p95']:>8.3f}   {row['inside']:.1%}"
        )
    least = min(row["inside"] for row in results["metrics"].values())
    verdict = "reached" if least >= TO_REACH and not math.isnan(least) else "not reached"
    lines.append(f"least share inside {least:.1%}: {TO_REACH:.0%} on every metric is {verdict}")
    return "\n".join(lines)
