"""Metrics against scikit-learn, and intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from finetune.metrics import balanced_accuracy, gain, mean_absolute_error, roc_auc, with_interval


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
