"""The site probe: small sites cost nobody the figure, and the figure has an interval."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.sites import mean_recall, site_probe


def probe(sites: list[str], apart: float) -> dict[str, float] | None:
    names = np.array(sites)
    features = np.random.Generator(np.random.Philox(1)).standard_normal((len(names), 5))
    features[:, 0] += apart * (names == "north")
    return site_probe(features, names, np.arange(len(names)), 0)


def test_a_site_of_two_people_is_left_out_and_the_others_are_told_apart() -> None:
    found = probe(["north"] * 20 + ["south"] * 20 + ["tiny"] * 2 + ["nan"] * 5, 6.0)  # nan: not known
    assert found is not None
    assert (found["chance"], found["sites"], found["left_out"]) == (0.5, 2, 1)
    assert 0.9 < found["low"] <= found["balanced_accuracy"] <= found["high"] <= 1


def test_features_that_say_nothing_of_the_site_are_at_chance() -> None:
    found = probe(["north"] * 60 + ["south"] * 20, 0.0)
    assert found is not None and found["low"] < 0.5 < found["high"]


def test_scans_of_one_person_do_not_make_a_site_large_enough() -> None:
    names = np.array(["north"] * 6 + ["south"] * 6)
    people = np.array([0, 1, 2, 3, 4, 5, *[6] * 6])
    assert site_probe(np.ones((12, 2)), names, people, 0) is None


def test_mean_recall_is_the_worked_example() -> None:
    assert mean_recall(np.array([0.0, 0, 1, 2]), np.array([0.0, 1, 1, 1])) == pytest.approx((0.5 + 1 + 0) / 3)
