"""Cohort: participants with scans, targets and sites — from a BIDS folder or a corpus."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.columns import ColumnMap
from finetune.index import Scan, index_scans, natural
from finetune.leaks import refuse_leak
from finetune.visits import Visits, choose, in_order, overlaid, read_sessions, session_table
from synth.bids import SIMULATED_PARENT, data_set_name, read_participants, stated_name
from synth.corpus import Corpus
from synth.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Cohort", "load_cohort", "refuse_leak"]


LOOKED_AT = ("age", "sex", "site")  # by controls and the site probe, whose predictions are kept


@dataclass(frozen=True, eq=False)
class Cohort:
    """People to learn from and to test on.

    Attributes:
        name: of the data set.
        table: one row per participant, indexed by ``participant_id`` (with visits "all" one row per scan, indexed by the
            scan's name); columns age (years), sex, diagnosis (CN, MCI, AD, PD or as given), site and session where known,
            and every other column of the source.
        scans: row → NIfTI file (BIDS) or sample number (corpus).
        corpus: the corpus the cohort is, or None for BIDS.
        parents: what the cohort derives from; empty for real people.
        simulated: whether these people exist only in a computer.
        persons: row → participant, where they differ.
        files: participant → every scan of theirs, whichever visits take part (BIDS).
        data_set: the name that the data set gives itself, empty if none.
        visits: which of several visits take part.
        columns: how the source's columns and values were read.
    """

    name: str
    table: pd.DataFrame
    scans: dict[str, Path | int]
    corpus: Corpus | None = None
    parents: list[dict[str, Any]] = field(default_factory=list)
    simulated: bool = False
    persons: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)
    data_set: str = ""
    visits: Visits = "first"
    columns: ColumnMap = field(default_factory=ColumnMap)

    def people(self, rows: Iterable[str]) -> list[str]:
        """The participant of each row."""
        return [self.persons.get(row, row) for row in rows]

    def identity(self, rows: Sequence[str]) -> str:
        """sha256 of what these rows hold, as cheaply as it tells: names and sizes of files, or the corpus, and covariates.

        Time stamps are no part of it, nor where the folder lies.
        """
        scans = [self.scans[row] for row in rows]
        told: list[Any] = [[scan.name, _size(scan)] if isinstance(scan, Path) else scan for scan in scans]
        told.append(self.corpus.identity() if self.corpus is not None else "")
        columns = [name for name in self.table.columns if name in LOOKED_AT or str(name).startswith("volume_")]
        told.append(self.table.loc[list(rows), columns].to_csv())
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def choices(self) -> dict[str, Any]:
        """What was asked for beyond the usual, for results; empty if nothing."""
        asked: dict[str, Any] = {} if self.visits == "first" else {"visits": self.visits}
        return asked | ({"columns": self.columns.record()} if self.columns else {})


def _size(file: Path) -> int:
    """Bytes; -1 of a file that is not there, which is refused where it is read."""
    try:
        return file.stat().st_size
    except OSError:
        return -1


def load_cohort(folder: Path, columns: ColumnMap | None = None, visits: Visits = "first") -> Cohort:
    """A BIDS folder or a corpus.

    Args:
        folder: the cohort.
        columns: what its tables call our columns, and what its values mean.
        visits: of people with several sessions, the first, the last, or every scan of all; in order of ``acq_time``
            where sessions.tsv has it for all sessions of the person, else of the sessions' names (ses-2 before ses-10).

    Raises:
        UserError: no such folder, neither BIDS nor corpus, duplicate participants, a participant without a T1w scan, a
            column that was asked for and is not there.
    """
    columns = columns or ColumnMap()
    if not folder.is_dir():
        raise UserError(f"there is no cohort '{folder}'; expected a BIDS folder or a corpus")
    if (folder / "zarr.json").is_file():
        return _from_corpus(Corpus(folder), columns, visits)
    if not (folder / "participants.tsv").is_file():
        raise UserError(f"cohort '{folder}' has no participants.tsv; expected a BIDS folder or a corpus")
    return _from_bids(folder, columns, visits)


def _from_corpus(corpus: Corpus, columns: ColumnMap, visits: Visits) -> Cohort:
    """Samples as participants; of a corpus of scans its participants, each with the visits asked for."""
    table = corpus.covariates()
    columns.check([str(name) for name in table.columns], corpus.name)
    names = [f"sample{index:06d}" for index in range(len(corpus))]
    if "participant_id" in table.columns:  # else two sessions of somebody could be on both sides of a split
        own = table.pop("participant_id")
        names = [str(name) if name == name else made for name, made in zip(own, names, strict=True)]
    samples: dict[str, list[tuple[str, int]]] = {}
    sessions = table["session"].fillna("").astype(str) if "session" in table.columns else [""] * len(table)
    for index, (name, session) in enumerate(zip(names, sessions, strict=True)):
        samples.setdefault(name, []).append((session, index))
    chosen = [
        (name, session, index)
        for name, own in samples.items()
        for session, index in _chosen(sorted(own, key=lambda pair: natural(pair[0])), visits)
    ]
    if visits == "all":
        chosen.sort(key=lambda one: one[2])
    rows = _row_names([(name, session) for name, session, _ in chosen], visits)
    table = table.iloc[[index for *_, index in chosen]].set_axis(rows)
    table.index.name = "participant_id"
    parent = corpus.parent()
    kinds = {above.get("kind") for above in parent["parents"]}
    return Cohort(
        corpus.name,
        columns.apply(table),
        {row: index for row, (*_, index) in zip(rows, chosen, strict=True)},
        corpus,
        [parent],
        simulated="scan" not in kinds or "corpus" in kinds,
        persons=_differing(rows, [name for name, *_ in chosen]),
        visits=visits,
        columns=columns,
    )


def _chosen(ordered: Sequence[tuple[str, int]], visits: Visits) -> list[tuple[str, int]]:
    return choose([(pair[0], pair) for pair in ordered], visits)


def _row_names(owners: Sequence[tuple[str, str]], visits: Visits) -> list[str]:
    """Names of rows for (participant, session): the participant, or ``sub-01_ses-1``, ``sub-01_ses-1_2`` for all visits."""
    if visits != "all":
        return [participant for participant, _ in owners]
    names: list[str] = []
    taken: dict[str, int] = {}
    for participant, session in owners:
        name = f"{participant}_{session}" if session else participant
        taken[name] = taken.get(name, 0) + 1
        names.append(name if taken[name] == 1 else f"{name}_{taken[name]}")
    return names


def _differing(rows: Sequence[str], people: Sequence[str]) -> dict[str, str]:
    return {row: person for row, person in zip(rows, people, strict=True) if row != person}


def _from_bids(folder: Path, columns: ColumnMap, visits: Visits) -> Cohort:
    people = read_participants(folder)
    index = index_scans(folder, list(people.index))
    for name, scans in index.items():
        _check_scans(folder, name, scans)
    told = read_sessions(folder, (scan for scans in index.values() for scan in scans))
    chosen = [scan for scans in index.values() for scan in choose(in_order(scans, told), visits)]
    rows = _row_names([(scan.participant, scan.session) for scan in chosen], visits)
    table = _table(people, chosen, rows, told, columns, data_set_name(folder))
    parents, simulated = [], False
    if (folder / SIMULATED_PARENT).is_file():
        parents, simulated = [json.loads((folder / SIMULATED_PARENT).read_text())], True
    return Cohort(
        data_set_name(folder),
        table,
        {row: folder / scan.name for row, scan in zip(rows, chosen, strict=True)},
        None,
        parents,
        simulated,
        _differing(rows, [scan.participant for scan in chosen]),
        {name: [folder / scan.name for scan in scans] for name, scans in index.items()},
        stated_name(folder),
        visits,
        columns,
    )


def _check_scans(folder: Path, participant: str, scans: Sequence[Scan]) -> None:
    if not scans:
        raise UserError(
            f"participant {participant} of '{folder}' has no scan; expected {participant}/**/anat/*_T1w.nii.gz, "
            "or leave the row out of participants.tsv"
        )


def _table(
    people: pd.DataFrame,
    chosen: Sequence[Scan],
    rows: list[str],
    told: dict[tuple[str, str], dict[str, Any]],
    columns: ColumnMap,
    name: str,
) -> pd.DataFrame:
    """participants.tsv, and over it what is told of the visits, with our columns in both; one row a chosen scan."""
    table = people.loc[[scan.participant for scan in chosen]].set_axis(rows)
    table.index.name = people.index.name
    visits = session_table([told.get((scan.participant, scan.session), {}) for scan in chosen], rows)
    columns.check([*map(str, table.columns), *map(str, visits.columns)], name)
    table = columns.apply(table)
    if len(visits.columns):
        table = overlaid(table, columns.apply(visits))
    if any(scan.session for scan in chosen):
        table["session"] = [scan.session for scan in chosen]
    return table
