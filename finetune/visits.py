"""Sessions: which visits of a person take part, in what order, and what the tables say of each."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from finetune.index import Scan, natural
from synth.bids import read_table
from synth.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

Visits = Literal["first", "last", "all"]
Row = dict[str, Any]
SESSIONS = "sessions.tsv"
MISSING = ("", "n/a", "NA", "NaN", "nan")
Kept = TypeVar("Kept")


def choose(ordered: Sequence[tuple[str, Kept]], visits: Visits) -> list[Kept]:
    """Of one person's (session, scan) pairs in order of time: the first, the first of the last session, or all."""
    if visits == "all":
        return [scan for _, scan in ordered]
    session = ordered[0 if visits == "first" else -1][0]
    return [next(scan for own, scan in ordered if own == session)]


def in_order(scans: Iterable[Scan], rows: dict[tuple[str, str], Row]) -> list[tuple[str, Scan]]:
    """A person's scans as (session, scan) in order of time: by ``acq_time`` where every session has one, else by name.

    Raises:
        UserError: a time that is not ISO 8601, as BIDS writes it; as text 1/2/2020 would come before 9/9/2010.
    """
    scans = list(scans)
    times = {scan.session: rows.get((scan.participant, scan.session), {}).get("acq_time") for scan in scans}
    if len(times) > 1 and all(times.values()):
        when = {scan.session: _time(times[scan.session], scan) for scan in scans}
        scans = sorted(scans, key=lambda scan: (when[scan.session], natural(scan.session)))
    return [(scan.session, scan) for scan in scans]


def _time(told: Any, scan: Scan) -> datetime:
    try:
        found = datetime.fromisoformat(str(told).strip())
    except ValueError as error:
        raise UserError(
            f"{scan.session} of {scan.participant} has acq_time '{told}'; expected ISO 8601 such as 2019-05-03T10:30:00, "
            "or n/a to go by the sessions' names"
        ) from error
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def read_sessions(folder: Path, scans: Iterable[Scan]) -> dict[tuple[str, str], Row]:
    """(participant, session) → what ``sub-*/sub-*_sessions.tsv``, or a ``sessions.tsv`` of everybody, says of the visit.

    Raises:
        UserError: a table without its key columns, or with two rows for one visit.
    """
    people = {scan.participant: None for scan in scans if scan.session}
    found: dict[tuple[str, str], Row] = {}
    if (folder / SESSIONS).is_file():
        table = read_table(folder / SESSIONS, "participant_id")
        rows = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
        _add(found, folder / SESSIONS, None, rows)
    for person in people:
        path = folder / person / f"{person}_sessions.tsv"
        try:  # read_table takes 1 ms a file, ten seconds for ten thousand people
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                _add(found, path, person, list(csv.DictReader(file, delimiter="\t")))
        except FileNotFoundError:
            continue
        except (OSError, csv.Error) as error:
            raise UserError(f"'{path}' is not a table ({error}); expected tab-separated values") from error
    return found


def _add(found: dict[tuple[str, str], Row], path: Path, person: str | None, rows: list[Row]) -> None:
    """The rows of one table; a row of the person's own table goes over one in the table of everybody."""
    seen = set()
    for row in rows:
        who, session = person or str(row.get("participant_id") or ""), str(row.get("session_id") or "")
        if not who or not session or (who, session) in seen:
            raise UserError(
                f"'{path}' is no table of sessions; expected one row a session_id"
                + ("" if person else " and participant_id")
            )
        seen.add((who, session))
        told = {str(key): value for key, value in row.items() if key and _told(value)}
        found[who, session] = {
            **found.get((who, session), {}),
            **{key: value for key, value in told.items() if key not in ("participant_id", "session_id")},
        }


def _told(value: Any) -> bool:
    return value is not None and str(value).strip() not in MISSING


def session_table(rows: Sequence[Row], index: Sequence[str]) -> pd.DataFrame:
    """Rows as a table; a column whose every value is a number is numbers."""
    import pandas as pd

    table = pd.DataFrame(list(rows), index=list(index))
    for column in table.columns:
        numbers = pd.to_numeric(table[column], errors="coerce")
        if numbers.notna().sum() == table[column].notna().sum():
            table[column] = numbers
    return table


def overlaid(people: pd.DataFrame, visits: pd.DataFrame) -> pd.DataFrame:
    """What is known of the person, and over it what is known of the visit; same rows in both."""
    table = people.copy()
    for column in visits.columns:
        if column in table.columns:
            table[column] = visits[column].where(visits[column].notna(), table[column])
        else:
            table[column] = visits[column]
    return table
