"""Does a corpus copy what its generator learnt from? Nearest neighbours of every sample, a threshold from volumes that
cannot be copies, and how well samples give away who was in the training set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.audit.distances import RESAMPLES, Interval, digits
from synth.audit.matching import Neighbours
from synth.keys import rng_for

ALARMS = 5e-4  # aimed at for each of the two spaces, far below the 1 % that is promised: a clean corpus passes a gate
TAIL = 0.10  # the quantile from which the tail is drawn out
SHOWN = 10


def threshold_of(ratios: npt.NDArray[np.float64]) -> float:
    """The ratio below which a volume is judged a copy, from the ratios of volumes that are none.

    The lower tail of their logarithm is taken to fall as a Laplace distribution through their median and their tenth
    percentile does; ``ALARMS`` of it lies below the threshold. A normal tail, which is shorter, leaves far less. Median
    and percentile do not notice a few held-out volumes that are copies after all.
    """
    median, low = np.percentile(np.log(ratios), [50, 100 * TAIL])
    reach = np.log(0.5 / ALARMS) / np.log(0.5 / TAIL)
    return float(np.exp(median - reach * max(median - low, 0.01)))


@dataclass(frozen=True, eq=False)
class Space:
    """What was found in one space, pixels or features.

    Attributes:
        samples: nearest reference volume of every sample.
        clean: ratios of volumes that are no copies, and ``threshold`` from them.
        to_held_out, to_training: distances of every sample to its nearest held-out volume, and to its nearest in as many
            of the reference; None without held-out volumes.
        members, strangers: ratios of training and held-out volumes to their nearest sample; None without held-out ones.
    """

    name: str
    samples: Neighbours
    clean: npt.NDArray[np.float64]
    threshold: float
    to_held_out: npt.NDArray[np.float64] | None = None
    to_training: npt.NDArray[np.float64] | None = None
    members: npt.NDArray[np.float64] | None = None
    strangers: npt.NDArray[np.float64] | None = None

    @property
    def copied(self) -> npt.NDArray[np.bool_]:
        """``[N]`` whether each sample's ratio lies below the threshold."""
        below: npt.NDArray[np.bool_] = self.samples.ratio < self.threshold
        return below

    @property
    def depth(self) -> npt.NDArray[np.float64]:
        """``[N]`` how far every sample's log ratio lies below the clean volumes' median: 1 is the threshold."""
        middle = float(np.median(np.log(self.clean)))
        depth: npt.NDArray[np.float64] = (np.log(self.samples.ratio) - middle) / (np.log(self.threshold) - middle)
        return depth

    def as_json(self, seed: int) -> dict[str, Any]:
        """Rates, thresholds, distances and the membership test."""
        found: dict[str, Any] = {
            "rate": rate(self.copied),
            "threshold": digits(self.threshold),
            "clean_below_threshold": rate(self.clean < self.threshold),
            "ratio": _quantiles(self.samples.ratio),
            "clean_ratio": _quantiles(self.clean),
            "distance": _quantiles(self.samples.distance),
        }
        if self.to_held_out is not None and self.to_training is not None:
            assert self.members is not None and self.strangers is not None
            nearer = self.to_training < self.to_held_out
            found["distance_to_held_out"] = _quantiles(self.to_held_out)
            found["distance_to_as_many_training"] = _quantiles(self.to_training)
            found["nearer_to_training"] = rate(nearer)
            found["membership_auc"] = membership(self.members, self.strangers, seed, self.name).as_json()
        return found


def rate(flags: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Share of true ones with its exact 95 % interval (Clopper & Pearson 1934)."""
    from scipy.stats import binomtest

    interval = binomtest(int(flags.sum()), len(flags)).proportion_ci(0.95, "exact")
    values = {"value": float(flags.mean()), "low": interval.low, "high": interval.high}
    return {**{name: digits(float(value)) for name, value in values.items()}, "count": int(flags.sum())}


def _quantiles(values: npt.NDArray[np.float64]) -> dict[str, float]:
    """Least value, 5 %, 50 % and 95 %."""
    found = np.percentile(values, [0, 5, 50, 95])
    return {name: digits(float(q)) for name, q in zip(("least", "p05", "p50", "p95"), found, strict=True)}


def membership(
    members: npt.NDArray[np.float64], strangers: npt.NDArray[np.float64], seed: int, purpose: str
) -> Interval:
    """How well nearness to a sample tells training volumes from held-out ones: AUC, 0.5 is not at all, with a bootstrap
    interval over both."""
    nearer = (members[:, None] < strangers[None, :]) + 0.5 * (members[:, None] == strangers[None, :])  # Mann–Whitney
    rng = rng_for(seed, 0, f"audit membership {purpose}")
    drawn = []
    for _ in range(RESAMPLES):
        u, v = (np.bincount(rng.integers(n, size=n), minlength=n) / n for n in nearer.shape)
        drawn.append(float(u @ nearer @ v))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(nearer.mean()), float(low), float(high))


@dataclass(frozen=True, eq=False)
class Copies:
    """Both spaces, and the samples judged copies: those below the threshold of either.

    Attributes:
        pixels, features: what was found in them.
        held_out: number of held-out volumes.
        known: ``[K]`` whether each near-copy made of the reference itself would be judged a copy.
    """

    pixels: Space
    features: Space
    held_out: int
    known: npt.NDArray[np.bool_]

    @property
    def copied(self) -> npt.NDArray[np.bool_]:
        """``[N]``."""
        either: npt.NDArray[np.bool_] = self.pixels.copied | self.features.copied
        return either

    def closest(self, count: int = SHOWN) -> list[int]:
        """The samples closest to being copies, closest first."""
        depth = np.maximum(self.pixels.depth, self.features.depth)
        return [int(i) for i in np.argsort(-depth, kind="stable")[:count]]

    def pair(self, sample: int) -> dict[str, Any]:
        """One sample and its nearest reference volume, in the space where it lies deeper."""
        space = max((self.pixels, self.features), key=lambda one: float(one.depth[sample]))
        found = space.samples
        return {
            "sample": sample,
            "reference": int(found.index[sample]),
            "space": space.name,
            "mirrored": bool(found.mirrored[sample]),
            "shift_voxels": [int(s) for s in found.shift[sample]],
            "ratio": digits(float(found.ratio[sample])),
            "distance": digits(float(found.distance[sample])),
            "copy": bool(self.copied[sample]),
        }

    def as_json(self, seed: int) -> dict[str, Any]:
        """Everything that audit.json says about copies."""
        judged = rate(self.copied)
        return {
            "rate": judged.pop("value"),
            **judged,
            "samples": len(self.copied),
            "threshold_from": "held-out volumes" if self.held_out else "reference volumes, each left out",
            "held_out": self.held_out,
            "known": {"count": len(self.known), "found": int(self.known.sum())},
            "pixels": self.pixels.as_json(seed),
            "features": self.features.as_json(seed),
            "copied": [self.pair(int(i)) for i in np.flatnonzero(self.copied)],
            "closest": [self.pair(i) for i in self.closest()],
        }
