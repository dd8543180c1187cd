"""Who is trained on and who is tested: by participant, by site, or as a file says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


def site_split(cohort: Cohort, participants: list[str], test_site: str) -> tuple[Ints, Ints]:
    """(positions elsewhere, positions at ``test_site``). Raises UserError when there is no such site, or no other."""
    if "site" not in cohort.table.columns:
        raise UserError(f"cohort '{cohort.name}' has no column site, which --test-site needs")
    sites = cohort.table.loc[participants, "site"].astype(str).to_numpy()
    if test_site not in sites or (sites == test_site).all():
        raise UserError(
            f"--test-site is '{test_site}'; expected one of several sites, there are {', '.join(sorted(set(sites)))}"
        )
    return np.flatnonzero(sites != test_site), np.flatnonzero(sites == test_site)


def read_split(path: Path, participants: list[str]) -> Split:
    """A fixed split from a TSV with columns participant_id and split (train or test).

    Raises:
        UserError: no such file or columns, a participant in train and test, a side left empty.
    """
    import pandas as pd

    if not path.is_file():
        raise UserError(f"there is no split file '{path}'; expected a TSV with participant_id and split")
    table = pd.read_csv(path, sep="\t", dtype=str)
    if not {"participant_id", "split"} <= set(table.columns):
        raise UserError(
            f"split file '{path}' has columns {', '.join(table.columns)}; expected participant_id and split"
        )
    sides = {side: set(table.loc[table["split"] == side, "participant_id"]) for side in ("train", "test")}
    both = sorted(sides["train"] & sides["test"])
    if both:
        raise UserError(
            f"split file '{path}' has {both[0]} in train and test; expected each participant on one side only"
        )
    positions = {
        side: np.array([i for i, name in enumerate(participants) if name in names], np.int64)
        for side, names in sides.items()
    }
    if not len(positions["train"]) or not len(positions["test"]):
        raise UserError(f"split file '{path}' leaves train or test empty of this task's participants")
    return Split(positions["train"], positions["test"])
