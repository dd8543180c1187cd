"""Tasks: AD, PD, brain age, and the user's own by YAML — who takes part and what is predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finetune.cohort import Cohort
from synth.bids import FINER_WORDS, diagnosis_word
from synth.errors import UserError, near

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("classification", "regression")
LEAST_OF_A_CLASS, LEAST = 4, 8


@dataclass(frozen=True)
class Task:
    """A benchmark task.

    Attributes:
        name: word for folders and results; ``title`` for people.
        column: of the cohort's table that is predicted.
        positive: class 1 as results call it, or None for regression.
        positives, negatives: values of ``column`` in class 1 and class 0; empty: ``positive`` alone, and CN.
        unit: of a regression's target.
        filters: column → values of the people who take part; a column that the cohort lacks leaves nobody out.
    """

    name: str
    title: str
    column: str
    positive: str | None
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ("CN",)
    unit: str = "years"
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_classification(self) -> bool:
        """Classification (target 0 or 1) rather than regression (target in ``unit``)."""
        return self.positive is not None

    @property
    def class_one(self) -> tuple[str, ...]:
        """Values of class 1."""
        return self.positives or ((self.positive,) if self.positive else ())

    def with_classes(self, positive: tuple[str, ...], negative: tuple[str, ...]) -> Task:
        """The task with other classes, such as AD and MCI against CN, or pMCI against sMCI.

        Raises:
            UserError: classes for a regression, or one value in both.
        """
        if not positive and not negative:
            return self
        if not self.is_classification:
            raise UserError(f"task {self.name} predicts a number; --positive and --negative are for classes")
        ours, others = positive or self.class_one, negative or self.negatives
        if set(ours) & set(others):
            raise UserError(
                f"'{min(set(ours) & set(others))}' is a positive and a negative class; expected one of both"
            )
        title = f"{' or '.join(ours)} against {' or '.join(others)}"
        return replace(self, title=title, positive="+".join(ours), positives=ours, negatives=others)


TASKS = {
    "ad": Task("ad", "Alzheimer's disease against healthy", "diagnosis", "AD"),
    "pd": Task("pd", "Parkinson's disease against healthy", "diagnosis", "PD"),
    "age": Task("age", "brain age of healthy people", "age", None, filters={"diagnosis": ("CN",)}),
}
FIELDS = ("name", "title", "column", "kind", "positive", "negative", "unit", "filters")


def find_task(name: str) -> Task:
    """The task of a name, or of a YAML file. Raises UserError for an unknown one."""
    if name in TASKS:
        return TASKS[name]
    if name.endswith((".yaml", ".yml")):
        return read_task(Path(name))
    raise UserError(f"there is no task '{name}'; expected one of {', '.join(TASKS)}, or a YAML file")


def read_task(path: Path) -> Task:
    """A task from YAML: name, column, kind; title, unit, filters; positive and negative values for a classification.

    Raises:
        UserError: no such file, no YAML, an unknown or missing key, a kind that there is not.
    """
    import yaml

    if not path.is_file():
        raise UserError(f"there is no task file '{path}'; expected YAML with {', '.join(FIELDS)}")
    try:
        content = yaml.safe_load(path.read_text(errors="replace"))
    except yaml.YAMLError as error:
        raise UserError(f"task file '{path}' is no YAML ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(content, dict):
        raise UserError(f"task file '{path}' is no mapping; expected {', '.join(FIELDS)}")
    for key in content:
        if key not in FIELDS:
            raise UserError(f"task file '{path}' has '{key}'; expected near it: {near(str(key), FIELDS, 3)}")
    for key in ("name", "column", "kind"):
        if not isinstance(content.get(key), str):
            raise UserError(f"task file '{path}' has no {key}; expected a word")
    return _task_of(content, path)


def _task_of(content: dict[str, Any], path: Path) -> Task:
    if content["kind"] not in KINDS:
        raise UserError(f"task file '{path}' has kind '{content['kind']}'; expected {' or '.join(KINDS)}")
    filters = content.get("filters") or {}
    if not isinstance(filters, dict):
        raise UserError(f"task file '{path}' has filters that are no mapping; expected column: [values]")
    positive, negative = _words(content.get("positive")), _words(content.get("negative"))
    if content["kind"] == "classification" and not (positive and negative):
        raise UserError(f"task file '{path}' is a classification; expected values for positive and for negative")
    if set(positive) & set(negative):
        raise UserError(f"task file '{path}' has '{min(set(positive) & set(negative))}' as positive and as negative")
    return Task(
        content["name"],
        str(content.get("title") or content["name"]),
        content["column"],
        "+".join(positive) if content["kind"] == "classification" else None,
        positive,
        negative,
        str(content.get("unit", "")),
        {str(column): _words(values) for column, values in filters.items()},
    )


def _words(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(_word(one) for one in (value if isinstance(value, list) else [value]))


def _word(value: Any) -> str:
    """A value as it is compared: 1.0 like 1."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value).strip()


def participants_of(task: Task, cohort: Cohort) -> tuple[list[str], npt.NDArray[np.float64]]:
    """(rows, target) of a task, rows being participants, or scans where all visits take part: classes 0 and 1, or numbers.

    Raises:
        UserError: the column is missing, too few people of a class, a number that is none.
    """
    table = cohort.table
    if task.column not in table.columns:
        raise UserError(
            f"cohort '{cohort.name}' has no column {task.column}, which task {task.name} needs; "
            f"--columns {task.column}=NAME names it, its columns are {', '.join(map(str, list(table.columns)[:12]))}"
        )
    for column, values in task.filters.items():
        if column in table.columns:
            table = table[_matched(table[column], column, values).notna()]
    if task.is_classification:
        return _classes(task, cohort, table)
    numbers = _numbers(table, task.column, cohort.name)
    count = len(set(cohort.people(str(name) for name in table.index)))
    if count < LEAST:
        who = "healthy people with an age" if task.name == "age" else f"people with {task.column}"
        raise UserError(f"cohort '{cohort.name}' has {count} {who}; expected at least {LEAST}")
    return [str(name) for name in table.index], numbers


def _classes(task: Task, cohort: Cohort, table: pd.DataFrame) -> tuple[list[str], npt.NDArray[np.float64]]:
    words = table[task.column].map(_word)
    matched = _matched(table[task.column], task.column, [*task.class_one, *task.negatives])
    chosen = table[matched.notna()]
    target = matched.loc[chosen.index].isin(task.class_one).to_numpy().astype(np.float64)
    for value, names in ((0, task.negatives), (1, task.class_one)):
        count = len(set(cohort.people(str(name) for name in chosen.index[target == value])))
        if count < LEAST_OF_A_CLASS:
            found = ", ".join(f"{k} {v}" for k, v in words.value_counts().head(12).items())
            raise UserError(
                f"cohort '{cohort.name}' has {count} people with {task.column} {' or '.join(names)}, "
                f"expected at least {LEAST_OF_A_CLASS} (it holds {found})"
            )
    return [str(name) for name in chosen.index], target


def _matched(series: pd.Series[Any], column: str, values: Sequence[str]) -> pd.Series[Any]:
    """Which of ``values`` each row is, None for none: of diagnoses pMCI itself where it is asked for, else MCI."""
    words = series.map(_word)
    if column != "diagnosis":
        return words.where(words.isin(values), None)
    asked = {str(diagnosis_word(value)): value for value in values}
    told = [str(diagnosis_word(word)) for word in words]
    found = [asked.get(word, asked.get("MCI") if word in FINER_WORDS.values() else None) for word in told]
    return type(series)(found, series.index, dtype=object)


def _numbers(table: pd.DataFrame, column: str, name: str) -> npt.NDArray[np.float64]:
    import pandas as pd

    values = pd.to_numeric(table[column], errors="coerce")
    if values.isna().any():
        bad = values.index[values.isna()][0]
        raise UserError(f"participant {bad} of cohort '{name}' has {column} '{table[column][bad]}'; expected a number")
    return values.to_numpy(float)
