"""How well features tell the site: what a scanner leaves in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def site_probe(
    features: npt.NDArray[Any], sites: npt.NDArray[Any], people: npt.NDArray[np.int64], seed: int
) -> dict[str, float] | None:
    """Balanced accuracy of a logistic model by cross-validation over people, and chance; None with one site.

    Args:
        features: ``[n, F]``.
        sites: ``[n]``; people: whose each row is.
        seed: of the folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    names, counts = np.unique(sites, return_counts=True)
    if len(names) < 2 or counts.min() < 3:
        return None
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=300))
    folds = StratifiedGroupKFold(3, shuffle=True, random_state=seed)
    with threadpool_limits(1):
        said = cross_val_predict(model, features, sites, groups=people, cv=folds)
    return {"balanced_accuracy": float(balanced_accuracy_score(sites, said)), "chance": 1 / len(names)}
