"""Does the generator listen: what was asked of every sample against what was measured on it, and the same in the
reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.anatomy.labels import label_table
from synth.audit.distances import RESAMPLES, Doubles, Interval, digits
from synth.audit.grid import Volumes
from synth.audit.groups import DIRECT, covariates_of, requested
from synth.audit.measuring import Measured
from synth.keys import rng_for
from synth.regions import BRAIN, VENTRICULAR

FEWEST = 10  # samples with a covariate, below which nothing is said
RESPONSES = ("ventricles", "brain")  # what age, sex and diagnosis are looked for in
MOST_WORDS = 8


@dataclass(frozen=True, eq=False)
class Asked:
    """One region: mm³ asked and measured, ``[N]`` each."""

    region: str
    asked: Doubles
    measured: Doubles

    def as_json(self, seed: int) -> dict[str, Any]:
        """r with its interval, slope of measured on asked, root mean square and mean difference in mm³."""
        off = self.measured - self.asked
        return {
            "volumes": len(self.asked),
            "r": interval(_r, self.asked, self.measured, seed, self.region).as_json(),
            "slope": interval(_slope, self.asked, self.measured, seed, self.region).as_json(),
            "rmse_mm3": digits(float(np.sqrt((off**2).mean()))),
            "bias_mm3": digits(float(off.mean())),
        }


def always_there(reference: Volumes) -> frozenset[str]:
    """Covariates that (nearly) every reference volume has: a coarse grid loses some small structures in some."""
    share = reference.table.notna().mean()
    return frozenset(str(name) for name in share.index[share >= 0.99])


def asked_of(volumes: Volumes, measured: Measured, expected: frozenset[str]) -> dict[str, Asked]:
    """Region → what was asked and measured, where enough samples were asked for different volumes.

    A sample that names a region's volume only in part, without all of its ``expected`` covariates, asked for none of it.
    """
    names, found = covariates_of(label_table()), {}
    for region in measured.trusted:
        needed = expected.intersection(names[region])
        rows = [volumes.covariates[i] for i in measured.indices]
        asked = [
            requested(row, region, names[region]) if DIRECT.get(region) in row or needed <= row.keys() else None
            for row in rows
        ]
        there = np.array([value is not None for value in asked])
        values = np.array([value for value in asked if value is not None], np.float64)
        if len(values) >= FEWEST and values.std() > 0:
            found[region] = Asked(region, values, measured.mm3[region][there])
    return found


def numbers(volumes: Volumes, measured: Measured, name: str) -> tuple[Doubles, npt.NDArray[np.bool_]]:
    """``[N]`` values of a covariate that is a number, NaN where it is missing or a word, and which are there."""
    values = [volumes.covariates[i].get(name) for i in measured.indices]
    column = np.array([np.nan if value is None or isinstance(value, str) else value for value in values], np.float64)
    return column, ~np.isnan(column)


def per_year(volumes: Volumes, measured: Measured, region: str, seed: int) -> Interval | None:
    """mm³ a year by which a measured region changes with the age asked for; None without ages."""
    ages, there = numbers(volumes, measured, "age")
    if there.sum() < FEWEST or ages[there].std() == 0:
        return None
    return interval(_slope, ages[there], measured.mm3[region][there], seed, f"age {region}")


def words(volumes: Volumes, measured: Measured) -> dict[str, list[str]]:
    """Covariate → its words, for covariates of two to ``MOST_WORDS`` words with enough samples each."""
    table = volumes.table.iloc[measured.indices]
    found = {}
    for name in map(str, table.columns):
        counts = table[name].dropna().map(lambda value: value if isinstance(value, str) else None).value_counts()
        kept = sorted(str(word) for word, count in counts.items() if count >= FEWEST)
        if len(kept) >= 2 and len(counts) <= MOST_WORDS:
            found[name] = kept
    return found


def word_effect(
    volumes: Volumes, measured: Measured, name: str, pair: tuple[str, str], region: str, seed: int
) -> Interval | None:
    """Cohen's d of a measured region between two words of a covariate, the first minus the second."""
    said = np.array([str(volumes.covariates[i].get(name)) for i in measured.indices])
    a, b = (measured.mm3[region][said == word] for word in pair)
    if min(len(a), len(b)) < FEWEST:
        return None
    rng = rng_for(seed, 0, f"audit words {name} {pair} {region}")
    drawn = [
        cohen_d(a[rng.integers(len(a), size=len(a))], b[rng.integers(len(b), size=len(b))]) for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(cohen_d(a, b), float(low), float(high))


def cohen_d(a: Doubles, b: Doubles) -> float:
    """Difference of means in pooled standard deviations (Cohen 1988)."""
    pooled = ((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2)
    return float((a.mean() - b.mean()) / max(float(np.sqrt(pooled)), 1e-9))


def interval(
    statistic: Callable[[Doubles, Doubles], float], x: Doubles, y: Doubles, seed: int, purpose: str
) -> Interval:
    """A statistic of pairs with its bootstrap interval."""
    rng = rng_for(seed, 0, f"audit listening {purpose}")
    chosen = [rng.integers(len(x), size=len(x)) for _ in range(RESAMPLES)]
    low, high = np.percentile([statistic(x[c], y[c]) for c in chosen], [2.5, 97.5])
    return Interval(statistic(x, y), float(low), float(high))


def _r(x: Doubles, y: Doubles) -> float:
    spread = float(x.std() * y.std())
    return float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread > 0 else 0.0


def _slope(x: Doubles, y: Doubles) -> float:
    spread = float(x.var())
    return float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread > 0 else 0.0


def listening(synthetic: Volumes, made: Measured, reference: Volumes, real: Measured, seed: int) -> dict[str, Any]:
    """Volumes asked and measured in both corpora, change with age, differences between words, and what nobody measured."""
    expected = always_there(reference)
    volumes = {
        "synthetic": {name: one.as_json(seed) for name, one in asked_of(synthetic, made, expected).items()},
        "reference": {name: one.as_json(seed) for name, one in asked_of(reference, real, expected).items()},
    }
    responses = [region for region in RESPONSES if region in made.trusted]
    return {
        "volumes": volumes,
        "mm3_per_year": {
            region: {
                "synthetic": _json(per_year(synthetic, made, region, seed)),
                "reference": _json(per_year(reference, real, region, seed)),
            }
            for region in responses
        },
        "words": _words(synthetic, made, reference, real, responses, seed),
        "not_measured": not_measured(synthetic),
    }


def _json(found: Interval | None) -> dict[str, float] | None:
    return None if found is None else found.as_json()


def _words(
    synthetic: Volumes, made: Measured, reference: Volumes, real: Measured, responses: list[str], seed: int
) -> dict[str, Any]:
    """Covariate → word → region → Cohen's d against the covariate's first word, in both corpora."""
    found: dict[str, Any] = {}
    for name, kept in words(synthetic, made).items():
        base = "CN" if "CN" in kept else kept[0]
        rows = {}
        for word in (word for word in kept if word != base):
            rows[word] = {
                region: {
                    "synthetic": _json(word_effect(synthetic, made, name, (word, base), region, seed)),
                    "reference": _json(word_effect(reference, real, name, (word, base), region, seed)),
                }
                for region in responses
            }
        found[name] = {"against": base, "words": rows}
    return found


def not_measured(synthetic: Volumes) -> list[str]:
    """Covariates of the samples that nothing here measures."""
    known = {name for names in covariates_of(label_table()).values() for name in names}
    known |= {*VENTRICULAR, *BRAIN, *DIRECT.values(), "age"}
    return sorted(
        str(name)
        for name in synthetic.table.columns
        if name not in known and not any(isinstance(row.get(str(name)), str) for row in synthetic.covariates)
    )
