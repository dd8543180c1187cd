"""How well features tell the site: what a scanner leaves in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.metrics import with_interval

Floats = npt.NDArray[np.float64]


UNTOLD = ("", "nan", "none", "n/a")
FEWEST = 3  # people of a site, one for each fold


def site_probe(
    features: npt.NDArray[Any], sites: npt.NDArray[Any], people: npt.NDArray[np.int64], seed: int
) -> dict[str, float] | None:
    """How well a logistic model tells the site, cross-validated over people; None with fewer than two sites that count.

    ``balanced_accuracy`` with its 95 % bootstrap interval over people (``low``, ``high``; predictions as given), ``chance``,
    how many ``sites`` took part, and how many were ``left_out``: those with fewer than three people.

    Args:
        features: ``[n, F]``.
        sites: ``[n]``; people: whose each row is.
        seed: of the folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    names = np.array([name for name in np.unique(sites) if str(name).lower() not in UNTOLD])
    kept = [name for name in names if len(np.unique(people[sites == name])) >= FEWEST]
    if len(kept) < 2:
        return None
    inside = np.isin(sites, kept)
    codes = np.searchsorted(np.array(kept), sites[inside]).astype(np.float64)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=300))
    folds = StratifiedGroupKFold(FEWEST, shuffle=True, random_state=seed)
    with threadpool_limits(1):
        said = cross_val_predict(model, features[inside], codes, groups=people[inside], cv=folds)
    figure = with_interval(mean_recall, codes, said[None].astype(np.float64), people[inside])
    told = {"balanced_accuracy": figure["value"], "low": figure["low"], "high": figure["high"]}
    return {**told, "chance": 1 / len(kept), "sites": len(kept), "left_out": len(names) - len(kept)}


def mean_recall(target: Floats, said: Floats) -> float:
    """Balanced accuracy of any number of classes: the mean over those there are of the share that is called so."""
    return float(np.mean([(said[target == one] == one).mean() for one in np.unique(target)]))
