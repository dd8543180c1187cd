"""Columns of anybody's tables → covariates of a corpus: names that can be arrays, always a number or always a word."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from synth.sample import Covariate
from synth.writing import RESERVED

if TYPE_CHECKING:
    import pandas as pd

LONGEST_NAME = 60  # characters; four bytes each still fit a file's name


def covariate_name(column: str, taken: Iterable[str] = ()) -> str:
    """An identifier like ``column``: none of the corpus's own names, and none that is ``taken``, capitals aside (some
    file systems tell no difference)."""
    text = unicodedata.normalize("NFKC", column)
    text = "".join(letter if f"a{letter}".isidentifier() else "_" for letter in text).strip("_") or "covariate"
    text = text if text.isidentifier() else f"covariate_{text}"
    text = text[:LONGEST_NAME]
    used = {name.casefold() for name in (*RESERVED, *taken)}
    name, number = text, 2
    while name.casefold() in used:
        name, number = f"{text}_{number}", number + 1
    return name


def covariates_of(table: pd.DataFrame, first: Iterable[str] = ()) -> list[dict[str, Covariate]]:
    """Covariates of every row, in order; what is missing is left out.

    A column whose every value is a number is numbers, any other is words. The columns in ``first`` get their names
    before the others do; another with the same name, capitals aside, is left out where it says the same.
    """
    import pandas as pd

    rows: list[dict[str, Covariate]] = [{} for _ in range(len(table))]
    columns: dict[str, str] = {}
    leading = [name for name in first if name in table.columns]
    for column in [*leading, *(name for name in table.columns if name not in leading)]:
        twin = next((c for name, c in columns.items() if name.casefold() == str(column).casefold()), None)
        if twin is not None and table[twin].equals(table[column]):
            continue
        name = covariate_name(str(column), columns)
        columns[name] = column
        series = table[column]
        numeric = pd.api.types.is_numeric_dtype(series) and not pd.api.types.is_bool_dtype(series)
        for row, value in zip(rows, series, strict=True):
            covariate = _number(value) if numeric else _word(value)
            if covariate is not None:
                row[name] = covariate
    return rows


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _word(value: Any) -> str | None:
    """The word in a cell; numbers among words are words too, missing ones (None, NaN) and blanks none."""
    if value is None or value != value:
        return None
    return str(value).strip() or None
