"""Backbones: one table, pooled features and maps, clear words for shapes they cannot take."""

from __future__ import annotations

import pytest
import torch

from pretrain.backbones import BACKBONES, SFCN, ViT, count_parameters, describe, make_backbone, sincos_positions
from synth.errors import UserError

SMALL = ("vit_xs", "sfcn_s", "sfcn")


@pytest.mark.parametrize("name", SMALL)
def test_a_backbone_gives_one_feature_vector_a_volume_and_a_map_that_pools_to_it(name: str) -> None:
    backbone = make_backbone(name, (32, 40, 32)).eval()
    image = torch.randn(2, 1, 32, 40, 32)
    with torch.no_grad():
        feature, maps = backbone(image), backbone.feature_map(image)
    assert feature.shape == (2, backbone.feature_size)
    assert maps.shape[:2] == (2, backbone.feature_size)
    assert torch.allclose(maps.mean((2, 3, 4)), feature, atol=1e-5)


@pytest.mark.parametrize("name", ["densenet121", "resnet18"])
def test_monai_backbones_run_without_their_classifier(name: str) -> None:
    backbone = make_backbone(name, (32, 32, 32)).eval()
    with torch.no_grad():
        assert backbone(torch.randn(1, 1, 32, 32, 32)).shape == (1, backbone.feature_size)


def test_published_parameter_counts() -> None:
    counts = {row["backbone"]: row["parameters"] for row in describe()}
    assert set(counts) == set(BACKBONES)
    assert 85e6 < counts["vit_b"] < 90e6  # ViT-B/16 in 3-D: about 88 M
    assert 11.0e6 < counts["densenet121"] < 11.5e6  # about 11.2 M
    assert 2.8e6 < counts["sfcn"] < 3.1e6  # Peng et al. 2021: about 3 M


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, second, other = (make_backbone("sfcn_s", (32, 40, 32), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    first_state, second_state = first.state_dict(), second.state_dict()
    assert all(torch.equal(first_state[name], second_state[name]) for name in first_state)
    assert any(not torch.equal(first_state[name], tensor) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize("name, shape", [("vit_xs", (30, 40, 32)), ("vit_b", (40, 48, 40)), ("sfcn_s", (8, 40, 40))])
def test_a_shape_that_cannot_be_taken_is_refused_and_one_that_can_is_named(
    name: str, shape: tuple[int, int, int]
) -> None:
    with pytest.raises(UserError, match="expected") as caught:
        make_backbone(name, shape)
    fitting = tuple(int(n) for n in str(caught.value).rsplit(" ", 1)[1].split(","))
    make_backbone(name, fitting)  # type: ignore[arg-type]


def test_a_misspelt_backbone_lists_the_near_ones() -> None:
    with pytest.raises(UserError, match="vit_xs"):
        make_backbone("vit-xs", (32, 40, 32))


def test_positions_differ_for_every_token() -> None:
    positions = sincos_positions((4, 5, 4), 128)
    assert positions.shape == (80, 128)
    assert torch.cdist(positions, positions).fill_diagonal_(1).min() > 1e-3


def test_a_vit_encodes_only_the_tokens_it_is_told_to_keep() -> None:
    backbone = make_backbone("vit_xs", (32, 40, 32)).eval()
    assert isinstance(backbone, ViT)
    image = torch.randn(1, 1, 32, 40, 32)
    keep = torch.tensor([[0, 3, 7]])
    changed = image.clone()
    changed[..., -8:] += 5.0  # the last patch along W belongs to tokens 3, 7, 11 …: hidden ones must not matter
    hidden = image.clone()
    hidden[..., 8:16] += 5.0  # tokens 1, 5, 9 …
    with torch.no_grad():
        kept = backbone.tokens(image, keep)
        assert torch.equal(kept, backbone.tokens(hidden, keep))
        assert not torch.equal(kept, backbone.tokens(changed, keep))


def test_an_sfcn_has_the_widths_asked_for() -> None:
    backbone = SFCN((32, 32, 32), 2, (4, 8, 16))
    assert backbone.feature_size == 16
    assert count_parameters(backbone) == 2 * 4 * 27 + 4 * 8 * 27 + 8 * 16 + 2 * (4 + 8 + 16)
