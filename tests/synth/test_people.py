"""Simulated people: what age, sex and disease do to their volumes."""

from __future__ import annotations

import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.anatomy.labels import label_table
from synth.anatomy.people import DIAGNOSES, Person, draw_person, effects
from synth.errors import UserError
from synth.keys import rng_for

AGES = st.floats(20, 90)
VENTRICLES = ("lateral_ventricle", "inferior_lateral_ventricle", "third_ventricle")


def person(**changes: Any) -> Person:
    """A woman of 30, average in everything."""
    plain = {
        "age": 30.0,
        "sex": "F",
        "diagnosis": "CN",
        "stage": 0,
        "severity": 0.0,
        "icv_ml": 1400.0,
        "residuals": dict.fromkeys(effects(), 0.0),
    }
    return Person(**{**plain, **changes})


def change(one: Person, other: Person, structure: str) -> float:
    return other.log_targets()[structure] - one.log_targets()[structure]


def test_every_structure_of_the_effects_table_is_in_the_label_table() -> None:
    assert set(effects()) <= {label.structure for label in label_table().values()}


@given(st.floats(50, 89), st.floats(0.5, 10))
def test_from_fifty_on_brain_shrinks_and_ventricles_grow(age: float, years: float) -> None:
    older = min(age + years, 90.0)
    for structure in ("hippocampus", "cerebral_cortex", "amygdala", "thalamus"):
        assert change(person(age=age), person(age=older), structure) < 0
    for structure in VENTRICLES:
        assert change(person(age=age), person(age=older), structure) > 0


@given(AGES)
def test_the_age_change_is_continuous_and_zero_at_the_reference_age(age: float) -> None:
    for effect in effects().values():
        assert effect.log_age_change(30.0) == 0
        assert abs(effect.log_age_change(min(age + 0.01, 90)) - effect.log_age_change(age)) < 0.01 * 0.06


@pytest.mark.parametrize("low, high, rate", [(20, 50, "rate_20_50"), (50, 70, "rate_50_70"), (70, 90, "rate_70_90")])
def test_yearly_rates_are_those_of_the_table(low: float, high: float, rate: str) -> None:
    for effect in effects().values():
        yearly = (effect.log_age_change(high) - effect.log_age_change(low)) / (high - low)
        assert math.isclose(100 * yearly, getattr(effect, rate), abs_tol=1e-9)


@given(AGES, st.floats(0.3, 3.0))
def test_ad_shrinks_the_hippocampus_and_opens_the_ventricles_more_than_mci(age: float, severity: float) -> None:
    healthy, mci, ad = (person(age=age, diagnosis=d, severity=severity) for d in ("CN", "MCI", "AD"))
    for structure in ("hippocampus", "amygdala", "cerebral_cortex"):
        assert change(healthy, ad, structure) < change(healthy, mci, structure) < 0
    for structure in VENTRICLES:
        assert change(healthy, ad, structure) > change(healthy, mci, structure) > 0


@pytest.mark.parametrize("diagnosis, column", [("AD", "ad_d"), ("PD", "pd_d")])
def test_groups_differ_by_the_cohens_d_of_the_table(diagnosis: str, column: str) -> None:
    drawn = {d: [draw_person(rng_for(7, i), (70, 70), {d: 1.0}) for i in range(3000)] for d in ("CN", diagnosis)}
    for name, effect in effects().items():
        spread = math.log1p(effect.sd_percent / 100)
        shift = np.array([effect.log_disease_change(p.diagnosis, p.stage, p.severity) for p in drawn[diagnosis]])
        realised = shift.mean() / math.sqrt(spread**2 + shift.var() / 2)
        assert realised == pytest.approx(getattr(effect, column), abs=0.05), name


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("hippocampus\t", "hipocampus\t", "hipocampus"),
        ("\t8.3\t", "\tmany\t", "ml_at_30 of hippocampus"),
        ("\t11\t0.5\t", "\t-11\t0.5\t", "sd_percent of hippocampus"),
        ("\t11\t0.5\t", "\t9.5\t1.5\t", "loading of hippocampus"),
        ("loading", "lauding", "lacks the column loading"),
    ],
)
def test_a_bad_effects_table_is_refused_in_one_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = (resources.files("synth.anatomy") / "data" / "effects.tsv").read_text()
    assert old in text
    (tmp_path / "mine.tsv").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=said):
        effects(tmp_path / "mine.tsv")


def test_pd_is_mild_and_grows_with_stage() -> None:
    putamen = [change(person(), person(diagnosis="PD", stage=s, severity=1.0), "putamen") for s in (1, 2, 3, 4)]
    assert putamen == sorted(putamen, reverse=True) and -0.1 < putamen[-1] < putamen[0] < 0
    assert abs(change(person(), person(diagnosis="PD", stage=4, severity=1.0), "hippocampus")) < 0.05


def test_severity_says_nothing_about_healthy_people() -> None:
    assert person(severity=2.0).log_targets() == person().log_targets()


def test_men_have_larger_heads_and_what_sex_changes_apart_from_that_is_in_the_table() -> None:
    for name, effect in effects().items():
        assert math.isclose(
            100 * math.expm1(change(person(sex="F"), person(sex="M"), name)), effect.male_percent, abs_tol=1e-9
        )
    drawn = [draw_person(rng_for(0, i), (20, 90), {"CN": 1.0}) for i in range(400)]
    icv = {sex: np.mean([p.icv_ml for p in drawn if p.sex == sex]) for sex in "FM"}
    assert 1.10 < icv["M"] / icv["F"] < 1.19


@given(st.integers(0, 10_000), st.tuples(AGES, AGES).map(lambda pair: tuple(sorted(pair))), st.sampled_from(DIAGNOSES))
def test_a_drawn_person_is_who_was_asked_for(seed: int, ages: tuple[float, float], diagnosis: str) -> None:
    drawn = draw_person(rng_for(seed, 0), ages, {diagnosis: 1.0})
    assert ages[0] - 0.005 <= drawn.age <= ages[1] + 0.005
    assert drawn.diagnosis == diagnosis and drawn.sex in "FM"
    assert (drawn.stage > 0) == (diagnosis == "PD") and (drawn.severity > 0) == (diagnosis != "CN")
    assert set(drawn.residuals) == set(effects())
    assert Person(**json.loads(json.dumps(drawn.as_params()))) == drawn


def test_diagnoses_come_in_the_proportions_asked_for() -> None:
    drawn = [draw_person(rng_for(1, i), (60, 80), {"CN": 3.0, "AD": 1.0, "PD": 0.0}).diagnosis for i in range(800)]
    assert drawn.count("PD") == 0
    assert 0.69 < drawn.count("CN") / 800 < 0.81


def test_volumes_of_one_person_go_together_and_ventricles_against_them() -> None:
    drawn = [draw_person(rng_for(3, i), (40, 40), {"CN": 1.0}).residuals for i in range(3000)]
    columns = np.array([[d[n] for n in ("hippocampus", "putamen", "lateral_ventricle")] for d in drawn])
    together = np.corrcoef(columns.T)
    assert together[0, 1] > 0.1 and together[0, 2] < -0.1
    for at, name in enumerate(("hippocampus", "putamen", "lateral_ventricle")):
        expected = math.log1p(effects()[name].sd_percent / 100)
        assert math.isclose(columns[:, at].std(), expected, rel_tol=0.06)
