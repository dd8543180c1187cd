"""Is it learning? What a linear model and nearest neighbours read from frozen features, RankMe, and signs of collapse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pretrain.objectives.supervised import VOLUME, numeric_targets

Floats = npt.NDArray[np.float64]
STRENGTHS = np.logspace(-2, 5, 15)  # ridge penalties, chosen by leave-one-out among the samples fitted to
NEIGHBOURS = 10
MOST_WORDS = 20  # a column with more different words names things, such as people, and is no class
FEWEST = 8  # samples to fit to, and to test on; of fewer nothing is said
STILL = 1e-3  # spread of normalised features below which all volumes look the same to the backbone
ONE_WAY = 1.05  # RankMe of features less their mean, below which they differ along one direction only


@dataclass(frozen=True)
class Reading:
    """How well one covariate is read from features of samples that nothing was fitted to.

    Attributes:
        covariate: its name; ``volumes`` is the mean over all regional volumes.
        metric: ``r`` (correlation, chance 0) or ``balanced_accuracy`` (chance 1 / classes).
        linear, knn: by a linear model, by the nearest neighbours.
        chance: of the metric.
        low, high: 95 % interval of ``linear``; of ``volumes`` the mean interval.
    """

    covariate: str
    metric: str
    linear: float
    knn: float
    chance: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Targets:
    """Covariates of N samples.

    Attributes:
        numbers: name → ``[N]``, NaN where missing.
        words: name → ``[N]`` codes, -1 where missing.
    """

    numbers: dict[str, Floats]
    words: dict[str, npt.NDArray[np.int64]]

    def of(self, who: npt.NDArray[np.int64]) -> Targets:
        """Those of some samples."""
        return Targets({n: v[who] for n, v in self.numbers.items()}, {n: v[who] for n, v in self.words.items()})

    def shuffled(self, rng: np.random.Generator) -> Targets:
        """Every covariate dealt out anew: whatever is read from features now is chance."""
        return Targets(
            {name: rng.permutation(values) for name, values in self.numbers.items()},
            {name: rng.permutation(codes) for name, codes in self.words.items()},
        )


def targets_of(table: Any) -> Targets:
    """All covariates of a corpus that vary: regional volumes (sides summed, logged), other numbers, words of few kinds."""
    names, columns = numeric_targets(table)
    numbers = {name: columns[:, n].astype(np.float64) for n, name in enumerate(names)}
    words = {}
    for name in table.columns:
        if name in numbers or name.startswith(VOLUME):
            continue
        if table[name].dtype.kind in "fi":
            values = table[name].to_numpy(np.float64)
            if np.isfinite(values).mean() >= 0.5 and np.nanstd(values) > 1e-9:
                numbers[name] = values
        elif 1 < table[name].nunique() <= MOST_WORDS:
            words[name] = table[name].factorize()[0].astype(np.int64)
    return Targets(numbers, words)


def rankme(features: npt.NDArray[Any]) -> float:
    """Effective rank of features ``[N, F]``, from 1 to min(N, F): exp of the entropy of the singular values' shares.

    Garrido et al. 2023, ICML, equation 1; like it, nothing is subtracted from the features.
    """
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    share = values / max(float(values.sum()), 1e-12) + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))


def spread(features: npt.NDArray[Any]) -> float:
    """SD of features ``[N, F]`` normalised to length 1, times √F: 1 when they point everywhere, 0 when all are alike.

    The sign of collapse of Chen & He 2021 (SimSiam), CVPR.
    """
    x = features.astype(np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return float((x / np.maximum(length, 1e-12)).std(0).mean() * math.sqrt(x.shape[1]))


def alarm(features: npt.NDArray[Any]) -> str:
    """What is wrong with features ``[N, F]``, in words; empty when nothing is."""
    if not np.isfinite(features).all():
        return "features are not finite; lower the learning rate"
    if spread(features) < STILL:
        return f"all volumes have nearly the same features (spread {spread(features):.2g})"
    if rankme(features - features.mean(0)) < ONE_WAY:
        return "features differ along one direction only"
    return ""


def read_out(fitted: npt.NDArray[Any], known: Targets, tested: npt.NDArray[Any], truth: Targets) -> list[Reading]:
    """What can be read from features: fitted to ``[n, F]`` with covariates ``known``, tested on ``[m, F]`` with ``truth``.

    Features are z-scored by the fitted ones. Covariates with too few samples are left out. Regional volumes are one
    reading together, the mean over them.
    """
    from threadpoolctl import threadpool_limits

    mean, sd = fitted.mean(0), fitted.std(0)
    keep = sd > 1e-9
    x, z = ((part[:, keep].astype(np.float64) - mean[keep]) / sd[keep] for part in (fitted, tested))
    with threadpool_limits(1, user_api="blas"):  # matrices this small only wait for threads
        found = [
            reading
            for name in known.numbers
            if (reading := _number(name, x, known.numbers[name], z, truth.numbers[name])) is not None
        ]
        volumes = [reading for reading in found if reading.covariate.startswith(VOLUME)]
        found = [reading for reading in found if not reading.covariate.startswith(VOLUME)]
        if volumes:
            found.append(_mean_of(volumes))
        words = (_word(name, x, known.words[name], z, truth.words[name]) for name in known.words)
        return [*found, *(reading for reading in words if reading is not None)]


def _number(name: str, x: Floats, known: Floats, z: Floats, truth: Floats) -> Reading | None:
    from sklearn.linear_model import RidgeCV
    from sklearn.neighbors import KNeighborsRegressor

    x, known, z, truth = *_present(x, known, np.isfinite(known)), *_present(z, truth, np.isfinite(truth))
    if len(known) < FEWEST or len(truth) < FEWEST or not x.shape[1]:
        return None
    linear = correlation(truth, RidgeCV(STRENGTHS).fit(x, known).predict(z))
    near = KNeighborsRegressor(min(NEIGHBOURS, len(known) // 2), metric="cosine").fit(x, known)
    return Reading(name, "r", linear, correlation(truth, near.predict(z)), 0.0, *fisher_interval(linear, len(truth)))


def _word(
    name: str, x: Floats, known: npt.NDArray[np.int64], z: Floats, truth: npt.NDArray[np.int64]
) -> Reading | None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier

    x, known, z, truth = *_present(x, known, known >= 0), *_present(z, truth, np.isin(truth, known[known >= 0]))
    classes, counts = np.unique(known, return_counts=True)
    if len(known) < FEWEST or len(truth) < FEWEST or not x.shape[1] or len(classes) < 2 or counts.min() < 3:
        return None
    logistic = LogisticRegression(class_weight="balanced", solver="newton-cholesky")
    model = GridSearchCV(logistic, {"C": np.logspace(-4, 1, 6)}, cv=3, scoring="neg_log_loss")
    turn = np.linalg.svd(x, full_matrices=False)[2].T  # no weight lies outside the samples' span: as few as there are
    said = model.fit(x @ turn, known).predict(z @ turn)
    linear = float(balanced_accuracy_score(truth, said))
    near = KNeighborsClassifier(min(NEIGHBOURS, len(known) // 2), metric="cosine").fit(x, known)
    knn, reach = float(balanced_accuracy_score(truth, near.predict(z))), _reach(truth, said)
    return Reading(
        name, "balanced_accuracy", linear, knn, 1 / len(classes), max(0.0, linear - reach), min(1.0, linear + reach)
    )


def _reach(truth: npt.NDArray[np.int64], said: npt.NDArray[np.int64]) -> float:
    """Half of balanced accuracy's 95 % interval: the recalls of the classes are independent shares."""
    rights = [(said == truth)[truth == code] for code in np.unique(truth)]
    variances = [right.mean() * (1 - right.mean()) / len(right) for right in rights]
    return 1.96 * math.sqrt(float(np.sum(variances))) / len(rights)


def _present(x: Floats, values: npt.NDArray[Any], there: npt.NDArray[np.bool_]) -> tuple[Floats, npt.NDArray[Any]]:
    return x[there], values[there]


def _mean_of(readings: list[Reading]) -> Reading:
    linear, knn, low, high = np.mean([[r.linear, r.knn, r.low, r.high] for r in readings], axis=0)
    return Reading("volumes", "r", float(linear), float(knn), 0.0, float(low), float(high))


def correlation(truth: Floats, predicted: Floats) -> float:
    """Pearson's r of ``[n]`` and ``[n]``; 0 where one of them does not vary."""
    if min(truth.std(), predicted.std()) < 1e-12:
        return 0.0
    return float(np.corrcoef(truth, predicted)[0, 1])


def fisher_interval(r: float, count: int) -> tuple[float, float]:
    """95 % interval of a correlation of ``count`` pairs, by Fisher's z."""
    at, reach = math.atanh(min(max(r, -0.999999), 0.999999)), 1.96 / math.sqrt(max(count - 3, 1))
    return math.tanh(at - reach), math.tanh(at + reach)
