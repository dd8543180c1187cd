"""Splits as tables: written beside results, opened in a spreadsheet, read back and checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finetune.cohort import Cohort
from finetune.splits import Ints, Split
from finetune.tasks import Task
from synth.bids import read_table
from synth.errors import UserError
from synth.storage import write_atomically

if TYPE_CHECKING:
    import pandas as pd

Named = list[tuple[str, Split]]
"""(name of the test set, split) of one seed."""
TRAIN, TEST, CROSS_VALIDATION = "train", "test", "cross-validation"
SAME_SITES, HELD_OUT_SITE = "same site", "held-out site"
SIDES = (TRAIN, TEST, SAME_SITES, HELD_OUT_SITE)
FOLD = re.compile(r"fold-([0-9]+)")
HEAD = ("participant_id", "session", "seed", "split", "site", "label")


@dataclass(frozen=True)
class Rows:
    """What a split file is checked against: the task's rows, their persons, and their targets (class or years)."""

    cohort: Cohort
    task: Task
    names: list[str]
    target: npt.NDArray[np.float64]

    @property
    def people(self) -> list[str]:
        """The participant of each row."""
        return self.cohort.people(self.names)

    def labels(self) -> list[str]:
        """Diagnosis of each row, or its age in years."""
        if not self.task.is_classification:
            return [f"{value:g}" for value in self.target]
        return [str(self.task.positive) if value else "+".join(self.task.negatives) for value in self.target]

    def column(self, name: str) -> list[str]:
        """A column of the cohort as words; n/a where it is missing."""
        if name not in self.cohort.table.columns:
            return ["n/a"] * len(self.names)
        values = self.cohort.table.loc[self.names, name]
        return [str(value).strip() or "n/a" if value == value else "n/a" for value in values]


def write_splits(path: Path, rows: Rows, seeds: Sequence[Named]) -> None:
    """Write one row a scan and seed: participant_id, session, seed, split, site, label.

    ``split`` is train, test, same site, held-out site, or fold-K: tested in fold K and learnt from in the others. With a
    limit on labelled people, those are drawn anew from train, or from the other folds, so the file holds the whole pool.
    """
    sites, sessions, labels = rows.column("site"), rows.column("session"), rows.labels()
    lines = ["\t".join(HEAD)]
    for seed, named in enumerate(seeds):
        for position, side in enumerate(_sides(named, len(rows.names))):
            if side:
                cells = rows.people[position], sessions[position], str(seed), side, sites[position], labels[position]
                lines.append("\t".join(" ".join(cell.split()) for cell in cells))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "\n".join(lines) + "\n")


def _sides(named: Named, count: int) -> list[str]:
    sides = [""] * count
    for _, split in named:
        for position in split.train:
            sides[position] = TRAIN
    for number, (name, split) in enumerate(named, 1):
        for position in split.test:
            sides[position] = f"fold-{number}" if name == CROSS_VALIDATION else name
    return sides


def read_splits(path: Path, rows: Rows, seeds: int) -> list[Named]:
    """Fixed splits, one list a seed, from a TSV with participant_id and split, and seed and label where there are any.

    A file of one seed serves every seed. Participants it does not name take no part, nor do those with another word than
    train, test, same site, held-out site or fold-K in ``split``; participants of whom this task knows nothing are passed
    over.

    Raises:
        UserError: no such file or columns, a participant on two sides, a side left empty, fewer seeds than asked for, a
            label that is not the cohort's, folds beside train and test.
    """
    table = _read(path)
    if "label" in table.columns:
        _check_labels(path, table, rows)
    if "seed" not in table.columns or table["seed"].nunique() <= 1:
        return [_named(path, table, rows.people)] * seeds
    told = sorted(table["seed"].dropna().unique(), key=lambda word: (len(word), word))
    if len(told) < seeds:
        raise UserError(
            f"split file '{path}' holds {len(told)} seeds; expected {seeds}, as --seeds says, or one for all"
        )
    return [_named(path, table[table["seed"] == word], rows.people) for word in told[:seeds]]


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"there is no split file '{path}'; expected a TSV with participant_id and split")
    table = read_table(path, "participant_id")
    if not {"participant_id", "split"} <= set(table.columns):
        raise UserError(
            f"split file '{path}' has columns {', '.join(table.columns)}; expected participant_id and split"
        )
    table["split"] = table["split"].astype(str).str.strip()
    if "seed" in table.columns:
        table["seed"] = table["seed"].astype(str)
    return table


def _named(path: Path, table: pd.DataFrame, people: Sequence[str]) -> Named:
    """The splits of one seed."""
    sides = _sides_of_people(path, table)
    told = [sides.get(name, "") for name in people]
    numbers = sorted({side for side in told if FOLD.fullmatch(side)}, key=lambda side: int(side.rsplit("-")[-1]))
    if numbers and any(side in SIDES for side in told):
        raise UserError(f"split file '{path}' has folds beside train or test; expected either")
    if len(numbers) == 1:
        raise UserError(f"split file '{path}' has one fold, {numbers[0]}, of this task's participants; expected two")
    if numbers:
        everybody = _at(told, set(numbers))
        return [
            (CROSS_VALIDATION, Split(np.setdiff1d(everybody, _at(told, {own})), _at(told, {own}))) for own in numbers
        ]
    train = _at(told, {TRAIN})
    tests = [(side, _at(told, {side})) for side in SIDES[1:] if side in told]
    if not len(train) or not tests:
        raise UserError(f"split file '{path}' leaves train or test empty of this task's participants")
    return [(name, Split(train, test)) for name, test in tests]


def _at(told: Sequence[str], sides: set[str]) -> Ints:
    return np.array([position for position, side in enumerate(told) if side in sides], np.int64)


def _sides_of_people(path: Path, table: pd.DataFrame) -> dict[str, str]:
    """participant_id → side. Raises UserError for somebody on two."""
    known: dict[str, str] = {}
    for name, side in zip(table["participant_id"].astype(str), table["split"], strict=True):
        if side not in SIDES and not FOLD.fullmatch(side):
            continue
        if known.setdefault(name, side) != side:
            raise UserError(
                f"split file '{path}' has {name} in {' and '.join(sorted((known[name], side), key=_order))}; "
                "expected each participant on one side only, with all visits"
            )
    return known


def _order(side: str) -> tuple[int, str]:
    return SIDES.index(side) if side in SIDES else len(SIDES), side


def _check_labels(path: Path, table: pd.DataFrame, rows: Rows) -> None:
    """Raise UserError where the file was made for another task, or another state of the cohort."""
    ours: dict[str, set[str]] = {}
    for name, label in zip(rows.people, rows.labels(), strict=True):
        ours.setdefault(name, set()).add(label)
    for name, told in zip(table["participant_id"].astype(str), table["label"], strict=True):
        if told == told and name in ours and not any(_same(told, label) for label in ours[name]):
            raise UserError(
                f"split file '{path}' gives {name} the label '{told}', in this cohort and task it is "
                f"'{sorted(ours[name])[0]}'; make the split anew, or leave its column label out"
            )


def _same(told: Any, ours: str) -> bool:
    try:
        return abs(float(told) - float(ours)) < 0.01
    except ValueError:
        return str(told).strip() == ours
