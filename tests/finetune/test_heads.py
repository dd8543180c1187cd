"""Heads: holes are filled and never drop a column, penalties are chosen by person, probabilities are of the classes as they are."""

from __future__ import annotations

import numpy as np
import pytest

from finetune import heads
from finetune.heads import fit_linear, unbalanced
from finetune.metrics import brier, calibration, roc_auc


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape)


def test_a_missing_value_costs_one_persons_value_and_not_the_column() -> None:
    age = np.linspace(50, 80, 60)
    target = (noise(1, 60) * 5 + age > 65).astype(float)
    features = np.c_[age, noise(2, 60)]
    order = np.random.Generator(np.random.Philox(3)).permutation(60)
    train, test = order[:40], order[40:]
    holed = features.copy()
    holed[[train[0], test[0]], 0] = np.nan
    found = fit_linear(holed[train], target[train], holed[test], True, 0, np.arange(40))
    assert np.isfinite(found.test).all()
    assert roc_auc(target[test[1:]], found.test[1:]) > 0.8  # of the noise column alone it is one half


def test_ridges_penalty_is_not_chosen_on_other_scans_of_the_same_person() -> None:
    people = np.repeat(np.arange(24), 4)
    identity = noise(4, 24, 200)[people] + 0.01 * noise(5, 96, 200)  # who somebody is, and nothing of the age
    age = np.random.Generator(np.random.Philox(6)).uniform(50, 80, 24)[people]
    by_person = fit_linear(identity, age, identity, False, 0, people).chosen["alpha"]
    by_scan = fit_linear(identity, age, identity, False, 0, np.arange(96)).chosen["alpha"]
    assert by_scan < 10 < 1000 <= by_person


def test_one_scan_a_person_is_left_out_one_by_one_as_ever() -> None:
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    from finetune.heads import STRENGTHS

    features, age = noise(7, 40, 10), noise(8, 40) * 10 + 60
    expected = RidgeCV(STRENGTHS).fit(StandardScaler().fit_transform(features), age).alpha_
    assert fit_linear(features, age, features, False, 0, np.arange(40)).chosen == {"alpha": expected}


def test_undoing_the_balance_moves_one_half_to_the_prevalence_and_keeps_the_order() -> None:
    probability = np.array([0.0, 0.2, 0.5, 0.9, 1.0])
    found = unbalanced(probability, 0.1)
    assert found == pytest.approx([0, 0.02 / 0.74, 0.1, 0.09 / 0.1 / (0.09 / 0.1 + 0.1 * 0.9 / 0.1), 1.0])
    assert (np.diff(found) > 0).all()


def test_probabilities_of_rare_patients_are_calibrated() -> None:
    rng = np.random.Generator(np.random.Philox(9))
    target = (rng.random(1200) < 0.1).astype(float)
    features = rng.standard_normal((1200, 3)) + target[:, None]
    fitted = fit_linear(features[:600], target[:600], features[600:], True, 0, np.arange(600))
    prevalence = target[:600].mean()
    assert abs(fitted.test.mean() - prevalence) < 0.03 and abs(fitted.inner.mean() - prevalence) < 0.03
    assert calibration(target[600:], fitted.test[None])["expected_calibration_error"] < 0.05
    assert brier(target[600:], fitted.test) < brier(target[600:], np.full(600, prevalence))


@pytest.mark.parametrize("classification", [True, False])
def test_more_features_than_people_give_what_all_of_the_features_give(
    classification: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(60, 200)).astype(np.float32)
    target = features[:, :5].sum(1) + rng.normal(size=60)
    target = (target > 0).astype(float) if classification else target + 60
    learn, asked = slice(0, 40), slice(40, 60)
    given = (features[learn], target[learn], features[asked], classification, 0, np.arange(40))
    found = fit_linear(*given)
    scaled = heads._scaled
    monkeypatch.setattr(heads, "_scaled", lambda model, holes, wide: scaled(model, holes, False))
    whole = fit_linear(*given)
    assert found.chosen == whole.chosen
    assert found.test == pytest.approx(whole.test, rel=1e-4) and found.inner == pytest.approx(whole.inner, rel=1e-4)
