"""Backbones: one table, pooled features and maps, clear words for shapes they cannot take."""

from __future__ import annotations

import pytest
import torch

from pretrain.backbones import (
    BACKBONES,
    SFCN,
    Backbone,
    ViT,
    count_parameters,
    find_backbone,
    make_backbone,
    sincos_positions,
    spell,
)
from pretrain.backbones.vit import attention
from synth.errors import UserError

SMALL = ("vit_xs", "sfcn_s", "sfcn")
PUBLISHED = {
    "vit_b": (85e6, 90e6),  # ViT-B/16 in 3-D: about 88 M
    "densenet121": (11.0e6, 11.5e6),  # about 11.2 M
    "sfcn": (2.8e6, 3.1e6),  # Peng et al. 2021: about 3 M
    "resnet50": (46.1e6, 46.3e6),  # MedicalNet: 46.2 M
    "r3d_18": (33.1e6, 33.2e6),  # torchvision: 33.37 M less 512 × 400 + 400 of the classifier, less two colours
    "swin3d_t": (27.8e6, 27.9e6),  # torchvision: 28.16 M less 768 × 400 + 400 of the classifier, less two colours
}


def blank(name: str) -> Backbone:
    """A backbone of the table without memory; a Swin's has some, see ``pretrain.backbones.cost``."""
    entry = BACKBONES[name]
    if name.startswith("swin"):
        return entry.make((96, 96, 96), 1, entry.options())
    with torch.device("meta"):
        return entry.make((96, 96, 96), 1, entry.options())


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
    counts = {name: count_parameters(blank(name)) for name in PUBLISHED}
    for name, (low, high) in PUBLISHED.items():
        assert low < counts[name] < high, (name, counts[name])


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


@pytest.mark.parametrize("tokens", [27, 2100])
def test_attention_is_the_same_by_either_way(tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(1, 2, tokens, 8, generator=generator) for _ in range(3)]
    plain = [one.bfloat16().requires_grad_() for one in given]  # trained on a CPU in bfloat16
    whole = [one.bfloat16().float().requires_grad_() for one in given]
    ours, theirs = attention(*plain), torch.softmax(whole[0] @ whole[1].transpose(2, 3) / 8**0.5, -1) @ whole[2]
    assert torch.allclose(ours.float(), theirs, atol=0.02)
    ours.float().square().sum().backward()
    theirs.square().sum().backward()
    for one, other in zip(plain, whole, strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(one.grad.float(), other.grad, atol=0.03 * float(other.grad.abs().max()))


def test_an_sfcn_has_the_widths_asked_for() -> None:
    backbone = SFCN((32, 32, 32), 2, (4, 8, 16))
    assert backbone.feature_size == 16
    assert count_parameters(backbone) == 2 * 4 * 27 + 4 * 8 * 27 + 8 * 16 + 2 * (4 + 8 + 16)


@pytest.mark.parametrize(
    "name", ["vit_xs", "vit_xs:positions=learned", "sfcn_s", "densenet121", "resnet18", "r3d_18", "swin"]
)
def test_a_backbone_takes_other_sizes_than_the_one_it_was_made_for(name: str) -> None:
    backbone = make_backbone(name, (32, 40, 32)).eval()
    with torch.no_grad():
        assert backbone(torch.randn(1, 1, 40, 32, 48)).shape == (1, backbone.feature_size)


@pytest.mark.parametrize("name, shape", [("vit_xs", (36, 32, 32)), ("sfcn_s", (8, 32, 32)), ("swin", (32, 32, 24))])
def test_a_size_it_cannot_take_is_refused_by_name_when_it_comes(name: str, shape: tuple[int, int, int]) -> None:
    backbone = make_backbone(name, (32, 32, 32)).eval()
    with pytest.raises(
        UserError, match=f"backbone {name} cannot take volumes of {shape[0]},{shape[1]},{shape[2]}; expected"
    ):
        backbone(torch.zeros(1, 1, *shape))


def test_positions_of_another_size_lie_where_interpolation_would_put_them() -> None:
    coarse, fine = sincos_positions((4, 4, 4), 96), sincos_positions((8, 4, 4), 96, made_for=(4, 4, 4))
    along, deep = coarse.view(4, 4, 4, 96)[:, 1, 2], fine.view(8, 4, 4, 96)[:, 1, 2]
    frequency = 1 / 10000 ** (torch.arange(16) / 16)
    places = (torch.arange(8) + 0.5) / 2 - 0.5  # of 8 patches, in units of the 4
    assert torch.allclose(deep[:, :16], (places[:, None] * frequency).sin(), atol=1e-6)
    assert torch.allclose(deep[:, 32:], along[:1, 32:].expand(8, -1), atol=1e-6)  # h and w stay


def test_learned_positions_follow_another_size() -> None:
    backbone = make_backbone("vit_xs:positions=learned", (32, 32, 32))
    assert isinstance(backbone, ViT)
    with torch.no_grad():
        ramp = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 4, 4, 128).reshape(1, 64, 128)
        backbone.positions.copy_(ramp)
    found = backbone.positions_at((8, 4, 4)).view(8, 4, 4, 128)[:, 0, 0, 0]
    assert torch.allclose(found, torch.tensor([0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]))
    assert torch.equal(backbone.positions_at((4, 4, 4)), backbone.positions)


@pytest.mark.parametrize("name", sorted(set(BACKBONES) - {"swin3d_s", "swin3d_b"}))  # swin3d_t, deeper and wider
def test_every_parameter_belongs_to_one_layer_and_layers_go_from_input_to_output(name: str) -> None:
    backbone = blank(name)
    layers = backbone.layers()
    names = [parameter for layer in layers for parameter in layer]
    assert all(layers) and sorted(names) == sorted(parameter for parameter, _ in backbone.named_parameters())
    first = next(parameter for parameter, tensor in backbone.named_parameters() if tensor.ndim == 5)
    assert first in layers[0] and len(layers) > 4


@pytest.mark.parametrize("name", ["vit_xs", "swin"])
def test_checkpointing_changes_no_gradient(name: str) -> None:
    image = torch.randn(1, 1, 32, 32, 32)
    gradients = []
    for word in (name, f"{name}:checkpointing=true"):
        backbone = make_backbone(word, (32, 32, 32))
        backbone(image).square().sum().backward()
        gradients.append({n: p.grad for n, p in backbone.named_parameters()})
    for parameter, gradient in gradients[0].items():
        assert gradient is not None and torch.allclose(gradient, gradients[1][parameter], atol=1e-6), parameter


def test_class_token_and_registers_are_pooled_or_left_out_as_asked() -> None:
    word = "vit_xs:class_token=true,registers=2,prefix_per_layer=true,pool=cls"
    backbone = make_backbone(word, (32, 32, 32)).eval()
    assert isinstance(backbone, ViT)
    image, keep = torch.randn(2, 1, 32, 32, 32), torch.tensor([[0, 5, 9], [1, 2, 63]])
    with torch.no_grad():
        encoded, before = backbone.encode(image)
        assert before == 4 * 3 and encoded.shape == (2, 4 * 3 + 64, 128)
        assert torch.equal(backbone(image), encoded[:, 0])
        assert torch.allclose(encoded[:, 0], encoded[:, 9], atol=1e-5)  # the copies stay equal
        assert backbone.tokens(image, keep).shape == (2, 3, 128)
        assert backbone.feature_map(image).shape == (2, 128, 4, 4, 4)


def test_rotary_positions_keep_what_is_kept_where_it_was() -> None:
    backbone = make_backbone("vit_xs:rope=true", (32, 32, 32)).eval()
    assert isinstance(backbone, ViT)
    image, order = torch.randn(1, 1, 32, 32, 32), torch.randperm(64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(backbone.tokens(image)[:, order], backbone.tokens(image, order[None]), atol=1e-5)


def test_a_word_is_read_back_as_it_was_spelt() -> None:
    name, options = find_backbone("vit_b:positions=learned,eps=1e-12,registers=4,checkpointing")
    assert (options.positions, options.eps, options.registers, options.checkpointing) == ("learned", 1e-12, 4, True)
    assert find_backbone(spell(name, options)) == (name, options)
    assert spell(*find_backbone("vit_b:pool=mean")) == "vit_b"


@pytest.mark.parametrize(
    "word, said",
    [
        ("vit_b:position=learned", "positions"),
        ("vit_b:positions=lerned", "sincos, learned"),
        ("sfcn:pool=cls", "it has none"),
        ("vit_b:registers=many", "whole number"),
    ],
)
def test_an_option_that_is_none_is_refused_in_one_sentence(word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        find_backbone(word)
