"""Fidelity in feature space: how far samples, and a yardstick of real volumes, lie from the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from synth.audit import features
from synth.audit.distances import (
    Doubles,
    digits,
    frechet_of,
    kid,
    manifold,
    median_width,
    mmd_gaussian,
    principal,
)
from synth.audit.grid import some

MOST = 1000  # volumes of each corpus; copies are looked for in all


def fidelity(vectors: dict[str, npt.NDArray[np.float32]], seed: int) -> tuple[dict[str, Doubles], dict[str, Any]]:
    """Leading axes for the picture, and distances of samples, and of a yardstick, to the reference.

    The yardstick is the held-out volumes or, without them, one half of the reference against the other half, to which
    the samples are then compared too.
    """
    chosen = {role: one[some(len(one), MOST)] for role, one in vectors.items()}
    base = chosen["reference"]
    if "held-out" in chosen:
        yardstick, name = chosen["held-out"], "held-out volumes"
    else:
        yardstick, base, name = base[1::2], base[::2], "half of the reference against the other half"
    axes, kept = principal(chosen["synthetic"], base, yardstick)
    count = max(2, min(map(len, axes)) // 2)
    width = median_width(base.astype(np.float64))
    found: dict[str, Any] = {
        "network": features.NAME,
        "yardstick": name,
        "frechet_axes": axes[0].shape[1],
        "frechet_variance_kept": digits(kept),
        "frechet_volumes": count,
        "frechet_covariance": "Ledoit-Wolf shrinkage",
    }
    for role, raw, along in (("synthetic", chosen["synthetic"], axes[0]), ("yardstick_values", yardstick, axes[2])):
        found[role] = {
            "frechet": frechet_of(along, axes[1], count, seed).as_json(),
            "kid": kid(raw, base, seed).as_json(),
            "mmd_gaussian": mmd_gaussian(raw, base, width, seed).as_json(),
            **{key: digits(value) for key, value in manifold(raw, base).items()},
        }
    drawn = {"reference": axes[1][:, :2], "synthetic": axes[0][:, :2]}
    return drawn, found
