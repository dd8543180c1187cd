"""kind: ranking — whether the matrix ranks generators of known quality rightly, and how often.

Each repeat is a whole matrix with people, volumes, folds and initialisation of its own, and three sources: those of the
matrix's first source, the same blurred, and noise under their covariates. Their right order is known, so that the share of
repeats which find it says how far a ranking of one run can be believed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.matrix import RESULTS, Matrix
from benchmarks.matrix_figures import ranking, reliability
from benchmarks.recipe import profile_path, read_recipe
from synth.errors import UserError
from synth.generator import GeneratorSpec

RIGHT = ("good", "blurred", "noise")
RANKING, PICTURE = "ranking.json", "ranking.png"


@dataclass(frozen=True)
class Ranking:
    """Which matrix, how often.

    Attributes:
        profile: name or YAML file of the kind matrix whose budget, tasks, backbones and people are taken.
        repeats: matrices.
        blur_mm: SD of the blur in mm.
        seed: of the first repeat; the next ones count up.
        workers: Ray workers of each matrix; 0 for none.
    """

    profile: str = "tiny"
    repeats: int = 10
    blur_mm: float = 10.0
    seed: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UserError(f"ranking: repeats is {self.repeats}; expected 1 or more")
        if not 0 < self.blur_mm <= 100:
            raise UserError(f"ranking: blur_mm is {self.blur_mm}; expected above 0, at most 100 mm")

    def run(self, out: Path) -> int:
        """Run every repeat in ``out/seed-N``, write ranking.json and ranking.png; a stopped run goes on. Returns 0."""
        from synth.storage import write_atomically

        matrix = self._matrix()
        out.mkdir(parents=True, exist_ok=True)
        repeats = []
        for seed in range(self.seed, self.seed + self.repeats):
            repeats.append(self._repeat(matrix, seed, out / f"seed-{seed}"))
            print(f"repeat {len(repeats)} of {self.repeats}: {told(repeats[-1])}", flush=True)
        results = {"benchmark": "ranking", "options": self.__dict__, "right_order": RIGHT, **summary(repeats)}
        write_atomically(out / RANKING, json.dumps({**results, "repeats": repeats}, indent=1))
        draw(repeats, out / PICTURE)
        print(sentence(results))
        return 0

    def _matrix(self) -> Matrix:
        found = read_recipe(profile_path(self.profile))
        if not isinstance(found, Matrix):
            raise UserError(f"ranking: profile '{self.profile}' is not of kind matrix; expected tiny or such a file")
        return found

    def _repeat(self, matrix: Matrix, seed: int, out: Path) -> dict[str, Any]:
        """Seed, order, the ranking, and the seconds of a repeat that was never stopped."""
        from synth.storage import write_atomically

        kept, results = out / RANKING, out / RESULTS
        asked = {**matrix.options(), "blur_mm": self.blur_mm, "seed": seed, "workers": None}
        record = {"seed": seed, "seconds": None, "asked": json.loads(json.dumps(asked, default=str))}
        whole, started = not kept.exists(), time.perf_counter()
        if whole:
            out.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, json.dumps(record, indent=1))
        elif json.loads(kept.read_text())["asked"] != record["asked"]:
            raise UserError(f"'{out}' holds a repeat with other options; choose another --out")
        if not results.exists():
            good = out / f"{RIGHT[0]}.zarr"
            sources = (
                next(iter(matrix.sources.values())),
                GeneratorSpec("benchmarks.degraded.Blurred", {"corpus": good, "sd_mm": self.blur_mm}),
                GeneratorSpec("benchmarks.degraded.Noise", {"corpus": good}),
            )
            named = dict(zip(RIGHT, sources, strict=True))
            replace(matrix, sources=named, seed=seed, workers=self.workers, beside=False).run(out)
            if whole:
                record["seconds"] = round(time.perf_counter() - started, 1)
                write_atomically(kept, json.dumps(record, indent=1))
        rows = json.loads(results.read_text())["rows"]
        ranked = ranking(rows)
        order = [one["source"] for one in ranked]
        told = {"order": order, "right": order == list(RIGHT), "ranking": ranked, "reliability": reliability(rows)}
        return {"seed": seed, "seconds": json.loads(kept.read_text())["seconds"], **told}


def summary(repeats: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many repeats have the right order, the exact 95 % interval of their share, the same by other rules, seconds."""
    from scipy.stats import binomtest

    right = sum(one["right"] for one in repeats)
    interval = binomtest(right, len(repeats)).proportion_ci(method="exact")
    seconds = sorted(one["seconds"] for one in repeats if one["seconds"] is not None)
    return {
        "right": right,
        "of": len(repeats),
        "share": {"value": right / len(repeats), "low": float(interval.low), "high": float(interval.high)},
        "right_by_plain_lead": sum(_is_right(one, lambda row: -row["plain_lead"]) for one in repeats),
        "right_by_mean_place": sum(_is_right(one, lambda row: row["mean_place"]) for one in repeats),
        "median_seconds": seconds[len(seconds) // 2] if seconds else None,
    }


def _is_right(repeat: dict[str, Any], key: Callable[[dict[str, Any]], float]) -> bool:
    return [row["source"] for row in sorted(repeat["ranking"], key=key)] == list(RIGHT)


def told(repeat: dict[str, Any]) -> str:
    """One repeat in words."""
    rows = ", ".join(f"{row['source']} {row['lead']:+.2f}" for row in repeat["ranking"])
    return f"{'right' if repeat['right'] else 'wrong'} ({rows} standard errors)"


def sentence(results: dict[str, Any]) -> str:
    """What came out."""
    share, cost = results["share"], results["median_seconds"]
    time_ = "" if cost is None else f"; one repeat takes {cost / 60:.1f} minutes"
    return (
        f"Ranked rightly (good, blurred, noise): {results['right']} of {results['of']} repeats, 95 % interval "
        f"{share['low']:.2f} to {share['high']:.2f}; were every task to count in full {results['right_by_plain_lead']}, by mean place "
        f"{results['right_by_mean_place']}{time_}."
    )


def draw(repeats: Sequence[dict[str, Any]], path: Path) -> None:
    """The lead of each source, a line a repeat."""
    from matplotlib.figure import Figure

    from synth.picture import save_png

    sheet = Figure(figsize=(4.2, 3.6), layout="constrained")
    axis = sheet.subplots()
    for repeat in repeats:
        leads = {row["source"]: row["lead"] for row in repeat["ranking"]}
        axis.plot(
            RIGHT, [leads[name] for name in RIGHT], color="C0" if repeat["right"] else "C3", alpha=0.6, marker="o"
        )
    axis.axhline(0, color="0.8", linewidth=1, zorder=0)
    axis.set(ylabel="lead, standard errors", title="a line a repeat;\nred where the order is wrong")
    save_png(sheet, path)
