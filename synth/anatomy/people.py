"""Who is in a volume: age, sex, diagnosis, and the regional volumes such a person would have.

The table ``data/effects.tsv`` holds, per structure, mean volume at age 30, yearly change by age range, spread between
people, sex and disease effects, each with its source; [M] marks values quoted from memory of the literature named.
A simulated person proves that a pipeline works; it is never evidence about patients.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from synth.anatomy.labels import label_table
from synth.errors import UserError

DIAGNOSES = ("CN", "MCI", "AD", "PD")
ICV_FEMALE_ML = 1385.0  # intracranial volume; with men 14.5 % larger the mean is 1485 mL (291 IXI people, DLMUSE)
ICV_MALE_RATIO = 1.145
MEAN_ICV_ML = ICV_FEMALE_ML * (1 + ICV_MALE_RATIO) / 2
ICV_SD = 0.083
STAGE_MIX = {1: 0.25, 2: 0.45, 3: 0.20, 4: 0.10}  # Hoehn & Yahr; a clinic's mix, a setting of ours
STAGE_FACTOR = {1: 0.5, 2: 1.0, 3: 1.5, 4: 3.0}  # effect relative to stage 2 [M]
REFERENCE_AGE = 30.0
SEVERITY_SD = 0.3  # log-normal spread of the disease effect between patients [M]


@dataclass(frozen=True)
class Effect:
    """One row of the effects table: rates in % per year, SD and sex in %, ``ad_d`` and ``pd_d`` Cohen's d of log volume
    against healthy people of the same age, sex and head (PD's over the default stages), ``mci_share`` of AD's change."""

    structure: str
    ml_at_30: float
    rate_20_50: float
    rate_50_70: float
    rate_70_90: float
    sd_percent: float
    loading: float
    male_percent: float
    ad_d: float
    mci_share: float
    pd_d: float

    def log_age_change(self, age: float) -> float:
        """Log volume change from age 30 to ``age`` (years): the integral of the yearly rates."""

        def integral(to: float) -> float:
            years = ((20.0, 50.0, self.rate_20_50), (50.0, 70.0, self.rate_50_70), (70.0, 90.0, self.rate_70_90))
            return sum(rate / 100 * (min(max(to, low), high) - low) for low, high, rate in years)

        return integral(age) - integral(REFERENCE_AGE)

    def log_disease_change(self, diagnosis: str, stage: int, severity: float) -> float:
        """Log volume change against a healthy person of the same age."""
        if diagnosis == "AD":
            return self._typical_change(self.ad_d, 1.0, 1.0) * severity
        if diagnosis == "MCI":
            return self._typical_change(self.ad_d, 1.0, 1.0) * self.mci_share * severity
        if diagnosis == "PD":
            mean = sum(share * STAGE_FACTOR[s] for s, share in STAGE_MIX.items())
            square = sum(share * STAGE_FACTOR[s] ** 2 for s, share in STAGE_MIX.items())
            return self._typical_change(self.pd_d, mean, square) * STAGE_FACTOR[stage] * severity
        return 0.0

    def _typical_change(self, d: float, factor: float, factor_square: float) -> float:
        """Log change L at severity 1 and factor 1 that makes the group's Cohen's d come out at ``d``.

        Patients change by L·f·s (f the stage's factor, s log-normal severity), so with healthy SD σ
        d = L·E[fs] / √(σ² + L²·Var[fs] / 2), solved for L. Cut where the patients' own spread would forbid d.
        """
        sigma = math.log1p(self.sd_percent / 100)
        mean = factor * math.exp(SEVERITY_SD**2 / 2)
        variance = factor_square * math.exp(2 * SEVERITY_SD**2) - mean**2
        return d * sigma / math.sqrt(max(mean**2 - d**2 * variance / 2, 0.1 * mean**2))


@cache
def effects(path: Path | None = None) -> Mapping[str, Effect]:
    """An effects table, structure → row: the built-in one, or a user's TSV with the same columns.

    Raises:
        UserError: the table cannot be read, lacks a column, or holds a value that makes no sense.
    """
    try:
        source = resources.files("synth.anatomy") / "data" / "effects.tsv" if path is None else path
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"effects table {path} cannot be read ({error}); expected a TSV file") from error
    reader = csv.DictReader(text.splitlines(), delimiter="\t")
    missing = [c for c in Effect.__dataclass_fields__ if c not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"effects table {path} lacks the column {missing[0]}; expected the built-in table's columns")
    rows = [_checked(row, path) for row in reader]
    names = [row.structure for row in rows]
    if not rows or len(set(names)) < len(names):
        raise UserError(f"effects table {path} is empty or names a structure twice; expected one row a structure")
    return {row.structure: row for row in rows}


def _checked(row: dict[str, str], path: Path | None) -> Effect:
    name = row["structure"]
    known = {label.structure for label in label_table().values()}
    if name not in known:
        raise UserError(f"effects table {path} names '{name}'; expected a structure of the label table")
    numbers: dict[str, float] = {}
    for column in list(Effect.__dataclass_fields__)[1:]:
        try:
            numbers[column] = float(row[column])
        except (TypeError, ValueError):
            numbers[column] = math.nan
        if not math.isfinite(numbers[column]):
            raise UserError(f"effects table {path}: {column} of {name} is '{row[column]}'; expected a number")
    wrong = {
        "ml_at_30": numbers["ml_at_30"] <= 0,
        "sd_percent": numbers["sd_percent"] < 0,
        "loading": abs(numbers["loading"]) > 1,
        "male_percent": numbers["male_percent"] <= -100,
    }
    for column, bad in wrong.items():
        if bad:
            raise UserError(
                f"effects table {path}: {column} of {name} is {row[column]}; expected ml_at_30 above 0, sd_percent not "
                "negative, loading from -1 to 1 and male_percent above -100"
            )
    return Effect(structure=name, **numbers)


@dataclass(frozen=True)
class Person:
    """A simulated person. ``icv_ml`` in mL; ``residuals``: structure → log deviation from the person's expectation."""

    age: float
    sex: str
    diagnosis: str
    stage: int
    severity: float
    icv_ml: float
    residuals: dict[str, float]

    def as_params(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def log_targets(self, table: Path | None = None) -> dict[str, float]:
        """Structure → log of the volume (mL) asked for, at the mean head size, by an effects table."""
        male = 1.0 if self.sex == "M" else 0.0
        wanted = {}
        for name, effect in effects(table).items():
            wanted[name] = (
                math.log(effect.ml_at_30)
                + effect.log_age_change(self.age)
                + math.log1p(effect.male_percent / 100) * (male - 0.5)
                + effect.log_disease_change(self.diagnosis, self.stage, self.severity)
                + self.residuals[name]
            )
        return wanted


def draw_person(
    rng: np.random.Generator,
    ages: tuple[float, float],
    diagnoses: Mapping[str, float],
    stage_weights: Mapping[int, float] = STAGE_MIX,
    table: Path | None = None,
) -> Person:
    """Draw one person: age uniform in ``ages`` (years), diagnosis by the weights given, sex even.

    Volumes of one person correlate through one common factor (``loading``; ventricles against it).
    """
    names, weights = zip(*diagnoses.items(), strict=True)
    diagnosis = str(rng.choice(names, p=np.array(weights) / sum(weights)))
    sex = "M" if rng.random() < 0.5 else "F"
    shares = np.array(list(stage_weights.values()), np.float64)
    stage = int(rng.choice(list(stage_weights), p=shares / shares.sum())) if diagnosis == "PD" else 0
    severity = float(np.exp(SEVERITY_SD * rng.standard_normal())) if diagnosis != "CN" else 0.0
    icv = ICV_FEMALE_ML * (ICV_MALE_RATIO if sex == "M" else 1.0) * math.exp(ICV_SD * float(rng.standard_normal()))
    common = float(rng.standard_normal())
    residuals = {}
    for name, effect in effects(table).items():
        own = math.sqrt(1 - effect.loading**2) * float(rng.standard_normal())
        residuals[name] = round(math.log1p(effect.sd_percent / 100) * (effect.loading * common + own), 6)
    age = round(float(rng.uniform(*ages)), 2)
    return Person(age, sex, diagnosis, stage, round(severity, 4), round(icv, 1), residuals)
