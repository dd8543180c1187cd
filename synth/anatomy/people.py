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
from typing import Any

import numpy as np

DIAGNOSES = ("CN", "MCI", "AD", "PD")
ICV_FEMALE_ML = 1385.0  # intracranial volume; with men 14.5 % larger the mean is 1485 mL (291 IXI people, DLMUSE)
ICV_MALE_RATIO = 1.145
ICV_SD = 0.083
STAGE_MIX = {1: 0.25, 2: 0.45, 3: 0.20, 4: 0.10}  # Hoehn & Yahr; a clinic's mix, a setting of ours
STAGE_FACTOR = {1: 0.5, 2: 1.0, 3: 1.5, 4: 3.0}  # effect relative to stage 2 [M]
REFERENCE_AGE = 30.0
SEVERITY_SD = 0.3  # log-normal spread of the disease effect between patients [M]


@dataclass(frozen=True)
class Effect:
    """One row of the effects table; rates in % per year, the rest in %."""

    structure: str
    ml_at_30: float
    rate_20_50: float
    rate_50_70: float
    rate_70_90: float
    sd_percent: float
    loading: float
    male_percent: float
    ad_percent: float
    mci_share: float
    pd_percent: float

    def log_age_change(self, age: float) -> float:
        """Log volume change from age 30 to ``age`` (years): the integral of the yearly rates."""

        def integral(to: float) -> float:
            years = ((20.0, 50.0, self.rate_20_50), (50.0, 70.0, self.rate_50_70), (70.0, 90.0, self.rate_70_90))
            return sum(rate / 100 * (min(max(to, low), high) - low) for low, high, rate in years)

        return integral(age) - integral(REFERENCE_AGE)

    def log_disease_change(self, diagnosis: str, stage: int, severity: float) -> float:
        """Log volume change against a healthy person of the same age."""
        if diagnosis == "AD":
            return math.log1p(self.ad_percent / 100) * severity
        if diagnosis == "MCI":
            return math.log1p(self.ad_percent * self.mci_share / 100) * severity
        if diagnosis == "PD":
            return math.log1p(self.pd_percent / 100) * STAGE_FACTOR[stage] * severity
        return 0.0


@cache
def effects() -> Mapping[str, Effect]:
    """The effects table, structure → row."""
    text = (resources.files("synth.anatomy") / "data" / "effects.tsv").read_text()
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return {
        r["structure"]: Effect(
            **{
                k: r[k] if k == "structure" else float(r[k])  # type: ignore[arg-type]
                for k in Effect.__dataclass_fields__
            }
        )
        for r in rows
    }


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

    def log_targets(self) -> dict[str, float]:
        """Structure → log of the volume (mL) asked for, at the mean head size."""
        male = 1.0 if self.sex == "M" else 0.0
        wanted = {}
        for name, effect in effects().items():
            wanted[name] = (
                math.log(effect.ml_at_30)
                + effect.log_age_change(self.age)
                + math.log1p(effect.male_percent / 100) * (male - 0.5)
                + effect.log_disease_change(self.diagnosis, self.stage, self.severity)
                + self.residuals[name]
            )
        return wanted


def draw_person(rng: np.random.Generator, ages: tuple[float, float], diagnoses: Mapping[str, float]) -> Person:
    """Draw one person: age uniform in ``ages`` (years), diagnosis by the weights given, sex even.

    Volumes of one person correlate through one common factor (``loading``; ventricles against it).
    """
    names, weights = zip(*diagnoses.items(), strict=True)
    diagnosis = str(rng.choice(names, p=np.array(weights) / sum(weights)))
    sex = "M" if rng.random() < 0.5 else "F"
    stage = int(rng.choice(list(STAGE_MIX), p=list(STAGE_MIX.values()))) if diagnosis == "PD" else 0
    severity = float(np.exp(SEVERITY_SD * rng.standard_normal())) if diagnosis != "CN" else 0.0
    icv = ICV_FEMALE_ML * (ICV_MALE_RATIO if sex == "M" else 1.0) * math.exp(ICV_SD * float(rng.standard_normal()))
    common = float(rng.standard_normal())
    residuals = {}
    for name, effect in effects().items():
        own = math.sqrt(1 - effect.loading**2) * float(rng.standard_normal())
        residuals[name] = round(math.log1p(effect.sd_percent / 100) * (effect.loading * common + own), 6)
    age = round(float(rng.uniform(*ages)), 2)
    return Person(age, sex, diagnosis, stage, round(severity, 4), round(icv, 1), residuals)
