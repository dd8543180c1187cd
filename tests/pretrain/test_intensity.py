"""Standardising and augmenting."""

from __future__ import annotations

import torch

from pretrain.intensity import CLIP, augment, standardise


def head(seed: int = 0) -> torch.Tensor:
    image = torch.zeros(2, 1, 16, 16, 16)
    image[..., 4:12, 4:12, 4:12] = 0.5 + 0.3 * torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(seed))
    return image


def test_foreground_gets_zero_mean_and_unit_spread() -> None:
    image = head()
    inside = standardise(image)[image > 0]
    assert abs(float(inside.mean())) < 1e-4
    assert abs(float(inside.std()) - 1) < 1e-2


def test_a_scanner_gain_changes_nothing() -> None:
    assert torch.allclose(standardise(head()), standardise(head() * 731.0), atol=1e-3)


def test_values_stay_within_the_clip_and_an_empty_volume_stays_finite() -> None:
    image = head()
    image[0, 0, 6, 6, 6] = 1e6
    assert standardise(image).abs().max() <= CLIP
    assert torch.isfinite(standardise(torch.zeros(1, 1, 8, 8, 8))).all()


def test_augmentation_is_a_function_of_its_generator_alone() -> None:
    first, second, third = (augment(head(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert (first >= 0).all()
