"""Who is learnt from and who is tested in every seed of a protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finetune.cohort import Cohort
from finetune.split_files import CROSS_VALIDATION, HELD_OUT_SITE, SAME_SITES, Named, Rows, read_splits
from finetune.splits import Persons, Split, folds, pick_labels, pick_share, site_folds, site_split, sites_of, stratify
from finetune.tasks import Task
from synth.errors import UserError

if TYPE_CHECKING:
    from finetune.arms import Protocol

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Layout:
    """One seed's training and test people.

    Attributes:
        splits: every (name of the test set, split).
        pool: the same before ``labels`` limited whom to learn from.
    """

    splits: Named
    pool: Named = field(default_factory=list)


def layouts(
    cohort: Cohort, task: Task, people: list[str], target: Floats, protocol: Protocol, percent: float = 100
) -> list[Layout]:
    """What is trained and tested in each seed, all scans of a person on one side; ``percent`` of the training people.

    Raises:
        UserError: a split that cannot be made.
    """
    persons = Persons(cohort.people(people))
    own = persons.target(target, task.is_classification)
    if protocol.split is not None:
        pools = read_splits(protocol.split, Rows(cohort, task, people, target), protocol.seeds)
    elif protocol.test_site is not None:
        pools = [_by_site(cohort, task, people, persons, own, protocol)] * protocol.seeds
    else:
        pools = _folds(cohort, task, people, persons, own, protocol)

    def labelled(split: Split, seed: int) -> Split:
        if protocol.labels is None and percent >= 100:
            return split
        pool = np.unique(persons.of_rows[split.train])
        if protocol.labels is not None:
            pool = pick_labels(pool, own, task.is_classification, protocol.labels, seed)
        picked = persons.rows(pick_share(pool, own, task.is_classification, percent, seed))
        return Split(np.intersect1d(picked, split.train), split.test)

    return [Layout([(name, labelled(split, seed)) for name, split in pool], pool) for seed, pool in enumerate(pools)]


def _by_site(cohort: Cohort, task: Task, people: list[str], persons: Persons, own: Floats, protocol: Protocol) -> Named:
    """Part of the other sites to learn from, the rest of them and the held-out site to test on."""
    here, away = site_split(cohort, people, str(protocol.test_site))
    pool, kept = _share(np.unique(persons.of_rows[here]), own, task.is_classification, protocol.test_share)
    train = persons.rows(pool)
    return [(SAME_SITES, Split(train, persons.rows(kept))), (HELD_OUT_SITE, Split(train, away))]


def _folds(
    cohort: Cohort, task: Task, people: list[str], persons: Persons, own: Floats, protocol: Protocol
) -> list[Named]:
    classes = task.is_classification
    smallest = int(np.bincount(stratify(own, classes)).min())
    if not 2 <= protocol.folds <= smallest:
        raise UserError(f"--folds is {protocol.folds}; expected 2 to {smallest} for the {len(own)} people of this task")
    if protocol.fold_by == "site":
        sites = sites_of(cohort, people, "--fold-by site")
        first = np.array([np.flatnonzero(persons.of_rows == who)[0] for who in range(len(own))], np.int64)
        made = [site_folds(own, classes, sites[first], protocol.folds, seed) for seed in range(protocol.seeds)]
    else:
        made = [folds(own, classes, protocol.folds, seed) for seed in range(protocol.seeds)]
    return [[(CROSS_VALIDATION, persons.split(part.train, part.test)) for part in parts] for parts in made]


def _share(here: npt.NDArray[np.int64], target: Floats, classes: bool, share: float) -> tuple[Any, Any]:
    """(training pool, kept for testing), the same for every seed, so that seeds differ in labels alone."""
    kept = pick_labels(here, target, classes, round(share * len(here)), seed=2**31)
    return np.setdiff1d(here, kept), kept
