"""Metrics with intervals, paired tests, calibration, and what is fitted on training people for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.keys import rng_for

Floats = npt.NDArray[np.float64]
Metric = Callable[[Floats, Floats], float]
DRAWS = 1000
PAIRED_DRAWS, CHUNK = 20_000, 1000
"""Of paired tests, whose least p is 0.0001: small enough to be 0.01 after Holm over a hundred tests. CHUNK bounds memory."""
LEVEL = 95


def roc_auc(target: Floats, score: Floats) -> float:
    """Area under the ROC curve (Mann–Whitney, ties count half); NaN when one class is absent."""
    positive = target > 0.5
    ours, others = score[positive], np.sort(score[~positive])
    if not len(ours) or not len(others):
        return float("nan")
    below = np.searchsorted(others, ours, "left") + np.searchsorted(others, ours, "right")
    return float(below.mean() / (2 * len(others)))


def balanced_accuracy(target: Floats, score: Floats) -> float:
    """Mean of sensitivity and specificity at probability 0.5; NaN when one class is absent."""
    positive = target > 0.5
    if positive.all() or not positive.any():
        return float("nan")
    said = score > 0.5
    return float((said[positive].mean() + (~said[~positive]).mean()) / 2)


def mean_absolute_error(target: Floats, prediction: Floats) -> float:
    """Mean absolute error, in the target's unit (years)."""
    return float(np.abs(target - prediction).mean())


def with_interval(
    metric: Metric,
    target: Floats,
    predictions: Floats,
    people: npt.NDArray[np.int64] | None = None,
    draws: int = DRAWS,
) -> dict[str, float]:
    """Mean over seeds and its 95 % bootstrap interval over participants and seeds (both drawn with replacement).

    Args:
        metric: of (target ``[n]``, prediction ``[n]``).
        target: ``[n]``.
        predictions: ``[seeds, n]``.
        people: ``[n]`` whose each scan is, where some have several: people are drawn, with all their scans.
        draws: of the bootstrap.
    """
    values = drawn(metric, target, predictions, people, draws)
    low, high = np.nanpercentile(values, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return {"value": _mean(metric, target, predictions), "low": float(low), "high": float(high)}


def gain(
    metric: Metric,
    target: Floats,
    ours: Floats,
    other: Floats,
    people: npt.NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """How much better ours is than other (AUC gained, years of error saved), paired by participant (and by seed where both have as many), with its interval."""

    sign = -1.0 if metric is mean_absolute_error else 1.0
    weights, shares = _resampled(len(target), len(ours), people)
    theirs = shares if len(other) == len(ours) else np.full((1, len(other)), 1 / len(other))
    values = _over_seeds(metric, target, ours, weights, shares) - _over_seeds(metric, target, other, weights, theirs)
    values *= sign
    low, high = np.nanpercentile(values, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    value = sign * (_mean(metric, target, ours) - _mean(metric, target, other))
    return {"value": value, "low": float(low), "high": float(high)}


def _mean(metric: Metric, target: Floats, predictions: Floats) -> float:
    return float(np.mean([metric(target, one) for one in predictions]))


def _resampled(
    size: int, seeds: int, people: npt.NDArray[np.int64] | None = None, number: int = DRAWS
) -> tuple[Floats, Floats]:
    """Of every bootstrap draw: how often each of ``size`` rows is in it ``[number, size]``, and which share each seed has
    ``[number, seeds]``. People are drawn with all their rows; equal arguments give equal draws."""
    whose, count = _whose(size, people)
    times, shares = _drawn_people(count, size, seeds, number)
    return times[:, whose], shares


def _whose(size: int, people: npt.NDArray[np.int64] | None) -> tuple[npt.NDArray[np.intp], int]:
    """The person, from 0, of each of ``size`` rows, one a row unless given; how many there are."""
    _, whose = np.unique(np.arange(size) if people is None else people, return_inverse=True)
    return whose, int(whose.max()) + 1


@lru_cache(maxsize=8)
def _drawn_people(count: int, size: int, seeds: int, number: int) -> tuple[Floats, Floats]:
    rng = rng_for(0, size, "bootstrap")
    times, shares = np.zeros((number, count)), np.zeros((number, seeds))
    for draw in range(number):
        times[draw] = np.bincount(rng.integers(0, count, count), minlength=count)
        shares[draw] = np.bincount(rng.integers(0, seeds, seeds), minlength=seeds) / seeds
    times.flags.writeable = shares.flags.writeable = False
    return times, shares


def _over_seeds(metric: Metric, target: Floats, predictions: Floats, weights: Floats, shares: Floats) -> Floats:
    """``[draws]``: the metric of each of ``predictions [seeds, n]``, weighed by ``shares [draws or 1, seeds]``."""
    many = WEIGHTED.get(metric)
    if many is not None:
        each = [many(target, one, weights) for one in predictions]
    else:
        rows = [np.repeat(np.arange(len(target)), times) for times in weights.astype(np.int64)]
        each = [np.array([metric(target[who], one[who]) for who in rows]) for one in predictions]
    found: Floats = (shares * np.stack(each, axis=1)).sum(1)
    return found


def sensitivity(target: Floats, said: Floats) -> float:
    """Share of class 1 that is called so (``said`` > 0.5); NaN without anybody of class 1."""
    positive = target > 0.5
    return float((said[positive] > 0.5).mean()) if positive.any() else float("nan")


def specificity(target: Floats, said: Floats) -> float:
    """Share of class 0 that is called so; NaN without anybody of class 0."""
    return sensitivity(1 - target, 1 - said)


def f1(target: Floats, score: Floats) -> float:
    """F1 of class 1 at probability 0.5; 0 where nobody of class 1 is found."""
    said, positive = score > 0.5, target > 0.5
    return float(2 * (said & positive).sum() / max(said.sum() + positive.sum(), 1))


def brier(target: Floats, score: Floats) -> float:
    """Mean squared distance of probability and class (Brier 1950): 0 is best, 0.25 is a probability of one half."""
    return float(np.square(target - score).mean())


def pearson_r(target: Floats, prediction: Floats) -> float:
    """Correlation; 0 for a constant prediction, of which there is none."""
    if target.std() < 1e-12 or prediction.std() < 1e-12:
        return 0.0
    return float(np.corrcoef(target, prediction)[0, 1])


def r_squared(target: Floats, prediction: Floats) -> float:
    """Coefficient of determination: 0 for predicting the mean of those tested, negative for worse."""
    return float(1 - np.square(target - prediction).sum() / max(np.square(target - target.mean()).sum(), 1e-12))


def mean_gap(target: Floats, prediction: Floats) -> float:
    """Mean of predicted minus true."""
    return float((prediction - target).mean())


def threshold_at(target: Floats, score: Floats, wanted: float = 0.9) -> float:
    """The score above which at most 1 − ``wanted`` of class 0 lie: a specificity of ``wanted`` on these people."""
    return float(np.quantile(score[target < 0.5], wanted, method="higher"))


def age_correction(target: Floats, prediction: Floats) -> tuple[float, float]:
    """(α, β) of prediction = α · target + β, fitted on training people (de Lange & Cole 2020, NeuroImage: Clinical 26).

    Fewer than three people, or one age, give (1, 0): no correction.
    """
    if len(target) < 3 or target.std() < 1e-9:
        return 1.0, 0.0
    slope, intercept = np.polyfit(target, prediction, 1)
    return float(slope), float(intercept)


def corrected(target: Floats, prediction: Floats, line: tuple[float, float]) -> Floats:
    """Prediction + (target − (α · target + β)), whose gap does not depend on age (de Lange & Cole 2020)."""
    return prediction + target - (line[0] * target + line[1])


def calibration(target: Floats, scores: Floats, bins: int = 10) -> dict[str, Any]:
    """Reliability curve over equal bins of probability, and its expected calibration error (Naeini et al. 2015).

    Args:
        target: ``[n]``.
        scores: ``[seeds, n]``, taken together.
        bins: how many.
    """
    score, truth = scores.ravel(), np.tile(target, len(scores))
    where = np.minimum((np.clip(score, 0, 1) * bins).astype(np.int64), bins - 1)
    curve, error = [], 0.0
    for one in np.unique(where):
        inside = where == one
        said, found = float(score[inside].mean()), float(truth[inside].mean())
        error += float(inside.mean()) * abs(said - found)
        curve.append({"predicted": said, "observed": found, "count": int(inside.sum())})
    return {"expected_calibration_error": error, "curve": curve}


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for as many tests (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    found, worst = np.zeros(len(p_values)), 0.0
    for rank, position in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[position]))
        found[position] = worst
    return [float(p) for p in found]


def drawn(
    metric: Metric,
    target: Floats,
    predictions: Floats,
    people: npt.NDArray[np.int64] | None = None,
    draws: int = DRAWS,
) -> Floats:
    """The metric in every bootstrap draw; the same draws of people for every arm, so that differences are paired."""
    weights, shares = _resampled(len(target), len(predictions), people, draws)
    return _over_seeds(metric, target, predictions, weights, shares)


def paired_draws(
    metric: Metric,
    target: Floats,
    predictions: Mapping[str, Floats],
    people: npt.NDArray[np.int64] | None = None,
    draws: int = PAIRED_DRAWS,
) -> dict[str, Floats]:
    """Arm → ``[draws]`` of a metric, the same people and seeds drawn for every arm.

    People (with all their scans) and seeds are drawn with replacement; NaN in draws without one of the classes.

    Args:
        metric: of :data:`WEIGHTED`, which are computed for all draws at once.
        target: ``[n]``.
        predictions: arm → ``[seeds, n]``, as many seeds for each.
        people: ``[n]`` whose each scan is, where some have several.
        draws: how many.
    """
    many = WEIGHTED[metric]
    whose, count = _whose(len(target), people)
    rng = rng_for(0, len(target), "paired bootstrap")
    found: dict[str, list[Floats]] = {name: [] for name in predictions}
    for begin in range(0, draws, CHUNK):
        size = min(CHUNK, draws - begin)
        weights = rng.multinomial(count, np.full(count, 1 / count), size)[:, whose].astype(np.float64)
        for name, said in predictions.items():
            seeds = len(said)  # the same draw of seeds for arms with as many
            shares = rng_for(begin, seeds, "paired seeds").multinomial(seeds, np.full(seeds, 1 / seeds), size) / seeds
            found[name].append((shares * np.stack([many(target, one, weights) for one in said], axis=1)).sum(1))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _weighted_auc(target: Floats, score: Floats, weights: Floats) -> Floats:
    """:func:`roc_auc` of each row of ``weights [draws, n]``, how often everybody is in it."""
    order = np.argsort(score, kind="stable")
    begins = np.flatnonzero(np.diff(score[order], prepend=-np.inf) > 0)
    sorted_, positive = weights[:, order], target[order] > 0.5
    ours = np.add.reduceat(sorted_ * positive, begins, axis=1)
    others = np.add.reduceat(sorted_ * ~positive, begins, axis=1)
    below = np.cumsum(others, axis=1) - others / 2
    with np.errstate(invalid="ignore"):
        found: Floats = (ours * below).sum(1) / (ours.sum(1) * others.sum(1))
    return found


def _weighted_error(target: Floats, prediction: Floats, weights: Floats) -> Floats:
    """:func:`mean_absolute_error` of each row of ``weights [draws, n]``."""
    return _weighted_mean(weights, np.abs(target - prediction))


def _share(weights: Floats, inside: npt.NDArray[np.bool_], of: npt.NDArray[np.bool_]) -> Floats:
    """Of those ``of``, the share who are ``inside`` too, in each draw; NaN without any."""
    with np.errstate(invalid="ignore"):
        found: Floats = (weights @ (inside & of)) / (weights @ of)
    return found


def _weighted_balance(target: Floats, score: Floats, weights: Floats) -> Floats:
    positive, said = target > 0.5, score > 0.5
    return (_share(weights, said, positive) + _share(weights, ~said, ~positive)) / 2


def _weighted_sensitivity(target: Floats, said: Floats, weights: Floats) -> Floats:
    return _share(weights, said > 0.5, target > 0.5)


def _weighted_specificity(target: Floats, said: Floats, weights: Floats) -> Floats:
    return _weighted_sensitivity(1 - target, 1 - said, weights)


def _weighted_f1(target: Floats, score: Floats, weights: Floats) -> Floats:
    said, positive = score > 0.5, target > 0.5
    found: Floats = 2 * (weights @ (said & positive)) / np.maximum(weights @ said + weights @ positive, 1)
    return found


def _weighted_mean(weights: Floats, values: Floats) -> Floats:
    found: Floats = (weights @ values) / weights.sum(1)
    return found


def _weighted_brier(target: Floats, score: Floats, weights: Floats) -> Floats:
    return _weighted_mean(weights, np.square(target - score))


def _weighted_gap(target: Floats, prediction: Floats, weights: Floats) -> Floats:
    return _weighted_mean(weights, prediction - target)


def _weighted_r(target: Floats, prediction: Floats, weights: Floats) -> Floats:
    ours, theirs = target - target.mean(), prediction - prediction.mean()  # sums of squares stay small
    means = [_weighted_mean(weights, one) for one in (ours, theirs)]
    spreads = [
        np.sqrt(np.maximum(_weighted_mean(weights, one**2) - mean**2, 0))
        for one, mean in zip((ours, theirs), means, strict=True)
    ]
    both = _weighted_mean(weights, ours * theirs) - means[0] * means[1]
    product = spreads[0] * spreads[1]
    some = (spreads[0] >= 1e-12) & (spreads[1] >= 1e-12)
    return np.where(some, both / np.where(some, product, 1.0), 0.0)


def _weighted_r_squared(target: Floats, prediction: Floats, weights: Floats) -> Floats:
    ours = target - target.mean()
    around = weights @ ours**2 - weights.sum(1) * _weighted_mean(weights, ours) ** 2
    found: Floats = 1 - (weights @ np.square(target - prediction)) / np.maximum(around, 1e-12)
    return found


WEIGHTED: dict[Metric, Callable[[Floats, Floats, Floats], Floats]] = {
    roc_auc: _weighted_auc,
    balanced_accuracy: _weighted_balance,
    f1: _weighted_f1,
    brier: _weighted_brier,
    mean_absolute_error: _weighted_error,
    mean_gap: _weighted_gap,
    pearson_r: _weighted_r,
    r_squared: _weighted_r_squared,
    sensitivity: _weighted_sensitivity,
    specificity: _weighted_specificity,
}
"""Metric → the same of each row of ``weights [draws, n]``, how often everybody is in it: a thousand draws at once."""


def paired_p(ours: Floats, theirs: Floats) -> float:
    """Two-sided p of no difference from paired bootstrap draws: twice the smaller share on one side of 0."""
    difference = (ours - theirs)[np.isfinite(ours - theirs)]
    below, above = (difference <= 0).sum(), (difference >= 0).sum()
    return float(min(1.0, 2 * (min(below, above) + 1) / (len(difference) + 1)))


CLASSIFICATION: dict[str, Metric] = {
    "roc_auc": roc_auc,
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
    "brier": brier,
}
REGRESSION: dict[str, Metric] = {"mae_years": mean_absolute_error, "r": pearson_r, "r2": r_squared}
