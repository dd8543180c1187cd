"""What the list of backbones says of memory and operations."""

from __future__ import annotations

import pytest
import torch

from pretrain.backbones import make_backbone
from pretrain.backbones.cost import count_cost, saved_bytes
from pretrain.backbones.table import BACKBONES
from tests.conftest import Run

SHAPE = (32, 32, 32)


@pytest.mark.parametrize("name", ["sfcn_s", "vit_xs"])
def test_counted_memory_is_what_training_really_keeps(name: str) -> None:
    backbone = make_backbone(name, SHAPE).train()
    one, two = (saved_bytes(lambda shape: backbone(torch.zeros(shape)), (count, 1, *SHAPE)) for count in (1, 2))
    assert count_cost(backbone, SHAPE)[0] == two - one


def test_operations_of_a_vit_are_those_of_its_matrices_and_its_attention() -> None:
    width, depth, tokens, patch = 128, 4, 64, 8**3
    linear = 2 * tokens * (patch * width + depth * 12 * width**2)
    attention = depth * 2 * 2 * tokens**2 * width
    assert count_cost(make_backbone("vit_xs", SHAPE), SHAPE)[1] == linear + attention


def test_checkpointing_keeps_less() -> None:
    plain, checkpointed = (make_backbone(word, SHAPE) for word in ("vit_xs", "vit_xs:checkpointing=true"))
    assert count_cost(checkpointed, SHAPE)[0] < 0.3 * count_cost(plain, SHAPE)[0]


def test_counting_leaves_the_weights_alone() -> None:
    backbone = make_backbone("vit_xs", SHAPE)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    count_cost(backbone, SHAPE)
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def test_the_list_names_every_backbone_and_marks_sizes_that_it_cannot_take(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in set(BACKBONES) - {"vit_xs", "sfcn_s", "vit_ti_p16"}:
        monkeypatch.delitem(BACKBONES, name)
    answer = run("pretrain", "backbones", "--shape", "40,40,40")
    lines = {line.split()[0]: line for line in answer.out.splitlines()[1:-1]}
    assert answer.code == 0 and set(lines) == set(BACKBONES)
    assert "–" in lines["vit_ti_p16"] and "multiples of 16" in lines["vit_ti_p16"]
    assert "0.86 M" in lines["vit_xs"] and "MiB" in lines["vit_xs"] and "–" not in lines["vit_xs"]
