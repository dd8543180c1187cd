"""What controls without a scan look at: age, sex and regional volumes, and why one cannot be there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finetune.cohort import Cohort
from finetune.tasks import Task, participants_of
from synth.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
SEXES = {"m": 1.0, "male": 1.0, "man": 1.0, "f": 0.0, "female": 0.0, "woman": 0.0}
UNTOLD = ("", "nan", "none", "n/a", "o", "other", "u", "unknown")


def control_columns(cohort: Cohort, people: list[str], control: str, task: Task) -> dict[str, Floats]:
    """Name → ``[people]``: sex (M is 1), age in years (not where it is predicted), log mm³ of volumes, sides summed.

    NaN is missing; a column of which nobody's value is known is left out, as is the task's own.

    Raises:
        UserError: a sex, an age or a volume that cannot be read.
    """
    table = cohort.table.loc[people]
    found: dict[str, Floats] = {}
    if "sex" in table.columns:
        found["sex"] = _sexes(table["sex"], cohort.name)
    if task.is_classification and "age" in table.columns:
        found["age"] = _numbers(table["age"], cohort.name)
    if control == "volumes":
        found |= _volumes(table, cohort.name)
    return {name: values for name, values in found.items() if name != task.column and np.isfinite(values).any()}


def _sexes(series: pd.Series[Any], cohort: str) -> Floats:
    words = [str(value).strip().lower() for value in series]
    for row, word in zip(series.index, words, strict=True):
        if word not in SEXES and word not in UNTOLD:
            raise UserError(
                f"participant {row} of cohort '{cohort}' has sex '{series[row]}', and no code says by itself which sex it is; "
                "expected F or M, n/a where unknown: --values sex:1=M,sex:2=F says what the cohort's codes mean"
            )
    return np.array([SEXES.get(word, np.nan) for word in words])


def _numbers(series: pd.Series[Any], cohort: str) -> Floats:
    import pandas as pd

    numbers = pd.to_numeric(series, errors="coerce")
    bad = series.index[numbers.isna() & series.notna()]
    if len(bad):
        hint = " (--values age:89+=89 says what a word means)" if series.name == "age" else ""
        raise UserError(
            f"participant {bad[0]} of cohort '{cohort}' has {series.name} '{series[bad[0]]}'; "
            f"expected a number, or n/a{hint}"
        )
    return numbers.to_numpy(float)


def _volumes(table: pd.DataFrame, cohort: str) -> dict[str, Floats]:
    sums: dict[str, Floats] = {}
    for name in (str(name) for name in table.columns if str(name).startswith("volume_")):
        structure = name.removeprefix("volume_").removeprefix("left_").removeprefix("right_")
        sums[f"volume_{structure}"] = sums.get(f"volume_{structure}", np.zeros(len(table))) + _numbers(
            table[name], cohort
        )
    return {name: np.log(np.maximum(values, 1.0)) for name, values in sums.items()}


def known(cohort: Cohort, task: Task) -> set[str]:
    """Which of ``sex``, ``age`` and ``volumes`` is known of anybody who takes part in the task."""
    table = cohort.table.loc[participants_of(task, cohort)[0]]
    there = {str(name) for name in table.columns if table[name].notna().any()} - {task.column}
    return (there & {"sex", "age"}) | ({"volumes"} if any(name.startswith("volume_") for name in there) else set())


def missing_controls(cohort: Cohort, task: Task, ran: set[str]) -> list[dict[str, str]]:
    """``control`` and ``reason`` of every simple control that the table ought to have and has not.

    Args:
        cohort, task: of the experiment.
        ran: kinds of control among the arms.
    """
    there, found = known(cohort, task), []
    if "volumes" not in ran:
        why = f"cohort '{cohort.name}' has no volume_* column (regional volumes in mm³)"
        found.append({"control": "regional volumes", "reason": NOT_ASKED if "volumes" in there else why})
    if task.is_classification:
        for name in sorted({"age", "sex"} - {task.column}):
            if "demographics" not in ran or name not in there:
                why = f"cohort '{cohort.name}' has no column {name}; --columns {name}=NAME names it"
                found.append({"control": name, "reason": NOT_ASKED if name in there else why})
    elif "mean" not in ran:
        found.append({"control": "predicting the mean", "reason": NOT_ASKED})
    return found


NOT_ASKED = "not among the arms of this run"
