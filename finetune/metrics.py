"""Metrics with intervals: ROC-AUC and balanced accuracy, mean absolute error in years."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from synth.keys import rng_for

Floats = npt.NDArray[np.float64]
DRAWS = 1000
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


CLASSIFICATION: dict[str, Callable[[Floats, Floats], float]] = {
    "roc_auc": roc_auc,
    "balanced_accuracy": balanced_accuracy,
}
REGRESSION: dict[str, Callable[[Floats, Floats], float]] = {"mae_years": mean_absolute_error}


def with_interval(
    metric: Callable[[Floats, Floats], float],
    target: Floats,
    predictions: Floats,
    people: npt.NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """Mean over seeds and its 95 % bootstrap interval over participants and seeds (both drawn with replacement).

    Args:
        metric: of (target ``[n]``, prediction ``[n]``).
        target: ``[n]``.
        predictions: ``[seeds, n]``.
        people: ``[n]`` whose each scan is, where some have several: people are drawn, with all their scans.
    """
    values = _bootstrap(
        lambda who, seeds: _mean(metric, target[who], predictions[seeds][:, who]), target, len(predictions), people
    )
    low, high = np.nanpercentile(values, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return {"value": _mean(metric, target, predictions), "low": float(low), "high": float(high)}


def gain(
    metric: Callable[[Floats, Floats], float],
    target: Floats,
    ours: Floats,
    other: Floats,
    people: npt.NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """How much better ours is than other (AUC gained, years of error saved), paired by participant (and by seed where both have as many), with its interval."""

    sign = -1.0 if metric is mean_absolute_error else 1.0

    def difference(who: npt.NDArray[np.int64], seeds: npt.NDArray[np.int64]) -> float:
        theirs = seeds if len(other) == len(ours) else np.arange(len(other))
        return sign * (
            _mean(metric, target[who], ours[seeds][:, who]) - _mean(metric, target[who], other[theirs][:, who])
        )

    values = _bootstrap(difference, target, len(ours), people)
    low, high = np.nanpercentile(values, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    value = sign * (_mean(metric, target, ours) - _mean(metric, target, other))
    return {"value": value, "low": float(low), "high": float(high)}


def _mean(metric: Callable[[Floats, Floats], float], target: Floats, predictions: Floats) -> float:
    return float(np.mean([metric(target, one) for one in predictions]))


def _bootstrap(
    statistic: Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], float],
    target: Floats,
    seeds: int,
    people: npt.NDArray[np.int64] | None = None,
) -> Floats:
    rng = rng_for(0, len(target), "bootstrap")
    everybody = np.arange(len(target)) if people is None else people
    _, whose = np.unique(everybody, return_inverse=True)
    count = int(whose.max()) + 1
    draws = [(rng.integers(0, count, count), rng.integers(0, seeds, seeds)) for _ in range(DRAWS)]
    if count < len(target):
        rows = [np.flatnonzero(whose == person) for person in range(count)]
        draws = [(np.concatenate([rows[person] for person in drawn]), which) for drawn, which in draws]
    return np.array([statistic(who, which) for who, which in draws])
