"""What a cohort's tables call age, sex, diagnosis and site, and what their values mean: from words, YAML or a ready map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.bids import COLUMN_NAMES, DETAIL, diagnosis_group, diagnosis_word, with_our_columns
from synth.covariates import covariate_name
from synth.errors import UserError, near

if TYPE_CHECKING:
    import pandas as pd

OURS = tuple(COLUMN_NAMES)
CODES = {"0": "CN"}
"""Class numbers that may stand for a diagnosis. 1 may not: it would be AD in one task and PD in another."""


@dataclass(frozen=True)
class ColumnMap:
    """Names of columns and meanings of values in somebody's tables.

    Attributes:
        columns: our name (age, sex, diagnosis, site) → their names, in the order they are looked for.
        values: our name → their value (lower case) → ours.
        asked: our names that the user mapped in so many words; such a column must be there.
        name: of the ready map it began with, empty if none.
    """

    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    asked: frozenset[str] = frozenset()
    name: str = ""

    def __bool__(self) -> bool:
        return bool(self.columns or self.values)

    def apply(self, table: pd.DataFrame) -> pd.DataFrame:
        """A copy of ``table`` with our columns beside the source's own, values as we say them.

        A meaning told of the source's word goes before one told of our word for it, such as MCI for EMCI.
        """
        table = table.copy()
        for ours in OURS:
            theirs = self._find(ours, table.columns)
            if theirs is not None:
                table[ours] = table[theirs]
        table = with_our_columns(table)
        if DETAIL in table.columns and self._find("diagnosis", table.columns) in (None, "diagnosis"):
            finer = table[DETAIL].notna() & (table["diagnosis"] == "MCI")  # of a corpus of scans
            table["diagnosis"] = table["diagnosis"].mask(finer, table[DETAIL])
        for ours, meanings in self.values.items():
            if ours in table.columns:
                table[ours] = _translated(table[ours], meanings, diagnosis_group if ours == "diagnosis" else None)
        if "diagnosis" in table.columns:
            table["diagnosis"] = [diagnosis_word(value) for value in table["diagnosis"]]
        return table

    def _find(self, ours: str, there: Iterable[str]) -> str | None:
        """The first of their names that is there, as such or as a corpus had to write it (``M/F``: ``M_F``)."""
        known = set(there)
        for theirs in self.columns.get(ours, ()):
            for name in (theirs, covariate_name(theirs)):
                if name in known:
                    return name
        return None

    def check(self, there: Sequence[str], cohort: str) -> None:
        """Raise UserError where a column that was asked for is in none of the cohort's tables."""
        for ours in sorted(self.asked):
            if self._find(ours, there) is None:
                theirs = " or ".join(self.columns[ours])
                raise UserError(
                    f"--columns says {ours}={theirs}, but cohort '{cohort}' has no such column; "
                    f"expected one of its own, such as {near(self.columns[ours][0], map(str, there))}"
                )

    def record(self) -> dict[str, Any]:
        """What results say about it."""
        names = {ours: list(theirs) for ours, theirs in self.columns.items()}
        return {"map": self.name, "columns": names, "values": {k: dict(v) for k, v in self.values.items()}}


def _key(value: Any) -> str:
    """A value as it is compared: words without capitals, 1.0 like 1."""
    text = str(value).strip().lower()
    try:
        number = float(text)
    except ValueError:
        return text
    return f"{number:g}"


def _translated(
    series: pd.Series[Any], meanings: Mapping[str, str], broader: Callable[[Any], Any] | None
) -> pd.Series[Any]:
    """Values that ``meanings`` knows, as they are or by their ``broader`` word, replaced; others, and missing ones, as they were."""
    import pandas as pd

    def one(value: Any) -> Any:
        if _key(value) in meanings or broader is None:
            return meanings.get(_key(value), value)
        known = meanings.get(_key(broader(value)), value)
        return value if known == broader(value) else known  # that MCI is MCI does not make EMCI any less

    found = [value if pd.isna(value) else one(value) for value in series]
    made = pd.Series(found, series.index, dtype=object)
    numbers = pd.to_numeric(made, errors="coerce")
    return numbers if numbers.notna().sum() == made.notna().sum() else made


def ready_maps() -> list[str]:
    """Names of the column maps that come with brainloom."""
    folder = resources.files("finetune") / "cohorts"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def column_map(columns: Sequence[str] = (), values: Sequence[str] = ()) -> ColumnMap:
    """The map that ``--columns`` and ``--values`` ask for.

    Args:
        columns: a ready map's name (``adni``) or a YAML file, and ``OURS=THEIRS`` words, which go first.
        values: ``THEIRS=OURS`` words for diagnosis, ``COLUMN:THEIRS=OURS`` for another of our columns.

    Raises:
        UserError: a word that is none of these, an unknown name, a file that is no map, a diagnosis that is no word of ours.
    """
    named: dict[str, tuple[str, ...]] = {}
    meanings: dict[str, dict[str, str]] = {}
    asked: set[str] = set()
    origin = ""
    for word in columns:
        if "=" not in word:
            origin, content = _read_map(word)
            named = {**_columns_of(content, origin), **{ours: named[ours] for ours in asked}}
            meanings = _values_of(content, origin)
            continue
        ours, theirs = (part.strip() for part in word.split("=", 1))
        named[_ours(ours, f"--columns {word}")] = (_filled(theirs, f"--columns {word}"),)
        asked.add(ours)
    for word in values:
        column, theirs, meaning = _value_word(word)
        meanings.setdefault(column, {})[_key(theirs)] = _meaning(column, meaning, f"--values {word}")
    return ColumnMap(named, meanings, frozenset(asked), origin)


def _ours(name: str, where: str) -> str:
    if name not in OURS:
        raise UserError(f"{where} names '{name}'; expected OURS=THEIRS with one of {', '.join(OURS)} on the left")
    return name


def _filled(text: str, where: str) -> str:
    if not text:
        raise UserError(f"{where} has nothing on one side of =; expected such as diagnosis=DX_bl or NC=CN")
    return text


def _value_word(word: str) -> tuple[str, str, str]:
    where = f"--values {word}"
    if "=" not in word:
        raise UserError(f"{where} has no =; expected THEIRS=OURS such as NC=CN, or sex:1=M for another column")
    left, meaning = (part.strip() for part in word.rsplit("=", 1))
    column, theirs = left.split(":", 1) if ":" in left else ("diagnosis", left)
    return _ours(column.strip(), where), _filled(theirs.strip(), where), _filled(meaning, where)


def _meaning(column: str, meaning: str, where: str) -> str:
    """Our word; class 0 is CN. Any other word stays a diagnosis of its own, which no task takes."""
    if column == "diagnosis" and meaning == "1":
        raise UserError(f"{where} says 1, which is another diagnosis in each task; expected CN (or 0), MCI, AD or PD")
    return CODES.get(meaning, meaning) if column == "diagnosis" else meaning


def _read_map(word: str) -> tuple[str, dict[str, Any]]:
    """(name, content) of a ready map or of a YAML file."""
    import yaml

    ready = ready_maps()
    if word.lower() in ready:
        text = (resources.files("finetune") / "cohorts" / f"{word.lower()}.yaml").read_text()
    elif Path(word).is_file():
        text = Path(word).read_text(errors="replace")
    else:
        raise UserError(
            f"--columns {word} is no OURS=THEIRS, no ready map and no file; ready maps are {', '.join(ready)}"
        )
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"column map '{word}' is no YAML ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(content, dict) or not {"columns", "values"} & set(content):
        raise UserError(f"column map '{word}' holds no columns and no values; see docs/cohorts.md for one")
    return Path(word).stem.lower(), content


def _columns_of(content: Mapping[str, Any], name: str) -> dict[str, tuple[str, ...]]:
    found = {}
    for ours, theirs in _mapping(content.get("columns"), name).items():
        names = theirs if isinstance(theirs, list) else [theirs]
        found[_ours(str(ours), f"column map '{name}'")] = tuple(str(one) for one in names)
    return found


def _values_of(content: Mapping[str, Any], name: str) -> dict[str, dict[str, str]]:
    """Our column → their value → ours, from ``diagnosis: {CN: [NC, HC]}``."""
    found: dict[str, dict[str, str]] = {}
    for column, meanings in _mapping(content.get("values"), name).items():
        own = found.setdefault(_ours(str(column), f"column map '{name}'"), {})
        for ours, theirs in _mapping(meanings, name).items():
            meaning = _meaning(str(column), str(ours), f"column map '{name}'")
            own.update({_key(one): meaning for one in (theirs if isinstance(theirs, list) else [theirs])})
    return found


def _mapping(content: Any, name: str) -> dict[Any, Any]:
    if content is not None and not isinstance(content, dict):
        raise UserError(f"column map '{name}' is no mapping of columns and values; see docs/cohorts.md for one")
    return content or {}
