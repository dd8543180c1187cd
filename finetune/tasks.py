"""Tasks: AD, PD and brain age — who takes part and what is predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from finetune.cohort import Cohort
from synth.errors import UserError, near

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Task:
    """A benchmark task. ``positive``: the diagnosis told from CN, or None for regression on ``column``."""

    name: str
    title: str
    column: str
    positive: str | None

    @property
    def is_classification(self) -> bool:
        """Classification (target 0 or 1) rather than regression (target in years)."""
        return self.positive is not None


TASKS = {
    "ad": Task("ad", "Alzheimer's disease against healthy", "diagnosis", "AD"),
    "pd": Task("pd", "Parkinson's disease against healthy", "diagnosis", "PD"),
    "age": Task("age", "brain age of healthy people", "age", None),
}


def find_task(name: str) -> Task:
    """The task of a name. Raises UserError for an unknown one."""
    if name not in TASKS:
        raise UserError(f"there is no task '{name}'; expected one of {near(name, TASKS, 3)}")
    return TASKS[name]


def participants_of(task: Task, cohort: Cohort) -> tuple[list[str], npt.NDArray[np.float64]]:
    """(rows, target) of a task, rows being participants, or scans where all visits take part: CN and patients (0, 1), or healthy people's ages in years.

    Raises:
        UserError: the column is missing, too few people of a class, an age that is no number.
    """
    table = cohort.table
    if task.column not in table.columns:
        raise UserError(
            f"cohort '{cohort.name}' has no column {task.column}, which task {task.name} needs; "
            f"--columns {task.column}=NAME names it, its columns are {', '.join(map(str, list(table.columns)[:12]))}"
        )
    if task.is_classification:
        chosen = table[table["diagnosis"].isin(["CN", task.positive])]
        target = (chosen["diagnosis"] == task.positive).to_numpy().astype(np.float64)
        for value, word in ((0, "CN"), (1, task.positive)):
            count = len(set(cohort.people(str(name) for name in chosen.index[target == value])))
            if count < 4:
                found = ", ".join(f"{k} {v}" for k, v in table["diagnosis"].value_counts().items())
                raise UserError(
                    f"cohort '{cohort.name}' has {count} people with diagnosis {word}, "
                    f"expected at least 4 (it holds {found})"
                )
        return [str(name) for name in chosen.index], target
    healthy = table[table["diagnosis"] == "CN"] if "diagnosis" in table.columns else table
    ages = _numbers(healthy, "age", cohort.name)
    count = len(set(cohort.people(str(name) for name in healthy.index)))
    if count < 8:
        raise UserError(f"cohort '{cohort.name}' has {count} healthy people with an age; expected at least 8")
    return [str(name) for name in healthy.index], ages


def _numbers(table: pd.DataFrame, column: str, name: str) -> npt.NDArray[np.float64]:
    import pandas as pd

    values = pd.to_numeric(table[column], errors="coerce")
    if values.isna().any():
        bad = values.index[values.isna()][0]
        raise UserError(f"participant {bad} of cohort '{name}' has {column} '{table[column][bad]}'; expected a number")
    return values.to_numpy(float)
