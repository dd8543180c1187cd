"""How far apart two sets of feature vectors are: Fréchet distance, MMD, precision and recall, density and coverage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.keys import rng_for

Doubles = npt.NDArray[np.float64]

RESAMPLES = 500
DRAWS = 40
AXES = 64  # of the space in which normal distributions are fitted
NEIGHBOURS_IMPROVED = 3  # Kynkäänniemi et al. 2019
NEIGHBOURS_DENSITY = 5  # Naeem et al. 2020


def frechet(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Fréchet distance of two normal distributions fitted to ``[N, F]`` and ``[M, F]`` (Heusel et al. 2017):
    |μa - μb|² + tr(Σa + Σb - 2 (Σa^½ Σb Σa^½)^½).

    Covariances are shrunk as Ledoit & Wolf (2004) prescribe, since there may be fewer volumes than features. Shrunk or
    not it falls with N and M: compare it only at the same numbers.
    """
    from sklearn.covariance import ledoit_wolf

    (of_a, _), (of_b, _) = ledoit_wolf(a), ledoit_wolf(b)
    root = _root(of_a)
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(root @ of_b @ root), 0, None)).sum()
    apart = float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum())
    return max(apart + float(np.trace(of_a) + np.trace(of_b) - 2 * shared), 0.0)


def principal(*sets: npt.NDArray[Any]) -> tuple[list[Doubles], float]:
    """Every set ``[N, F]`` along the leading ``AXES`` principal axes of all of them together (fewer where there are fewer
    volumes or features), and the share of the variance that they keep."""
    pooled = np.concatenate(sets).astype(np.float64)
    centre = pooled.mean(axis=0)
    _, sizes, axes = np.linalg.svd(pooled - centre, full_matrices=False)
    kept = axes[:AXES]
    share = float((sizes[:AXES] ** 2).sum() / max(float((sizes**2).sum()), 1e-12))
    return [(one.astype(np.float64) - centre) @ kept.T for one in sets], share


def frechet_of(a: Doubles, b: Doubles, count: int, seed: int) -> Interval:
    """Mean Fréchet distance, and 95 % of its values, over ``DRAWS`` draws of ``count`` vectors of each set without
    replacement: at the same count, two such figures can be compared."""
    rng = rng_for(seed, 0, "audit frechet")
    values = [frechet(a[rng.permutation(len(a))[:count]], b[rng.permutation(len(b))[:count]]) for _ in range(DRAWS)]
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(np.mean(values)), float(low), float(high))


def _root(symmetric: Doubles) -> Doubles:
    values, vectors = np.linalg.eigh(symmetric)
    root: Doubles = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """Rounded to five significant digits, so that the last bits of a sum do not show."""
        return {"value": digits(self.value), "low": digits(self.low), "high": digits(self.high)}


def digits(value: float, count: int = 5) -> float:
    """A number rounded to ``count`` significant digits; NaN stays NaN."""
    return float(f"{value:.{count}g}")


def polynomial(a: Doubles, b: Doubles) -> Doubles:
    """(a·b / F + 1)³, the kernel of KID (Bińkowski et al. 2018)."""
    kernel: Doubles = (a @ b.T / a.shape[1] + 1) ** 3
    return kernel


def gaussian(a: Doubles, b: Doubles, width: float) -> Doubles:
    """exp(-|a - b|² / (2 width²))."""
    from sklearn.metrics.pairwise import rbf_kernel

    kernel: Doubles = rbf_kernel(a, b, gamma=1 / (2 * width**2))
    return kernel


def median_width(pooled: Doubles) -> float:
    """The median distance between vectors (Gretton et al. 2012), of up to 1,000 of them."""
    from scipy.spatial.distance import pdist

    return float(np.median(pdist(pooled[:: max(1, len(pooled) // 1000)])))


def mmd(aa: Doubles, bb: Doubles, ab: Doubles, seed: int) -> Interval:
    """Unbiased squared MMD from the kernel matrices ``[N, N]``, ``[M, M]``, ``[N, M]`` (Gretton et al. 2012, eq. 3) with
    a bootstrap interval: both sets are drawn again with replacement, and a vector is never paired with itself."""
    rng = rng_for(seed, 0, "audit mmd")
    values = []
    for _ in range(RESAMPLES):
        u = np.bincount(rng.integers(len(aa), size=len(aa)), minlength=len(aa)).astype(np.float64)
        v = np.bincount(rng.integers(len(bb), size=len(bb)), minlength=len(bb)).astype(np.float64)
        values.append(_mmd(aa, bb, ab, u, v))
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(_mmd(aa, bb, ab, np.ones(len(aa)), np.ones(len(bb))), float(low), float(high))


def _mmd(aa: Doubles, bb: Doubles, ab: Doubles, u: Doubles, v: Doubles) -> float:
    within_a = (u @ aa @ u - (u * u) @ np.diag(aa)) / (u.sum() ** 2 - u @ u)
    within_b = (v @ bb @ v - (v * v) @ np.diag(bb)) / (v.sum() ** 2 - v @ v)
    return float(within_a + within_b - 2 * (u @ ab @ v) / (u.sum() * v.sum()))


def kid(a: npt.NDArray[Any], b: npt.NDArray[Any], seed: int) -> Interval:
    """KID: unbiased squared MMD with the kernel :func:`polynomial`."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return mmd(polynomial(a, a), polynomial(b, b), polynomial(a, b), seed)


def mmd_gaussian(a: npt.NDArray[Any], b: npt.NDArray[Any], width: float, seed: int) -> Interval:
    """Unbiased squared MMD with the kernel :func:`gaussian`."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return mmd(gaussian(a, a, width), gaussian(b, b, width), gaussian(a, b, width), seed)


def manifold(made: npt.NDArray[Any], real: npt.NDArray[Any]) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) of what was made.

    Precision: share of the made within a real vector's ball, whose radius is the distance to its third neighbour;
    recall: share of the real within a made one's. Density counts how many balls hold a made vector, coverage is the share
    of real balls that hold one.
    """
    from sklearn.metrics import pairwise_distances

    real_real, made_made = pairwise_distances(real), pairwise_distances(made)
    between = pairwise_distances(made, real)  # [made, real]
    ball_real, ball_made = _radius(real_real, NEIGHBOURS_IMPROVED), _radius(made_made, NEIGHBOURS_IMPROVED)
    ball_density = _radius(real_real, NEIGHBOURS_DENSITY)
    return {
        "precision": float((between <= ball_real[None, :]).any(axis=1).mean()),
        "recall": float((between <= ball_made[:, None]).any(axis=0).mean()),
        "density": float((between <= ball_density[None, :]).sum(axis=1).mean() / NEIGHBOURS_DENSITY),
        "coverage": float((between.min(axis=0) <= ball_density).mean()),
    }


def _radius(distances: Doubles, k: int) -> Doubles:
    """Distance to the k-th neighbour, oneself not counted."""
    radius: Doubles = np.sort(distances, axis=1)[:, min(k, len(distances) - 1)]
    return radius


def bootstrap_mean(values: npt.NDArray[Any], seed: int, purpose: str) -> Interval:
    """Mean of ``[N]`` with a bootstrap interval."""
    rng = rng_for(seed, 0, f"audit mean {purpose}")
    drawn = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))
