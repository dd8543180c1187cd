"""Batched augmentation: one generator, per-volume chances, images and label maps moved together."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pretrain.augment import (
    Augmentation,
    augmented,
    blurred,
    checked_range,
    cut_out,
    generator_on,
    geometry,
    recoloured,
    warp,
)
from synth.errors import UserError

NEVER = (0.0, 0.0, 0.0)
STILL = Augmentation(
    mirror=0.0,
    rotation=NEVER,
    scale=(0.0, 1.0, 1.0),
    shift=NEVER,
    crop=(0.0, 1.0, 1.0),
    gamma=(0.0, 1.0, 1.0),
    bias=NEVER,
    blur=NEVER,
    noise=NEVER,
    cutout=NEVER,
)


def but(**changes: object) -> Augmentation:
    return Augmentation(**{**STILL.__dict__, **changes})  # type: ignore[arg-type]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def heads(count: int = 4, shape: tuple[int, int, int] = (16, 20, 12)) -> torch.Tensor:
    return torch.rand(count, 1, *shape, generator=seeded(9))


def test_a_view_is_a_function_of_its_generator_alone() -> None:
    torch.manual_seed(1)
    first = augmented(heads(), seeded(3), Augmentation())
    torch.manual_seed(2)
    assert torch.equal(first, augmented(heads(), seeded(3), Augmentation()))
    assert not torch.equal(first, augmented(heads(), seeded(4), Augmentation()))
    assert (first >= 0).all() and first.shape == heads().shape


def test_with_every_chance_at_zero_a_volume_stays_as_it_is_but_for_its_scale() -> None:
    image = heads()
    top = image.amax((1, 2, 3, 4), keepdim=True)
    assert torch.allclose(augmented(image, seeded(0), STILL), image / top, atol=1e-5)


def test_a_chance_of_a_half_spares_about_half_of_the_volumes() -> None:
    image = heads(64) / heads(64).amax((1, 2, 3, 4), keepdim=True)
    changed = (recoloured(image, seeded(1), but(gamma=(0.5, 1.5, 2.0))) - image).abs().amax((1, 2, 3, 4)) > 1e-4
    assert 20 <= int(changed.sum()) <= 44  # 4 SD of a binomial of 64


def test_mirrored_is_left_for_right_exactly() -> None:
    image = heads()
    assert torch.allclose(warp(image, geometry(image, seeded(0), but(mirror=1.0))), image.flip(2), atol=1e-5)


def test_a_turn_keeps_distances_in_voxels_whatever_the_shape() -> None:
    image = heads(8, (16, 24, 10))
    matrix = geometry(image, seeded(2), but(rotation=(1.0, 20.0, 40.0)))[:, :, :3]
    extent = torch.tensor([10.0, 24.0, 16.0])  # W, H, D
    in_voxels = matrix * extent[:, None] / extent
    assert torch.allclose(in_voxels @ in_voxels.mT, torch.eye(3).expand(8, 3, 3), atol=1e-5)
    assert (in_voxels - torch.eye(3)).abs().amax() > 0.1


def test_a_crop_looks_at_a_part_that_lies_inside() -> None:
    image = heads(32)
    matrix = geometry(image, seeded(5), but(crop=(1.0, 0.5, 0.8)))
    corners = torch.tensor([[a, b, c, 1.0] for a in (-1.0, 1.0) for b in (-1.0, 1.0) for c in (-1.0, 1.0)])
    seen = corners @ matrix.mT
    assert seen.abs().amax() <= 1 + 1e-6
    width = (seen.amax(1) - seen.amin(1)) / 2
    assert 0.5 <= float(width.min()) < float(width.max()) <= 0.8


def test_a_label_map_moves_with_its_image() -> None:
    label = torch.zeros(4, 1, 24, 24, 24)
    label[:, :, 6:14, 8:18, 5:12] = 1
    matrix = geometry(label, seeded(7), Augmentation())
    moved, image = warp(label, matrix, "nearest"), warp(label, matrix)
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    assert ((image > 0.5) == (moved > 0.5)).float().mean() > 0.97
    assert not torch.equal(moved, label)


@pytest.mark.parametrize("sigma", [0.6, 1.5])
def test_blur_is_a_gaussian(sigma: float) -> None:
    from scipy.ndimage import gaussian_filter

    image = heads(2)
    widths = torch.tensor([[sigma, sigma, sigma], [0.0, 0.0, 0.0]])
    found = blurred(image, widths, 1.5)
    expected = gaussian_filter(image[0, 0].numpy(), sigma, mode="nearest", truncate=3 / sigma)
    assert np.allclose(found[0, 0].numpy(), expected, atol=1e-4)
    assert torch.allclose(found[1], image[1], atol=1e-6)


def test_a_cutout_is_a_box_of_the_size_asked_for() -> None:
    gone = cut_out(torch.ones(16, 1, 20, 20, 20), seeded(3), (1.0, 0.5, 0.5)) == 0
    for volume in gone[:, 0]:
        edges = [int(volume.any(dim=tuple(a for a in range(3) if a != axis)).sum()) for axis in range(3)]
        assert all(9 <= edge <= 11 for edge in edges)
        assert int(volume.sum()) == math.prod(edges)


def test_a_generator_of_the_same_device_is_used_itself() -> None:
    generator = seeded(1)
    assert generator_on(torch.device("cpu"), generator) is generator


@pytest.mark.parametrize("given", [(0.5, 0.2), (1.5, 0.2, 0.4), (0.5, 0.4, 0.2), (0.5, 0.2, 2.0)])
def test_a_range_that_cannot_be_is_refused(given: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match=r"--objective\.crop is .*; expected probability,low,high"):
        checked_range("crop", given, 0.1, 1.0)
