"""Nearest neighbours in pixel space: over every shift, in both mirror images, whatever the brightness.

Two stages. Fingerprints that no shift changes pick a few candidates out of the whole corpus by one matrix product;
each candidate is then aligned by cross-correlation and what is left of its detail is measured.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.audit.fingerprint import Scale, detail, fingerprint, spectrum
from synth.audit.grid import Floats, Triple, Volumes

CANDIDATES = 8
MARGIN = 1  # voxels left out along the rim of the overlap: its detail was filtered together with what was shifted in
KEPT_DETAILS = 1500  # volumes whose detail stays in memory, two bytes a voxel
SMALLEST = 1e-4  # of a distance: quantised copies are not told apart below it

Show = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """For every query its nearest target.

    Attributes:
        index: ``[N]`` number of the nearest target.
        mirrored: ``[N]`` whether the query's left-right mirror image is what resembles it.
        shift: ``[N, 3]`` voxels by which the query, mirrored or not, lies off the target.
        distance: ``[N]`` share of the target's detail that the aligned query does not explain, 0 to 1.
        ratio: ``[N]`` that distance over the median distance of the next candidates (Carlini et al. 2023, arXiv
            2301.13188, eq. 1, normalise likewise): an easy head is near to all, a copy to one.
    """

    index: npt.NDArray[np.int64]
    mirrored: npt.NDArray[np.bool_]
    shift: npt.NDArray[np.int64]
    distance: npt.NDArray[np.float64]
    ratio: npt.NDArray[np.float64]


@dataclass(eq=False)
class Details:
    """Detail of a corpus's volumes, the last ones used kept, and their fingerprints in one or both mirror images."""

    volumes: Volumes
    _kept: OrderedDict[int, npt.NDArray[np.float16]] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> Floats:
        """``[D, H, W]``."""
        if index not in self._kept:
            self._kept[index] = detail(self.volumes.image(index)).astype(np.float16)
            if len(self._kept) > KEPT_DETAILS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(index)
        return self._kept[index].astype(np.float32)

    def fingerprints(self, show: Show) -> Floats:
        """``[N, F]`` as they are, neither centred nor scaled."""
        rows = []
        for index in range(len(self)):
            rows.append(fingerprint(self[index]))
            show(index + 1, len(self))
        return np.stack(rows)


def overlap(shape: Sequence[int], shift: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where query and target lie on one another when query[x] resembles target[x - shift], the rim left out."""
    query = tuple(slice(max(s, 0) + MARGIN, n + min(s, 0) - MARGIN) for n, s in zip(shape, shift, strict=True))
    target = tuple(slice(max(-s, 0) + MARGIN, n + min(-s, 0) - MARGIN) for n, s in zip(shape, shift, strict=True))
    return query, target


@dataclass(frozen=True, eq=False)
class Probe:
    """A query made ready: detail, its three gradients and its Laplacian ``[5, D, H, W]``, and its spectrum."""

    columns: Floats
    spectrum: npt.NDArray[np.complex64]

    @classmethod
    def of(cls, evened: Floats) -> Probe:
        """Of detail ``[D, H, W]``."""
        from scipy.ndimage import laplace

        return cls(np.stack([evened, *np.gradient(evened), laplace(evened)]), spectrum(evened))

    def best_shift(self, target: Floats) -> Triple:
        """Voxels by which this lies off the target, by the peak of their circular cross-correlation; at most a third of
        each axis."""
        from scipy.fft import irfftn

        product = self.spectrum * np.conj(spectrum(target))
        correlation = irfftn(product, s=target.shape)
        for axis, n in enumerate(target.shape):  # farther shifts leave too little to compare
            far = np.arange(n // 3 + 1, n - n // 3)
            correlation[(slice(None),) * axis + (far,)] = -np.inf
        peak = np.unravel_index(int(correlation.argmax()), correlation.shape)
        d, h, w = (int(at) - n if at > n // 2 else int(at) for at, n in zip(peak, target.shape, strict=True))
        return d, h, w

    def unexplained(self, target: Floats, shift: Triple) -> float:
        """Share of the target's detail, 0 to 1, that a weighted sum of this one's shifted detail, gradients and
        Laplacian leaves over: to first order the rest of the shift (below a voxel) and a different sharpness are no
        difference."""
        mine, theirs = overlap(target.shape, shift)
        x = self.columns[(slice(None), *mine)].reshape(len(self.columns), -1)
        y = target[theirs].ravel()
        x, y = x - x.mean(axis=1, keepdims=True), y - y.mean()
        square = (x @ x.T).astype(np.float64)
        square[np.diag_indices(len(square))] *= 1 + 1e-5
        square[np.diag_indices(len(square))] += 1e-9
        along = (x @ y).astype(np.float64)
        explained = along @ np.linalg.solve(square, along) / max(float(y @ y), 1e-9)
        return float(np.clip(1 - explained, 0, 1))


@dataclass(frozen=True, eq=False)
class Targets:
    """Volumes to look among: their detail, the numbers of those that count, and their scaled fingerprints ``[M, F]``."""

    details: Details
    indices: npt.NDArray[np.int64]
    prints: Floats

    @property
    def persons(self) -> npt.NDArray[np.int64]:
        """``[M]`` whose they are."""
        return self.details.volumes.persons[self.indices]

    def only(self, places: Sequence[int]) -> Targets:
        """Some of them, by their place in ``indices``."""
        return Targets(self.details, self.indices[list(places)], self.prints[list(places)])


def nearest(
    queries: Details, which: Sequence[int], targets: Targets, scale: Scale, show: Show, own: bool = False
) -> Neighbours:
    """The nearest target of some queries.

    Args:
        queries, which: the volumes, and the numbers of those that are asked for.
        targets: where to look.
        scale: of fingerprints.
        show: told (queries done, all).
        own: queries and targets are of one corpus, and no volume of a person is a neighbour of that person's.
    """
    rows = []
    for done, index in enumerate(which, 1):
        rows.append(_nearest_of(queries[index], targets, scale, int(queries.volumes.persons[index]) if own else None))
        show(done, len(which))
    found, mirrored, shifts, distances, ratios = zip(*rows, strict=True)
    return Neighbours(
        np.array(found), np.array(mirrored), np.array(shifts), np.array(distances, float), np.array(ratios, float)
    )


def _nearest_of(
    evened: Floats, targets: Targets, scale: Scale, own: int | None
) -> tuple[int, bool, Triple, float, float]:
    images = (evened, np.ascontiguousarray(evened[::-1]))
    likeness = np.stack([targets.prints @ scale(fingerprint(image)) for image in images])  # [2, M]
    persons = targets.persons
    best = np.where(persons == (-1 if own is None else own), -np.inf, likeness.max(axis=0))
    probes: dict[int, Probe] = {}
    tried = []
    for candidate in candidates_of(best, persons):
        mirrored = int(likeness[1, candidate] > likeness[0, candidate])
        if mirrored not in probes:
            probes[mirrored] = Probe.of(images[mirrored])
        number = int(targets.indices[candidate])
        target = targets.details[number]
        shift = probes[mirrored].best_shift(target)
        left = max(probes[mirrored].unexplained(target, shift), SMALLEST)
        tried.append((left, number, bool(mirrored), shift, int(persons[candidate])))
    tried.sort(key=lambda row: row[:2])
    distance, found, is_mirrored, shift, whose = tried[0]
    others = {person: left for left, *_, person in reversed(tried) if person != whose}  # of each person the nearest
    return found, is_mirrored, shift, distance, distance / float(np.median(list(others.values())))


def candidates_of(likeness: npt.NDArray[Any], persons: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The places of ``CANDIDATES`` volumes most alike and of the volume most alike of as many persons: the same where
    everybody has one volume. Those that are infinitely unlike are left out."""
    ranked = np.argsort(-likeness, kind="stable")[: int(np.isfinite(likeness).sum())]
    _, first = np.unique(persons[ranked], return_index=True)
    chosen: npt.NDArray[np.int64] = ranked[
        sorted({*range(min(CANDIDATES, len(ranked))), *np.sort(first)[:CANDIDATES].tolist()})
    ]
    return chosen
