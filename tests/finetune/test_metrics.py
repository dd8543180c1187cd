"""Metrics against scikit-learn, and intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from finetune.metrics import (
    WEIGHTED,
    Metric,
    balanced_accuracy,
    brier,
    drawn,
    f1,
    gain,
    mean_absolute_error,
    mean_gap,
    pearson_r,
    r_squared,
    roc_auc,
    sensitivity,
    specificity,
    threshold_at,
    with_interval,
)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=4, max_size=40))
def test_auc_and_balanced_accuracy_equal_scikit_learns(rows: list[tuple[bool, int]]) -> None:
    target = np.array([float(row[0]) for row in rows])
    score = np.array([row[1] / 6 for row in rows])
    if len(set(target)) < 2:
        assert np.isnan(roc_auc(target, score)) and np.isnan(balanced_accuracy(target, score))
        return
    assert roc_auc(target, score) == pytest.approx(roc_auc_score(target, score))
    assert balanced_accuracy(target, score) == pytest.approx(balanced_accuracy_score(target, score > 0.5))


def test_the_interval_holds_the_value_and_narrows_with_people() -> None:
    rng = np.random.Generator(np.random.Philox(1))
    widths = []
    for people in (40, 400):
        target = (rng.random(people) < 0.5).astype(float)
        score = np.clip(0.5 + 0.2 * (target - 0.5) + 0.3 * rng.standard_normal((3, people)), 0, 1)
        found = with_interval(roc_auc, target, score)
        assert found["low"] < found["value"] < found["high"]
        widths.append(found["high"] - found["low"])
    assert widths[1] < 0.6 * widths[0]


def test_a_gain_is_positive_where_ours_is_better_whatever_the_metric() -> None:
    rng = np.random.Generator(np.random.Philox(2))
    age = rng.uniform(20, 80, 60)
    close, far = age + rng.normal(0, 3, (2, 60)), age + rng.normal(0, 12, (2, 60))
    saved = gain(mean_absolute_error, age, close, far)
    assert saved["low"] > 0
    target = (rng.random(60) < 0.5).astype(float)
    sharp, dull = target + rng.normal(0, 0.3, (2, 60)), rng.normal(0, 1, (2, 60))
    assert gain(roc_auc, target, sharp, dull)["low"] > 0
    assert gain(roc_auc, target, dull, dull)["value"] == 0


FIVE = np.array([1.0, 1.0, 1.0, 0.0, 0.0])
SAID = np.array([0.9, 0.6, 0.2, 0.7, 0.1])  # two of three patients called, one of two healthy people called too


def test_metrics_of_classes_are_the_worked_example() -> None:
    assert f1(FIVE, SAID) == pytest.approx(4 / 6)  # 2 · 2 / (3 called + 3 patients)
    assert f1(FIVE, np.zeros(5)) == 0
    assert brier(FIVE, SAID) == pytest.approx((0.01 + 0.16 + 0.64 + 0.49 + 0.01) / 5)
    assert sensitivity(FIVE, SAID) == pytest.approx(2 / 3)
    assert specificity(FIVE, SAID) == pytest.approx(1 / 2)
    assert balanced_accuracy(FIVE, SAID) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert roc_auc(FIVE, SAID) == pytest.approx(4 / 6)  # of six pairs 0.6 and 0.2 lose to 0.7
    assert np.isnan(sensitivity(np.zeros(3), np.ones(3))) and np.isnan(specificity(np.ones(3), np.ones(3)))


def test_metrics_of_numbers_are_the_worked_example() -> None:
    age, said = np.array([60.0, 70.0, 80.0]), np.array([62.0, 68.0, 74.0])
    assert mean_absolute_error(age, said) == pytest.approx((2 + 2 + 6) / 3)
    assert mean_gap(age, said) == pytest.approx((2 - 2 - 6) / 3)
    assert r_squared(age, said) == pytest.approx(1 - (4 + 4 + 36) / 200)
    assert pearson_r(age, said) == pytest.approx(1.0)
    assert pearson_r(age, np.array([62.0, 74.0, 68.0])) == pytest.approx(0.5)
    assert pearson_r(age, np.full(3, 70.0)) == 0
    assert r_squared(age, np.full(3, 70.0)) == 0


def test_the_threshold_is_the_score_below_which_nine_of_ten_healthy_people_lie() -> None:
    target, score = np.array([0.0] * 10 + [1.0] * 4), np.array([*np.arange(10) / 10, 0.5, 0.85, 0.95, 1.0])
    threshold = threshold_at(target, score)
    assert threshold == 0.9
    said = (score > threshold).astype(float)
    assert (specificity(target, said), sensitivity(target, said)) == (1.0, 0.5)
    assert threshold_at(target, score, wanted=0.5) == 0.5


@pytest.mark.parametrize("metric", WEIGHTED, ids=lambda metric: metric.__name__)
@pytest.mark.parametrize("scans", [1, 2])
def test_all_draws_at_once_are_what_each_draw_gives(metric: Metric, scans: int) -> None:
    """Whoever is drawn twice counts twice; of several scans all go along; a draw without one class has no AUC."""
    rng = np.random.Generator(np.random.Philox(3))
    target = np.repeat((rng.random(12) < 0.3).astype(float), scans)
    if metric in (pearson_r, r_squared, mean_absolute_error, mean_gap):
        target = target + rng.normal(60, 9, len(target))
    said = np.round(target - target.mean() + rng.normal(0, 1, (3, len(target))), 1)  # with ties
    said[2] = said[2, 0]  # one predicts the same for everybody
    people = np.repeat(np.arange(12), scans)
    at_once = drawn(metric, target, said, people, 60)
    one_by_one = drawn(lambda *pair: metric(*pair), target, said, people, 60)
    assert at_once == pytest.approx(one_by_one, nan_ok=True)
    assert len(np.unique(at_once)) > 5
