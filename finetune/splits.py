"""Who is trained on and who is tested: by participant or by site, stratified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.cohort import Cohort
from synth.errors import UserError
from synth.keys import rng_for

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Positions among a task's participants. Raises UserError when somebody is on both sides."""

    train: Ints
    test: Ints

    def __post_init__(self) -> None:
        both = np.intersect1d(self.train, self.test)
        if both.size:
            raise UserError(f"{both.size} participant(s) are in train and test; expected each on one side only")


class Persons:
    """Whose the rows of a task are. Splits are made of persons, so that all scans of one stay on one side.

    Args:
        people: participant of each row.
    """

    def __init__(self, people: Sequence[str]) -> None:
        self.names = list(dict.fromkeys(people))
        place = {name: position for position, name in enumerate(self.names)}
        self.of_rows = np.array([place[name] for name in people], np.int64)
        """Position in ``names`` of each row's person."""

    def target(self, target: npt.NDArray[np.float64], classification: bool) -> npt.NDArray[np.float64]:
        """One target a person: a patient at any visit is a patient; of numbers the first visit's."""
        first = np.array([np.flatnonzero(self.of_rows == who)[0] for who in range(len(self.names))], np.int64)
        own = target[first] if len(first) else np.zeros(0)
        if classification:
            np.maximum.at(own, self.of_rows, target)
        return own

    def rows(self, persons: Ints) -> Ints:
        """Positions of every row of these persons, in order."""
        return np.flatnonzero(np.isin(self.of_rows, persons))

    def split(self, train: Ints, test: Ints) -> Split:
        """The split of rows that a split of persons is."""
        return Split(self.rows(train), self.rows(test))


def stratify(target: npt.NDArray[np.float64], classification: bool) -> Ints:
    """Class of each participant, or the fifth of the target's range in order."""
    if classification:
        return target.astype(np.int64)
    ranks = np.argsort(np.argsort(target, kind="stable"), kind="stable")
    return (ranks * 5 // len(target)).astype(np.int64)


def folds(target: npt.NDArray[np.float64], classification: bool, count: int, seed: int) -> list[Split]:
    """Stratified cross-validation: every participant is tested once."""
    strata = stratify(target, classification)
    rng = rng_for(seed, 0, "folds")
    fold = np.empty(len(target), np.int64)
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        fold[members] = (np.arange(len(members)) + rng.integers(count)) % count
    return [Split(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(count)]


def pick_labels(pool: Ints, target: npt.NDArray[np.float64], classification: bool, labels: int, seed: int) -> Ints:
    """``labels`` of the participants in ``pool``, classes (or ages) kept in proportion; another draw for each seed."""
    if labels >= len(pool):
        return pool
    strata = stratify(target[pool], classification)
    rng = rng_for(seed, labels, "labels")
    queues = [list(rng.permutation(pool[strata == stratum])) for stratum in np.unique(strata)]
    shares = np.array([len(queue) for queue in queues]) * labels / len(pool)
    counts = np.floor(shares).astype(int)
    for position in np.argsort(counts - shares, kind="stable")[: labels - counts.sum()]:
        counts[position] += 1
    return np.sort(np.array([who for queue, n in zip(queues, counts, strict=True) for who in queue[:n]], np.int64))


def pick_share(pool: Ints, target: npt.NDArray[np.float64], classification: bool, percent: float, seed: int) -> Ints:
    """``percent`` of the participants in ``pool``, classes (or ages) in proportion; a smaller share is part of a larger.

    Raises:
        UserError: a share that leaves fewer than four people, or nobody of a class.
    """
    if percent >= 100:
        return pool
    strata = stratify(target[pool], classification)
    rng = rng_for(seed, 0, "label shares")
    place = np.empty(len(pool))
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    picked = np.sort(pool[np.argsort(place, kind="stable")[: round(len(pool) * percent / 100)]])
    counts = np.bincount(target[picked].astype(np.int64), minlength=2) if classification else np.array([4, 4])
    if len(picked) < 4 or counts.min() < 2:
        raise UserError(
            f"--fractions {percent:g} leaves {len(picked)} of {len(pool)} people to learn from; expected four or more, "
            "two of each class"
        )
    return picked


def sites_of(cohort: Cohort, rows: list[str], option: str) -> npt.NDArray[np.object_]:
    """Site of each row. Raises UserError without a column site, or for a person whose scans are of several sites."""
    if "site" not in cohort.table.columns:
        raise UserError(
            f"cohort '{cohort.name}' has no column site, which {option} needs; --columns site=NAME names it"
        )
    sites = cohort.table.loc[rows, "site"].astype(str).to_numpy(object)
    seen: dict[str, str] = {}
    for person, site in zip(cohort.people(rows), sites, strict=True):
        if seen.setdefault(person, site) != site:
            raise UserError(
                f"participant {person} of cohort '{cohort.name}' was scanned at {seen[person]} and {site}, and would be "
                f"on both sides of {option}; use --visits first"
            )
    return sites


def site_folds(
    target: npt.NDArray[np.float64], classification: bool, sites: npt.NDArray[np.object_], count: int, seed: int
) -> list[Split]:
    """Cross-validation over whole sites, strata spread as evenly as sites allow (scikit-learn's StratifiedGroupKFold).

    Raises:
        UserError: fewer than two sites, or a fold that leaves nobody, or nobody of a class, to learn from.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    known = len(set(sites))
    if known < 2:
        raise UserError(f"--fold-by site needs two sites or more; everybody is of '{sites[0]}'")
    strata = stratify(target, classification)
    parts = StratifiedGroupKFold(min(count, known), shuffle=True, random_state=seed).split(sites, strata, sites)
    made = [Split(train.astype(np.int64), test.astype(np.int64)) for train, test in parts]
    made = [part for part in made if len(part.test)]
    for part in made:
        if not len(part.train) or (classification and len(np.unique(target[part.train])) < 2):
            names = ", ".join(sorted(set(map(str, sites[part.test]))))
            raise UserError(
                f"without site {names} there is nobody of one class to learn from; use --fold-by participant"
            )
    return made


def site_split(cohort: Cohort, participants: list[str], test_site: str) -> tuple[Ints, Ints]:
    """(positions elsewhere, positions at ``test_site``). Raises UserError when there is no such site, or no other."""
    sites = sites_of(cohort, participants, "--test-site")
    if test_site not in sites or (sites == test_site).all():
        raise UserError(
            f"--test-site is '{test_site}'; expected one of several sites, there are {', '.join(sorted(set(sites)))}"
        )
    return np.flatnonzero(sites != test_site), np.flatnonzero(sites == test_site)
