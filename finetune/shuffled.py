"""Shuffled labels: whether a pipeline finds what is not there, over many permutations of the frozen features' labels.

One permutation tells next to nothing: with informative features a model of random labels looks in one random direction,
and its AUC on true labels may be anything. So each permutation gives every person, trained on or tested, the label of
another, and is tested on those labels. Given those of the training people, any order of the tested ones' is as likely as
any other, so that the expected AUC is exactly 0.5 (and r exactly 0) in every split: whatever the features say, and however
classes are balanced. A person who is tested and was trained on keeps one label, which then is found again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.heads import refit_linear
from finetune.metrics import pearson_r, roc_auc
from finetune.splits import Persons
from synth.keys import rng_for

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
PERMUTATIONS = 25
"""In all, over the seeds: the interval of their mean is about 0.05 of AUC to either side with 40 people tested."""
SURE = 0.99
"""Of the interval: one run in a hundred is called leaking that is not."""


def shuffled_labels(own: Floats, train: Ints, test: Ints, seed: int, number: int) -> Floats:
    """Labels of persons: those of ``train`` permuted among themselves, and those of the rest of ``test``.

    Args:
        own: ``[persons]`` true labels.
        train, test: positions of persons; who is in both keeps the label of training.
        seed, number: of the permutation.
    """
    rng, found, rest = rng_for(seed, number, "shuffled labels"), own.copy(), np.setdiff1d(test, train)
    found[train] = rng.permutation(own[train])
    found[rest] = rng.permutation(own[rest])
    return found


def permuted_figures(
    features: npt.NDArray[np.floating],
    target: Floats,
    persons: Persons,
    train: Ints,
    tests: Sequence[Ints],
    classification: bool,
    penalty: float,
    seed: int,
    count: int,
) -> Floats:
    """AUC, or r, ``[tests, count]`` over persons of the linear model on each permutation; NaN where a class is absent.

    Args:
        features: ``[rows, F]``; target: ``[rows]``.
        persons: whose each row is.
        train: rows; tests: rows of each test set.
        classification: AUC rather than r.
        penalty: C or alpha, chosen on the first permutation.
        seed, count: of the permutations.
    """
    own, learnt = persons.target(target, classification), np.unique(persons.of_rows[train])

    def labels(asked: Ints) -> Floats:
        drawn = [shuffled_labels(own, learnt, asked, seed, number) for number in range(count)]
        return np.stack(drawn, axis=1)

    first = labels(learnt)[persons.of_rows[train]]
    metric = roc_auc if classification else pearson_r
    found = []
    for test in tests:
        said = refit_linear(features[train], first, features[test], classification, penalty)
        who, rows = np.unique(persons.of_rows[test], return_inverse=True)
        means = np.stack([said[rows == place].mean(0) for place in range(len(who))])
        found.append([metric(*pair) for pair in zip(labels(who)[who].T, means.T, strict=True)])
    return np.array(found)


def penalty_of(chosen: Mapping[str, Any]) -> float:
    """C, or alpha, that the search on the first permutation chose; 1 where nothing was to be searched."""
    return float(chosen.get("C", chosen.get("alpha", 1.0)))


def means_over_splits(rows: Sequence[Floats]) -> list[float]:
    """Of ``[permutations]`` figures of each split; splits in which a class is absent are left out."""
    table = np.stack(rows)
    known = np.isfinite(table)
    return [float(np.mean(table[inside, at])) for at, inside in enumerate(known.T) if inside.any()]


def interval_of_mean(values: Floats) -> dict[str, float]:
    """Mean over permutations and its interval by Student's t; NaNs are left out."""
    from scipy.stats import t

    values = values[np.isfinite(values)]
    if len(values) < 2:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    mean, half = float(values.mean()), float(t.ppf((1 + SURE) / 2, len(values) - 1) * values.std(ddof=1))
    half /= float(np.sqrt(len(values)))
    return {"value": mean, "low": mean - half, "high": mean + half}
