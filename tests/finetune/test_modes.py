"""Modes: adapters begin as nothing and train alone, neighbours find a signal, what is fitted is fitted on training people."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.heads import FineTuning, fit_knn, fit_linear
from finetune.lora import add_adapters
from finetune.metrics import age_correction, calibration, corrected, holm, paired_p, roc_auc, threshold_at
from finetune.splits import pick_share
from finetune.tuning import Tuned, fit_tuned
from pretrain.backbones import make_backbone
from synth.errors import UserError

SHAPE = (16, 16, 16)


def test_lora_begins_as_the_frozen_network_and_trains_adapters_and_head_alone() -> None:
    image = torch.rand(2, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    plain = make_backbone("vit_xs", SHAPE, seed=1).eval()
    adapted = add_adapters(make_backbone("vit_xs", SHAPE, seed=1), 4, 0).eval()
    assert torch.equal(plain(image), adapted(image))
    names = {name for name, one in Tuned(adapted, 0).named_parameters() if one.requires_grad}
    assert names and all(name.startswith("head.") or name.endswith((".up", ".down")) for name in names)
    assert {"head.weight", "backbone.blocks.0.qkv.up", "backbone.blocks.3.mlp.2.down"} <= names


def test_lora_refuses_a_network_without_linear_layers() -> None:
    with pytest.raises(UserError, match="sfcn_s has none"):
        add_adapters(make_backbone("sfcn_s", (32, 32, 32)), 4, 0)


def test_training_with_adapters_leaves_the_networks_own_weights_as_they_were() -> None:
    made = []

    def make() -> object:
        made.append(add_adapters(make_backbone("vit_xs", SHAPE, seed=1), 4, 0))
        return made[-1]

    images = torch.rand(8, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    target = np.array([0.0, 1.0] * 4)
    fitted = fit_tuned(make, images, target, images, True, 0, np.arange(8), FineTuning(epochs=2, batch_size=4))  # type: ignore[arg-type]
    fresh = dict(make_backbone("vit_xs", SHAPE, seed=1).named_parameters())
    for name, one in made[-1].named_parameters():
        if not name.endswith((".up", ".down")):
            assert torch.equal(one, fresh[name.replace(".base.", ".")]), name
    assert any(one.abs().sum() > 0 for name, one in made[-1].named_parameters() if name.endswith(".up"))
    assert fitted.chosen == {"learning_rate": 1e-3}


def test_a_learning_rate_is_chosen_on_people_held_out_of_the_training_people() -> None:
    images = torch.rand(16, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    target = np.array([0.0, 1.0] * 8)
    options = FineTuning(epochs=1, batch_size=8, rates=(1e-6, 1e-3))
    fitted = fit_tuned(
        lambda: make_backbone("vit_xs", SHAPE, seed=1), images, target, images[:2], True, 0, np.arange(16), options
    )
    assert fitted.source == "validation" and len(fitted.inner) == 4
    assert fitted.chosen["learning_rate"] in options.rates


@pytest.mark.parametrize("fit, name", [(fit_linear, "C"), (fit_knn, "n_neighbors")])
def test_a_signal_in_the_features_is_found_and_shuffled_labels_are_at_chance(fit: object, name: str) -> None:
    rng = np.random.Generator(np.random.Philox(3))
    target = (np.arange(160) % 2).astype(float)
    features = rng.standard_normal((160, 6))
    features[:, 4] += 3.0 * target
    train, test, whose = np.arange(80), np.arange(80, 160), np.arange(80)
    found = fit(features[train], target[train], features[test], True, 0, whose)  # type: ignore[operator]
    assert roc_auc(target[test], found.test) > 0.85
    assert name in found.chosen and found.source == "out-of-fold"
    aucs = []
    for seed in range(5):
        wrong = np.random.Generator(np.random.Philox(seed)).permutation(target[train])
        aucs.append(roc_auc(target[test], fit(features[train], wrong, features[test], True, 0, whose).test))  # type: ignore[operator]
    assert min(aucs) < 0.5 < max(aucs) or abs(np.mean(aucs) - 0.5) < 0.15


@settings(max_examples=15)
@given(st.integers(20, 60), st.integers(0, 9))
def test_smaller_shares_of_labels_are_part_of_larger_ones(people: int, seed: int) -> None:
    target = (np.arange(people) % 2).astype(float)
    picked = [set(pick_share(np.arange(people), target, True, p, seed)) for p in (25, 50, 75, 100)]
    assert picked[0] < picked[1] < picked[2] < picked[3]
    ours = np.array(sorted(picked[1]))
    assert abs(target[ours].mean() - 0.5) <= 0.1


def test_a_share_that_leaves_nobody_of_a_class_is_refused() -> None:
    with pytest.raises(UserError, match="--fractions 5"):
        pick_share(np.arange(40), (np.arange(40) % 2).astype(float), True, 5, 0)


def test_the_age_correction_takes_away_the_slope_it_was_fitted_on() -> None:
    age = np.linspace(20, 80, 50)
    said = 0.5 * age + 25 + np.sin(age)
    gap = corrected(age, said, age_correction(age, said)) - age
    assert abs(np.corrcoef(age, gap)[0, 1]) < 1e-6 < abs(np.corrcoef(age, said - age)[0, 1])


def test_the_threshold_gives_the_specificity_asked_for_where_it_was_fitted() -> None:
    rng = np.random.Generator(np.random.Philox(1))
    target, score = (rng.random(300) < 0.5).astype(float), rng.random(300)
    assert (score[target < 0.5] <= threshold_at(target, score)).mean() >= 0.9


def test_holm_gives_the_worked_example_and_is_never_below_the_p_it_corrects() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_an_arm_against_itself_has_p_one_and_a_better_one_a_small_p() -> None:
    draws = np.random.Generator(np.random.Philox(2)).normal(0.7, 0.01, 1000)
    assert paired_p(draws, draws) == 1.0
    assert paired_p(draws + 0.1, draws) < 0.01


def test_calibration_of_true_probabilities_is_near_zero_and_of_certain_ones_is_their_error() -> None:
    rng = np.random.Generator(np.random.Philox(4))
    chance = rng.random((1, 4000))
    target = (rng.random(4000) < chance[0]).astype(float)
    assert calibration(target, chance)["expected_calibration_error"] < 0.03
    assert calibration(np.zeros(10), np.ones((1, 10)))["expected_calibration_error"] == pytest.approx(1.0)


def test_with_one_learning_rate_too_thresholds_are_of_people_held_out() -> None:
    images = torch.rand(16, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    target = np.array([0.0, 1.0, 0.0, 0.0] * 4)  # the images say nothing: memory alone would tell the classes apart
    options = FineTuning(epochs=1, batch_size=8, learning_rate=1e-3)
    fitted = fit_tuned(
        lambda: make_backbone("vit_xs", SHAPE, seed=1), images, target, images[:2], True, 0, np.arange(16), options
    )
    assert fitted.source == "validation" and len(fitted.inner) == len(fitted.inner_target) == 4
    assert fitted.chosen == {"learning_rate": 1e-3}


def test_a_tuned_network_that_learnt_nothing_says_the_prevalence() -> None:
    images = torch.zeros(16, 1, *SHAPE)
    target = np.array([0.0, 1.0, 0.0, 0.0] * 4)
    options = FineTuning(epochs=1, batch_size=16, learning_rate=1e-9)
    fitted = fit_tuned(
        lambda: make_backbone("vit_xs", SHAPE, seed=1), images, target, images[:2], True, 0, np.arange(16), options
    )
    assert 0.1 < fitted.test[0] < 0.45  # one in four, give or take what a random head says; balanced it is near 0.5
