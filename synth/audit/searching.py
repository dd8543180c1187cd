"""The searches behind :mod:`synth.audit.copies`: every sample, training and held-out volume for its nearest neighbour, in
pixel space and in feature space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.audit import features
from synth.audit.copies import Copies, Space, threshold_of
from synth.audit.fingerprint import Scale
from synth.audit.grid import Volumes, some
from synth.audit.matching import Details, Neighbours, Show, Targets, nearest
from synth.audit.power import KnownCopies

Bar = Callable[[str], AbstractContextManager[Show]]
"""A title → a progress bar: a context whose value is told (done, all)."""

Vectors = npt.NDArray[Any]

FEW = 50  # held-out volumes below which the reference's own are asked too
LEFT_OUT = 400  # reference volumes, at most, that are compared with the others
FOLDS = 5
ASKED = 1000  # training volumes, at most, of the membership test


def find_copies(
    synthetic: Volumes,
    reference: Volumes,
    held_out: Volumes | None,
    described: Sequence[Vectors],
    bar: Bar,
    seed: int = 0,
) -> Copies:
    """Look for copies in both spaces.

    Args:
        synthetic, reference, held_out: the corpora.
        described: standardised features ``[N, 2, F]`` of the reference, the samples and, if there are any, the held-out
            volumes.
        bar: of progress.
        seed: of the known copies.
    """
    search = PixelSearch(synthetic, reference, held_out, bar)
    pixels = search.space()
    apart = described[2] if held_out is not None else None
    space = in_features(described[1], described[0], apart, reference.persons)
    known = search.ratios(KnownCopies(reference.corpus, seed=seed)) < pixels.threshold
    return Copies(pixels, space, 0 if apart is None else len(apart), known)


def clean_threshold(clean: npt.NDArray[np.float64], left_out: Callable[[], npt.NDArray[np.float64]]) -> float:
    """The threshold from held-out volumes; where there are fewer than ``FEW``, the lower one of theirs and of the
    reference's own volumes, each compared with the others."""
    threshold = threshold_of(clean)
    return threshold if len(clean) >= FEW else min(threshold, threshold_of(left_out()))


class PixelSearch:
    """Pixel space: which corpora, their details and fingerprints."""

    def __init__(self, synthetic: Volumes, reference: Volumes, held_out: Volumes | None, bar: Bar) -> None:
        self.bar = bar
        self.made, self.trained = Details(synthetic), Details(reference)
        self.apart = Details(held_out) if held_out is not None else None
        raw = self._fingerprints(self.trained)
        self.scale = Scale.of(raw)
        self.training = Targets(self.trained, np.arange(len(raw)), self.scale(raw))

    def _fingerprints(self, details: Details) -> npt.NDArray[np.float32]:
        with self.bar(f"fingerprints, {details.volumes.role}") as show:
            return details.fingerprints(show)

    def _targets(self, details: Details) -> Targets:
        return Targets(details, np.arange(len(details)), self.scale(self._fingerprints(details)))

    def _nearest(
        self, queries: Details, targets: Targets, which: Sequence[int] | None = None, own: bool = False
    ) -> Neighbours:
        chosen = range(len(queries)) if which is None else which
        among = f"{len(targets.indices)} {targets.details.volumes.role}"
        with self.bar(f"nearest of {among} to {queries.volumes.role}") as show:
            return nearest(queries, chosen, targets, self.scale, show, own)

    def _left_out(self) -> npt.NDArray[np.float64]:
        return self._nearest(self.trained, self.training, some(len(self.trained), LEFT_OUT), own=True).ratio

    def ratios(self, volumes: Volumes) -> npt.NDArray[np.float64]:
        """``[N]`` of other volumes against the reference."""
        return self._nearest(Details(volumes), self.training).ratio

    def space(self) -> Space:
        """All searches."""
        samples = self._nearest(self.made, self.training)
        if self.apart is None:
            clean = self._left_out()
            return Space("pixels", samples, clean, threshold_of(clean))
        clean = self._nearest(self.apart, self.training).ratio
        as_many = min(len(self.apart), len(self.trained))
        own, strangers = self._targets(self.made), self._targets(self.apart)
        return Space(
            "pixels",
            samples,
            clean,
            clean_threshold(clean, self._left_out),
            self._nearest(self.made, strangers.only(some(len(self.apart), as_many))).distance,
            self._nearest(self.made, self.training.only(some(len(self.trained), as_many))).distance,
            self._nearest(self.trained, own, some(len(self.trained), ASKED)).ratio,
            self._nearest(self.apart, own).ratio,
        )


def _left_out(trained: Vectors, persons: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Ratios of reference volumes, those of a fifth of the persons at a time, whitened by the other fifths and compared with
    these: just as new volumes are."""
    found = []
    for fold in range(FOLDS):
        asking = persons % FOLDS == fold
        if asking.any():
            known, queries = features.whitened_by(trained[~asking], trained[asking])
            which = some(len(queries), LEFT_OUT // FOLDS)
            found.append(features.nearest(queries, known, which, persons[~asking]).ratio)
    return np.concatenate(found)


def in_features(made: Vectors, trained: Vectors, apart: Vectors | None, persons: npt.NDArray[np.int64]) -> Space:
    """Feature space: the same searches among features ``[N, 2, F]``, whitened; ``persons`` says whose the trained are.

    Copies are looked for in units of the whole reference. Where training and held-out volumes are compared with one
    another, units come from as many of both: units from training volumes alone would make these seem nearer.
    """
    known, asking, *strangers_asking = features.whitened_by(trained, made, *([] if apart is None else [apart]))
    samples = features.nearest(asking, known, persons=persons)
    if apart is None:
        clean = _left_out(trained, persons)
        return Space("features", samples, clean, threshold_of(clean))
    clean = features.nearest(strangers_asking[0], known, persons=persons).ratio
    as_many = min(len(apart), len(trained))
    members, strangers = trained[some(len(trained), as_many)], apart[some(len(apart), as_many)]
    _, made, members, strangers = features.whitened_by(np.concatenate([members, strangers]), made, members, strangers)
    return Space(
        "features",
        samples,
        clean,
        clean_threshold(clean, lambda: _left_out(trained, persons)),
        features.nearest(made, strangers).distance,
        features.nearest(made, members).distance,
        features.nearest(members, made).ratio,
        features.nearest(strangers, made).ratio,
    )
