"""What is put on a backbone: a linear model or neighbours on frozen features, adapters, or everything trained at once.

Every model is chosen on training people alone, and says what it made of training people it had not learnt from: the
thresholds and corrections of :mod:`finetune.metrics` are fitted on those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
STRENGTHS = np.logspace(-3, 5, 17)  # ridge penalties tried on the training people alone
PENALTIES = np.logspace(-4, 1, 8)  # C of the logistic regression, likewise
NEIGHBOURS = (1, 3, 5, 9, 15, 25, 45)  # likewise


@dataclass(frozen=True)
class FineTuning:
    """Full fine-tuning and LoRA: AdamW, half-cosine schedule with one warm-up epoch, the last epoch's weights are used.

    Attributes:
        rates: learning rates of which one is chosen on validation people; none: ``learning_rate``.
        layer_decay: of the learning rate from layer to layer, towards the input, where weights are given.
        rank: of LoRA's adapters.
    """

    epochs: int = 30
    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    rates: tuple[float, ...] = ()
    layer_decay: float = 1.0
    rank: int = 8


@dataclass(frozen=True, eq=False)
class Fitted:
    """What one model predicts.

    Attributes:
        test: ``[n_test]``, probability of class 1 or the target's unit.
        inner: of ``[n_inner]`` training people, ``inner_target`` what they are.
        source: out-of-fold, validation, or training (the model had learnt from them).
        chosen: hyper-parameters.
    """

    test: Floats
    inner: Floats
    inner_target: Floats
    source: str
    chosen: dict[str, Any] = field(default_factory=dict)


def linear_predict(
    features: npt.NDArray[np.floating], target: Floats, test: npt.NDArray[np.floating], classification: bool, seed: int
) -> Floats:
    """Predictions ``[n_test]`` of :func:`fit_linear`, everybody having one scan."""
    return fit_linear(features, target, test, classification, seed, np.arange(len(target))).test


def fit_linear(
    features: npt.NDArray[np.floating],
    target: Floats,
    test: npt.NDArray[np.floating],
    classification: bool,
    seed: int,
    people: Ints,
) -> Fitted:
    """Logistic (balanced classes) or ridge regression on z-scored features; the penalty by cross-validation inside.

    Ridge's is chosen leaving out one person, or by folds of people where some have several scans. Missing values become
    the training people's mean. Probabilities are those of classes as frequent as in training (:func:`unbalanced`).
    """
    from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
    from threadpoolctl import threadpool_limits

    keep = spread(features) > 1e-8
    if not keep.any():
        mean = target.mean()
        return Fitted(np.full(len(test), mean), np.full(len(target), mean), target, "training")
    features, test = features[:, keep], test[:, keep]
    holes = bool(np.isnan(features).any() or np.isnan(test).any())
    wide = features.shape[1] > len(features)
    if classification:
        model = _scaled(LogisticRegression(class_weight="balanced", solver="newton-cholesky"), holes, wide)
        return _searched(model, {"logisticregression__C": PENALTIES}, features, target, test, True, seed, people)
    single = len(np.unique(people)) == len(people)
    folds = None if single else _inner_folds(target, False, seed, people)
    search = RidgeCV(STRENGTHS, cv=folds, scoring=None if single else "neg_mean_squared_error")
    with threadpool_limits(1):
        ridge = _scaled(search, holes, wide).fit(features, target)
        strength = float(ridge[-1].alpha_)
        inner = _out_of_fold(_scaled(Ridge(strength), holes, wide), features, target, False, seed, people)
    low, high = target.min() - 15, target.max() + 15
    predicted = np.clip(ridge.predict(test), low, high)
    return Fitted(predicted, np.clip(inner, low, high), target, "out-of-fold", {"alpha": strength})


def _scaled(model: Any, holes: bool, wide: bool) -> Any:
    """A pipeline that z-scores by training people, and fills holes with their mean; see :func:`_steps`."""
    from sklearn.pipeline import make_pipeline

    return make_pipeline(*_steps(holes, wide), model)


def _steps(holes: bool, wide: bool) -> list[Any]:
    """What comes before a linear model.

    Of more features than people (``wide``) only the space that the people span is kept: the penalty leaves weights outside it
    at zero, so predictions are the same, and a Newton step costs people cubed, not features cubed.
    """
    from sklearn.decomposition import PCA
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    filled = [SimpleImputer(keep_empty_features=True)] if holes else []  # in an inner fold a column may be all holes
    return [*filled, StandardScaler(), *([PCA(svd_solver="full")] if wide else [])]


def spread(features: npt.NDArray[np.floating]) -> Floats:
    """Standard deviation of each column's known values; 0 where none is known."""
    known = np.isfinite(features)
    if known.all():
        return np.asarray(features.std(0), np.float64)
    return np.array(
        [column[here].std() if here.any() else 0.0 for column, here in zip(features.T, known.T, strict=True)]
    )


def unbalanced(probability: Floats, prevalence: float) -> Floats:
    """Probabilities of a model of balanced classes as they are where class 1 has this prevalence (Saerens et al. 2002).

    Log-odds + log(π / (1 − π)): one half becomes π, the order stays (Neural Computation 14, 21).
    """
    ours = probability * prevalence
    found: Floats = ours / np.maximum(ours + (1 - probability) * (1 - prevalence), 1e-300)
    return found


def refit_linear(
    features: npt.NDArray[np.floating],
    targets: Floats,
    test: npt.NDArray[np.floating],
    classification: bool,
    penalty: float,
) -> Floats:
    """Scores ``[n_test, T]`` of the linear model of each of ``targets [n, T]`` under one penalty, C or alpha.

    Scores of a classification are in order of its probabilities, not probabilities.
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from threadpoolctl import threadpool_limits

    keep = features.std(0) > 1e-8
    if not keep.any():
        return np.zeros((len(test), targets.shape[1]))
    prepared = make_pipeline(*_steps(False, int(keep.sum()) > len(features))).fit(features[:, keep])
    learnt, asked = prepared.transform(features[:, keep]), prepared.transform(test[:, keep])
    with threadpool_limits(1):
        if not classification:
            predicted: Floats = Ridge(penalty).fit(learnt, targets).predict(asked)
            return predicted
        model = LogisticRegression(C=penalty, class_weight="balanced", solver="newton-cholesky")
        return np.stack([model.fit(learnt, one).decision_function(asked) for one in targets.T], axis=1)


def fit_knn(
    features: npt.NDArray[np.floating],
    target: Floats,
    test: npt.NDArray[np.floating],
    classification: bool,
    seed: int,
    people: Ints,
) -> Fitted:
    """Nearest neighbours, weighted by inverse distance, on z-scored features; k by cross-validation inside."""
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    smallest = min(len(train) for train, _ in _inner_folds(target, classification, seed, people))
    ks = [k for k in NEIGHBOURS if k <= smallest] or [1]
    kind = KNeighborsClassifier if classification else KNeighborsRegressor
    model = make_pipeline(StandardScaler(), kind(weights="distance"))
    return _searched(
        model, {f"{kind.__name__.lower()}__n_neighbors": ks}, features, target, test, classification, seed, people
    )


def _searched(
    model: Any,
    grid: dict[str, Any],
    features: npt.NDArray[Any],
    target: Floats,
    test: npt.NDArray[Any],
    classification: bool,
    seed: int,
    people: Ints,
) -> Fitted:
    from sklearn.model_selection import GridSearchCV
    from threadpoolctl import threadpool_limits

    knn = any("neighbors" in name for name in grid)
    classes_by = "roc_auc" if knn else "neg_log_loss"  # a neighbour's vote may be 0 or 1, whose log loss is infinite
    scoring = classes_by if classification else "neg_mean_absolute_error"
    folds = _inner_folds(target, classification, seed, people)
    balanced = classification and not knn
    with threadpool_limits(1):  # matrices this small only wait for threads
        search = GridSearchCV(model, grid, cv=folds, scoring=scoring).fit(features, target)
        inner = _out_of_fold(search.best_estimator_, features, target, classification, seed, people, balanced)
    best = search.best_estimator_
    predicted: Floats = best.predict_proba(test)[:, 1] if classification else best.predict(test)
    predicted = unbalanced(predicted, float(target.mean())) if balanced else predicted
    chosen = {name.rpartition("__")[2]: float(value) for name, value in search.best_params_.items()}
    return Fitted(predicted, inner, target, "out-of-fold", chosen)


def _inner_folds(target: Floats, classification: bool, seed: int, people: Ints) -> list[tuple[Ints, Ints]]:
    """Folds of the training people, all scans of one on one side."""
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    single = len(np.unique(people)) == len(people)
    if not classification:
        if single:
            count = max(2, min(4, len(target) // 5))
            return list(KFold(count, shuffle=True, random_state=seed).split(target))
        return list(GroupKFold(max(2, min(4, len(np.unique(people)) // 5))).split(target, groups=people))
    if single:
        count = max(2, min(4, int(min(target.sum(), len(target) - target.sum()))))
        return list(StratifiedKFold(count, shuffle=True, random_state=seed).split(target, target))
    return list(StratifiedGroupKFold(2, shuffle=True, random_state=seed).split(target, target, people))


def _out_of_fold(
    model: Any,
    features: npt.NDArray[Any],
    target: Floats,
    classification: bool,
    seed: int,
    people: Ints,
    balanced: bool = False,
) -> Floats:
    from sklearn.base import clone

    found = np.zeros(len(target))
    for train, held in _inner_folds(target, classification, seed, people):
        fitted = clone(model).fit(features[train], target[train])
        found[held] = fitted.predict_proba(features[held])[:, 1] if classification else fitted.predict(features[held])
        if balanced:
            found[held] = unbalanced(found[held], float(target[train].mean()))
    return found
