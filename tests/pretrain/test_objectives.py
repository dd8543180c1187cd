"""What each objective minimises, against plain re-computations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.held_out import HeldOut
from pretrain.intensity import standardise
from pretrain.objectives.contrastive import contrast, own_other_view
from pretrain.objectives.contrasts import TwoContrasts, chosen_places
from pretrain.objectives.decoder import as_voxels
from pretrain.objectives.masked import MaskedModelling
from pretrain.objectives.segment import Segmentation
from pretrain.objectives.supervised import Supervised, head_weights
from pretrain.objectives.yaware import YAware
from pretrain.structures import Structures, structure_of
from pretrain.testing import Small
from synth.corpus import Corpus
from synth.errors import UserError
from synth.stream import Batch


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stored(corpus: Corpus, count: int = 8, labels: bool = False) -> Any:
    return next(iter(HeldOut(corpus, np.arange(count), torch.device("cpu"), labels)))


def nt_xent(views: torch.Tensor, temperature: float) -> float:
    """SimCLR's equation 1, term by term."""
    n = len(views)
    total = 0.0
    for i in range(n):
        partner = (i + n // 2) % n
        similar = [float(torch.cosine_similarity(views[i], views[j], dim=0)) / temperature for j in range(n)]
        others = sum(math.exp(similar[j]) for j in range(n) if j != i)
        total -= math.log(math.exp(similar[partner]) / others)
    return total / n


def test_contrast_with_own_other_views_is_nt_xent() -> None:
    views = torch.randn(10, 6, generator=seeded(0))
    assert float(contrast(views, own_other_view(5), 0.3)) == pytest.approx(nt_xent(views, 0.3), rel=1e-5)


def test_contrast_is_least_when_views_of_one_volume_are_alike_and_others_are_not() -> None:
    near = torch.eye(6).repeat(2, 1)
    assert float(contrast(near, own_other_view(6), 0.1)) < 0.01
    assert float(contrast(torch.ones(12, 6), own_other_view(6), 0.1)) == pytest.approx(math.log(11), rel=1e-4)


def test_nearness_of_yaware_is_the_kernel_on_age_where_sex_and_diagnosis_agree(told: Any) -> None:
    corpus = told(age=[60.0, 65.0, 60.0, np.nan], sex=["F", "F", "M", "F"], diagnosis=["CN"] * 4)
    near = YAware(Small(), corpus, 0, sigma=5.0).nearness(torch.arange(4))
    assert near.shape == (8, 8) and torch.equal(near, near.T)
    one = near[:4, 4:]
    assert torch.equal(one.diagonal(), torch.ones(4))
    assert float(one[0, 1]) == pytest.approx(math.exp(-0.5))
    assert float(one[0, 2]) == 0.0, "another sex"
    assert one[3, :3].tolist() == [0.0, 0.0, 0.0], "an age that is missing"


def test_yaware_where_nobody_is_like_another_is_simclr(told: Any) -> None:
    corpus = told(age=[20.0, 50.0, 80.0])
    near = YAware(Small(), corpus, 0, sigma=1.0).nearness(torch.arange(3))
    assert torch.allclose(near - near.diagonal().diag(), own_other_view(3), atol=1e-6)


def test_yaware_needs_a_covariate(told: Any) -> None:
    with pytest.raises(UserError, match="simclr needs none"):
        YAware(Small(), told(shells=[1.0, 2.0]), 0)


def test_a_missing_covariate_counts_neither_way(told: Any) -> None:
    ages, sexes = np.linspace(20, 80, 8), ["F", "M"] * 4
    image = torch.randn(8, 1, 16, 16, 16, generator=seeded(0))
    whole = Supervised(Small(), told(age=ages, sex=sexes), 0).eval()
    few = Supervised(Small(), told(age=ages, sex=sexes), 0).eval()
    few.numbers = torch.where(torch.arange(8)[:, None] < 3, torch.nan, few.numbers)
    few.codes["sex"] = torch.where(torch.arange(8) < 3, -1, few.codes["sex"])
    expected = whole.loss(image[3:], torch.arange(3, 8), seeded(0))
    assert torch.allclose(few.loss(image, torch.arange(8), seeded(0)), expected, atol=1e-5)
    few.codes["sex"] = torch.full((8,), -1)
    few.numbers = torch.full_like(few.numbers, torch.nan)
    nothing = few.loss(image, torch.arange(8), seeded(0))
    nothing.backward()
    assert float(nothing.detach()) == 0.0
    assert all(torch.isfinite(p.grad).all() for p in few.parameters() if p.grad is not None)


def test_heads_are_weighted_as_asked_for(told: Any) -> None:
    corpus = told(age=np.linspace(20, 80, 8), sex=["F", "M"] * 4)
    image = torch.randn(8, 1, 16, 16, 16, generator=seeded(0))

    def loss(*weights: str) -> float:
        return float(Supervised(Small(), corpus, 0, weights).eval().loss(image, torch.arange(8), seeded(0)).detach())

    age, sex = loss("sex=0"), loss("age=0")
    assert loss() == pytest.approx(age + sex, rel=1e-5)
    assert loss("age=3", "sex=0.5") == pytest.approx(3 * age + 2 * sex, rel=1e-5)


def test_a_head_left_out_thins_no_other(told: Any) -> None:
    corpus = told(age=np.linspace(20, 80, 8), volume_putamen=np.geomspace(3e3, 6e3, 8))
    image = torch.randn(8, 1, 16, 16, 16, generator=seeded(0))

    def loss(*weights: str) -> float:
        return float(Supervised(Small(), corpus, 0, weights).eval().loss(image, torch.arange(8), seeded(0)).detach())

    assert loss() == pytest.approx((loss("volume=0") + loss("age=0")) / 2, rel=1e-5), "a mean over the heads there are"


def test_figures_of_what_cannot_be_told_are_left_out(told: Any) -> None:
    objective = Supervised(Small(), told(age=[50.0, 50.0, 60.0, 70.0], sex=["F", "M", None, None]), 0).eval()
    image = torch.randn(4, 1, 16, 16, 16, generator=seeded(0))
    with torch.no_grad():
        assert set(objective.evaluate([Batch(image, torch.arange(4))])) == {"r_age", "accuracy_sex"}
        assert objective.evaluate([Batch(image[:1], torch.tensor([2]))]) == {}, "one age, no sex"
        assert set(objective.evaluate([Batch(image[:2], torch.arange(2))])) == {"accuracy_sex"}, "one age twice"


def test_volume_is_the_name_of_all_regional_volumes() -> None:
    numbers = ["age", "volume_hippocampus", "volume_thalamus"]
    found = head_weights(["volume=0.5", "volume_hippocampus=4"], numbers, ["sex"])
    assert found == {"age": 1.0, "volume_hippocampus": 4.0, "volume_thalamus": 0.5, "sex": 0.25}


@pytest.mark.parametrize(
    "weights, says", [(["aeg=1"], "age"), (["age=much"], "age=2"), (["age=-1"], "age=2"), (["age=0"], "no head")]
)
def test_weights_that_fit_no_head_are_refused(weights: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        head_weights(weights, ["age"], [])


def test_masked_modelling_sees_no_hidden_voxel_and_is_judged_on_them_alone(planted: Corpus) -> None:
    objective = MaskedModelling(Small(), planted, 0, masked=0.5, cube=4).eval()
    image = torch.randn(4, 1, 16, 16, 16, generator=seeded(0))
    hidden = objective.hidden(image, seeded(3))
    other = torch.where(hidden, torch.randn(image.shape, generator=seeded(5)), image)
    predicted = objective.filled_in(image, hidden)
    assert torch.equal(predicted, objective.filled_in(other, hidden))
    expected = (predicted - image).square()[hidden].mean()
    assert torch.allclose(objective.loss(image, torch.arange(4), seeded(3)), expected, rtol=1e-4)


def test_about_the_share_asked_for_is_hidden_in_cubes(planted: Corpus) -> None:
    objective = MaskedModelling(Small(), planted, 0, masked=0.6, cube=4)
    hidden = objective.hidden(torch.zeros(16, 1, 16, 16, 16), seeded(1))
    assert 0.5 < float(hidden.float().mean()) < 0.7
    along = hidden.float().diff(dim=4).abs().sum((0, 1, 2, 3))
    assert int((along > 0).sum()) <= 4, "cubes of one lattice change at a quarter of the voxels"


def test_the_channels_of_a_cell_are_its_voxels() -> None:
    voxels = torch.arange(5 * 6 * 4.0).view(1, 1, 5, 6, 4)
    padded = torch.zeros(1, 1, 6, 6, 4)
    padded[:, :, :5] = voxels
    cut = padded.view(1, 1, 3, 2, 3, 2, 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(1, 8, 3, 3, 2)
    assert torch.equal(as_voxels(cut, (5, 6, 4)), voxels)


def test_both_sides_of_a_structure_are_one_class(corpus: Corpus) -> None:
    structures = Structures(corpus, "segment")
    assert structures.names[0] == "background" and "hippocampus" in structures.names
    left, right, none, unknown = structures(
        torch.tensor([17, 53, 0, 9999], dtype=torch.int16).view(4, 1, 1, 1)
    ).flatten()
    assert left == right == structures.names.index("hippocampus") and none == unknown == 0
    assert structure_of("ctx-lh-insula") == structure_of("ctx-rh-insula") == "ctx_insula"


def test_segmentation_learns_where_structures_are(planted: Corpus) -> None:
    objective = Segmentation(Small(), planted, 0)
    batch = stored(planted, 16, labels=True)
    before = objective.eval().evaluate([batch])
    optimizer = torch.optim.AdamW(objective.parameters(), 5e-3)
    objective.train()
    for step in range(30):
        generator = seeded(step)
        image = objective.prepare(batch.image, generator)
        optimizer.zero_grad()
        objective.loss(image, batch.index, generator, batch.label).backward()
        optimizer.step()
    with torch.no_grad():
        after = objective.eval().evaluate([batch])
    assert set(after) == {"dice", "dice_head", "dice_chequered_blob", "dice_smooth_blob"}
    assert after["dice"] > before["dice"] and after["dice_head"] > before["dice_head"]


def overlap(image: torch.Tensor, classes: torch.Tensor) -> float:
    """Dice of what is not air in standardised images and of what is not background."""
    head, tissue = image > image.amin((1, 2, 3, 4), keepdim=True) / 2, classes[:, None] > 0
    return float(2 * (head & tissue).sum() / (head.sum() + tissue.sum()))


def test_an_image_and_its_label_map_move_together(planted: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = Segmentation(Small(), planted, 0).train()
    batch, seen = stored(planted, 16, labels=True), {}

    whole = Small.feature_map

    def watched(backbone: Small, image: torch.Tensor) -> torch.Tensor:
        seen["image"] = image
        return whole(backbone, image)

    def judged(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        seen["classes"] = classes[:, 0]
        return logits.sum()

    monkeypatch.setattr(Small, "feature_map", watched)
    objective.criterion.forward = judged  # type: ignore[method-assign, assignment]
    objective.loss(objective.prepare(batch.image, seeded(2)), batch.index, seeded(3), batch.label)
    moved = overlap(seen["image"][:, :, ::2, ::2, ::2], seen["classes"])
    assert moved > 0.95
    assert overlap(standardise(batch.image)[:, :, ::2, ::2, ::2], seen["classes"]) < moved - 0.02, "they did move"


def test_the_volume_itself_and_the_drawn_view_share_their_geometry(planted: Corpus) -> None:
    objective = TwoContrasts(Small(), planted, 0, own=1.0)
    batch = stored(planted, 16, labels=True)
    views, classes = objective.views(batch.image, batch.label, seeded(2))
    moved = overlap(views[:16], classes)
    assert moved > 0.9
    assert overlap(standardise(batch.image), classes) < moved - 0.02, "they did move"


def test_two_contrasts_share_the_anatomy_and_nothing_else(planted: Corpus) -> None:
    objective = TwoContrasts(Small(), planted, 0, own=0.0)
    batch = stored(planted, 8, labels=True)
    views, classes = objective.views(batch.image, batch.label, seeded(2))
    assert views.shape == (16, 1, 16, 16, 16) and classes.shape == (8, 16, 16, 16)
    first, second = views.chunk(2)
    assert not torch.allclose(first, second)
    for image, label in zip([*first, *second], [*classes, *classes], strict=True):
        inside = [image[0][label == n] for n in label.unique() if (label == n).sum() > 20]
        within = sum(float(part.var() * len(part)) for part in inside) / sum(map(len, inside))
        assert within < float(image.var()), "intensities follow the structures"


def test_the_volume_itself_is_a_view_as_often_as_asked_for(planted: Corpus) -> None:
    batch = stored(planted, 8, labels=True)
    own, drawn = (
        TwoContrasts(Small(), planted, 0, own=share).views(batch.image, batch.label, seeded(2))[0].chunk(2)
        for share in (1.0, 0.0)
    )
    assert torch.equal(own[1], drawn[1])
    assert not any(torch.equal(a, b) for a, b in zip(own[0], drawn[0], strict=True))


def test_places_are_the_same_in_both_views_and_not_air() -> None:
    maps = torch.arange(3 * 4**3.0).view(1, 3, 4, 4, 4)
    maps = torch.cat([maps, maps + 1000])
    classes = torch.zeros(1, 16, 16, 16, dtype=torch.long)
    classes[:, :8] = 1
    chosen = chosen_places(maps, classes, seeded(0))
    first, second = chosen.chunk(2)
    assert torch.equal(second, first + 1000)
    tissue = maps[0, :, :2].flatten(1).T
    assert len(first) == 32 and {tuple(row) for row in first.tolist()} == {tuple(row) for row in tissue.tolist()}
    assert len(chosen_places(maps, torch.zeros_like(classes), seeded(0))) == 2 * 16, "air, where there is nothing else"


def test_similarities_are_kept_in_full_precision_under_autocast() -> None:
    views = torch.randn(16, 32, generator=seeded(1))
    whole = contrast(views, own_other_view(8), 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(contrast(views, own_other_view(8), 0.05), whole)
