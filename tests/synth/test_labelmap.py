"""LabelMap: heads are upright, sides are right, volumes are those of the label map that is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synth.anatomy.labels import label_table
from synth.appearance.priors import EFFECTS
from synth.errors import UserError
from synth.keys import rng_for
from synth.labelmap import LabelMap
from synth.sample import Sample
from tests.conftest import spheres_in_a_box

GRID: dict[str, Any] = {"shape": (48, 56, 48), "spacing": 4.0}
QUIET: dict[str, Any] = {name: (0.0, e.lowest, e.lowest) for name, e in EFFECTS.items()}  # tissue means alone


def render(generator: LabelMap, index: int = 0, **changes: Any) -> Sample:
    params = generator.draw(rng_for(11, index))
    return generator.render({**params, **changes})


def centre_mm(sample: Sample, *structures: str) -> np.ndarray:
    """[3] mean position in mm."""
    assert sample.label is not None
    numbers = [n for n, label in label_table().items() if label.structure in structures or label.name in structures]
    voxels = np.argwhere(np.isin(sample.label, numbers))
    assert len(voxels), f"no voxel of {structures}"
    centre: np.ndarray = (voxels @ sample.affine[:3, :3].T + sample.affine[:3, 3]).mean(0)
    return centre


@pytest.mark.parametrize("deformation", ["none", "mild", "strong"])
@pytest.mark.parametrize("index", range(4))
def test_heads_are_upright_and_left_is_left(deformation: Any, index: int) -> None:
    sample = render(LabelMap(**GRID, deformation=deformation), index)
    for structure in ("Hippocampus", "Putamen", "Cerebral-Cortex"):
        assert centre_mm(sample, f"Left-{structure}")[0] < -5 < 5 < centre_mm(sample, f"Right-{structure}")[0]
    assert centre_mm(sample, "cerebral_cortex")[2] > centre_mm(sample, "cerebellum_cortex")[2] + 10
    assert centre_mm(sample, "caudate")[1] > centre_mm(sample, "cerebellum_cortex")[1] + 30


def test_a_real_head_is_upright_and_left_is_left(real_anatomies: Path) -> None:
    generator = LabelMap(**GRID, anatomies=sorted(real_anatomies.iterdir())[0], deformation="none")
    sample = render(generator)
    assert centre_mm(sample, "Left-Hippocampus")[0] < -5 < 5 < centre_mm(sample, "Right-Hippocampus")[0]
    assert centre_mm(sample, "cerebral_cortex")[2] > centre_mm(sample, "cerebellum_cortex")[2] + 10
    assert centre_mm(sample, "caudate")[1] > centre_mm(sample, "cerebellum_cortex")[1] + 30


def test_flip_mirrors_the_head_and_swaps_left_and_right_labels(toy_label_map: Callable[..., Path]) -> None:
    lesioned = spheres_in_a_box()
    lesioned[8:11, 20:24, 26:29] = 17  # something that is not symmetric, at the person's left
    generator = LabelMap(shape=(40, 44, 40), spacing=4.0, anatomies=toy_label_map(lesioned), deformation="none")
    params = generator.draw(rng_for(1, 0))
    plain = generator.render(params).label
    flipped = generator.render({**params, "pose": {**params["pose"], "flip": True}}).label
    assert plain is not None and flipped is not None
    partner = np.zeros(2100, int)
    for number, label in label_table().items():
        partner[number] = label.partner
    assert np.array_equal(flipped, partner[plain[::-1]])
    assert (plain[8:11, 20:24, 26:29] == 17).all() and (flipped[29:32, 20:24, 26:29] == 53).all()


def test_about_half_of_the_heads_are_flipped_unless_flip_is_off() -> None:
    flips = [LabelMap(**GRID).draw(rng_for(0, i))["pose"]["flip"] for i in range(60)]
    assert 15 < sum(flips) < 45
    assert not any(LabelMap(**GRID, flip=False).draw(rng_for(0, i))["pose"]["flip"] for i in range(60))


def test_without_deformation_the_label_map_comes_out_as_it_is(toy_label_map: Callable[..., Path]) -> None:
    generator = LabelMap(shape=(40, 44, 40), spacing=4.0, anatomies=toy_label_map(), deformation="none")
    sample = render(generator)
    assert np.array_equal(sample.label, spheres_in_a_box())
    assert "age" not in sample.covariates, "without deformation there is no person"


def test_without_deformation_the_builtin_volumes_come_out_on_a_coarser_grid() -> None:
    from synth.anatomy.source import builtin_path, load_anatomy

    sample = render(LabelMap(shape=(96, 116, 96), spacing=2.0, deformation="none"))
    for structure in ("cerebral_cortex", "cerebral_white_matter", "cerebellum_cortex", "thalamus", "hippocampus"):
        names = [label.covariate for label in label_table().values() if label.structure == structure]
        found = sum(float(sample.covariates.get(name, 0.0)) for name in names)
        assert found == pytest.approx(load_anatomy(builtin_path()).volumes[structure], rel=0.03)


@pytest.mark.parametrize("options", [{}, {"strip": 1.0}, {"deformation": "strong"}, {"spacing": (4.0, 5.0, 3.0)}])
def test_volumes_are_voxel_counts_of_the_label_map_as_written(options: dict[str, Any]) -> None:
    generator = LabelMap(**{**GRID, **options})
    sample = render(generator, 2)
    assert sample.label is not None
    voxel = float(np.prod(sample.spacing))
    total = 0.0
    for number, label in label_table().items():
        count = int((sample.label == number).sum())
        if label.is_intracranial:
            assert sample.covariates.get(label.covariate, 0.0) == count * voxel
            total += count * voxel
    assert sample.covariates["volume_intracranial"] == total > 0


def test_strip_leaves_only_what_is_inside_the_skull() -> None:
    sample, whole = (render(LabelMap(**GRID, strip=strip)) for strip in (1.0, 0.0))
    assert sample.label is not None and whole.label is not None
    outside = ~np.isin(whole.label, [n for n, label in label_table().items() if label.is_intracranial])
    assert (whole.label[outside] > 0).any(), "the whole head has something to strip"
    assert (sample.label[outside] == 0).all() and (sample.image[0][outside] == 0).all()
    assert np.array_equal(sample.label[~outside], whole.label[~outside])


def test_images_are_finite_positive_and_about_one_at_most() -> None:
    for contrast in ("t1w", "random"):
        for index in range(3):
            image = render(LabelMap(**GRID, contrast=contrast), index).image
            assert image.shape == (1, *GRID["shape"])
            assert image.min() >= 0 and 0.5 < image.max() < 3 and image.std() > 0.05


def test_t1w_has_the_order_of_a_t1_weighted_scan() -> None:
    for index in range(4):
        sample = render(LabelMap(shape=(80, 96, 80), spacing=2.4, **QUIET), index)
        assert sample.label is not None
        white, grey, fluid = (
            float(np.median(sample.image[0][np.isin(sample.label, numbers)])) for numbers in ((2, 41), (3, 42), (4, 43))
        )
        assert white > grey > fluid


def test_random_contrast_has_no_fixed_order() -> None:
    orders = {
        tuple(
            np.argsort(
                [
                    LabelMap(contrast="random").draw(rng_for(0, i))["contrast"][s][0]
                    for s in ("cerebral_white_matter", "cerebral_cortex", "lateral_ventricle")
                ]
            )
        )
        for i in range(40)
    }
    assert len(orders) == 6


def test_a_site_has_its_own_look_whatever_the_other_sites_are() -> None:
    def settings(generator: LabelMap, site: str) -> np.ndarray:
        drawn = [p["scanner"] for p in (generator.draw(rng_for(0, i)) for i in range(60)) if p["site"] == site]
        return np.log([[scanner["contrast"], scanner["bias"]] for scanner in drawn])

    both = LabelMap(sites=("north", "south"))
    north, alone, south = (
        settings(both, "north"),
        settings(LabelMap(sites=("north",)), "north"),
        settings(both, "south"),
    )
    assert np.abs(north.mean(0) - alone.mean(0)).max() < 0.05, "a site is the same beside others"
    assert np.abs(north.mean(0) - south.mean(0)).max() > 0.1, "two sites differ"
    assert north.std(0).max() < 0.1 < settings(LabelMap(), "random").std(0).max(), "scans of one site are alike"


def test_people_are_those_asked_for() -> None:
    generator = LabelMap(ages=(60, 62), diagnoses=("AD", "PD"), diagnosis_weights=(1.0, 0.0))
    for index in range(10):
        who = generator.draw(rng_for(0, index))["person"]
        assert 60 <= who["age"] <= 62 and who["diagnosis"] == "AD"


def test_of_several_anatomies_all_are_used_and_named(toy_label_map: Callable[..., Path]) -> None:
    for name in ("one_dseg.nii.gz", "two_dseg.nii.gz", "three_dseg.nii.gz"):
        folder = toy_label_map(name=name)
    generator = LabelMap(**GRID, anatomies=folder)
    chosen = [generator.draw(rng_for(0, i)) for i in range(30)]
    assert {params["anatomy"] for params in chosen} == {0, 1, 2}
    named = {render(generator, anatomy=a).covariates["anatomy"] for a in range(3)}
    assert named == {"one_dseg", "two_dseg", "three_dseg"}
    assert [parent["name"] for parent in generator.parents()] == sorted(p.name for p in folder.iterdir())


def test_every_label_that_can_be_written_is_named_flipped_ones_too(toy_label_map: Callable[..., Path]) -> None:
    lesioned = spheres_in_a_box()
    lesioned[12:14, 20:24, 26:29] = 25  # Left-Lesion, on one side only
    generator = LabelMap(**GRID, anatomies=toy_label_map(lesioned), deformation="none")
    params = generator.draw(rng_for(0, 0))
    for flip in (False, True):
        label = generator.render({**params, "pose": {**params["pose"], "flip": flip}}).label
        assert label is not None and set(np.unique(label).tolist()) <= {0, *generator.labels()}


def test_an_anatomy_of_another_person_takes_the_persons_volumes(real_anatomies: Path) -> None:
    from synth.anatomy.source import load_anatomy

    names = ("hippocampus", "thalamus", "putamen")
    before, after = [], []
    for path in sorted(real_anatomies.iterdir())[:2]:
        generator = LabelMap(shape=(80, 96, 80), spacing=2.4, anatomies=path, warp_mm=0.0, flip=False)
        params = LabelMap(shape=(80, 96, 80), spacing=2.4, flip=False).draw(rng_for(4, 0))
        covariates = generator.render(params).covariates
        anatomy = load_anatomy(path)
        before.append(np.log([anatomy.volumes[name] / anatomy.intracranial_ml for name in names]))
        after.append(
            np.log(
                [float(covariates[f"volume_left_{name}"]) + float(covariates[f"volume_right_{name}"]) for name in names]
            )
        )
    assert np.abs(before[0] - before[1]).max() > 0.3, "the two people are too alike to test anything"
    assert np.abs(after[0] - after[1]).max() < 0.6 * np.abs(before[0] - before[1]).max()


@pytest.mark.parametrize(
    "options, says",
    [
        ({"shape": (8, 8)}, "shape"),
        ({"shape": (8, 8, 4)}, "8 to 1024"),
        ({"shape": (8.5, 8, 8)}, "whole numbers"),
        ({"spacing": 0.0}, "spacing"),
        ({"spacing": (1.0, 2.0)}, "spacing"),
        ({"ages": (70, 50)}, "ages"),
        ({"ages": (5, 50)}, "20,90"),
        ({"diagnoses": ("CN", "FTD")}, "FTD"),
        ({"diagnoses": ()}, "diagnoses"),
        ({"diagnosis_weights": (1.0,)}, "diagnosis_weights"),
        ({"diagnoses": ("CN",), "diagnosis_weights": (-1.0,)}, "negative"),
        ({"noise": (1, -0.1, 0.1)}, "noise"),
        ({"noise": (1, 0.1)}, "three numbers"),
        ({"bias": (1, 0, float("nan"))}, "bias"),
        ({"bias": (1, 0.3, 0.2)}, "above its high"),
        ({"strip": 1.5}, "probability"),
        ({"warp_length_mm": 0.0}, "warp_length_mm"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        LabelMap(**options)


# pose


@pytest.mark.parametrize("deformation", ["mild", "strong", "none"])
def test_a_pose_stays_within_the_options_and_leaves_the_rest_to_the_deformation(deformation: str) -> None:
    own, given = (
        LabelMap(deformation=deformation, **options)  # type: ignore[arg-type]
        for options in ({}, {"rotation": 2.0, "stretch": 0.05, "shift": 0.0})
    )
    poses = [given.draw(rng_for(0, i))["pose"] for i in range(200)]
    rotation, stretch = (np.array([pose[name] for pose in poses]) for name in ("rotation", "stretch"))
    assert 1.5 < np.abs(rotation).max() <= 2.0
    if deformation == "mild":
        np.testing.assert_allclose(stretch.sum(1), 0, atol=2e-4)
    else:
        assert 0.04 < stretch.max() <= np.log(1.05) + 1e-4
        assert stretch.min() >= np.log(0.95) - 1e-4
    assert all(pose["shift"] == [0.0] * 3 for pose in poses)
    shears = [np.abs(one.draw(rng_for(0, i))["pose"]["shear"]).max() for one in (own, given) for i in range(20)]
    assert (max(shears) > 0) == (deformation == "strong")


@pytest.mark.parametrize(("option", "value"), [("rotation", -1.0), ("stretch", 0.6), ("shear", 2.0), ("shift", 999.0)])
def test_a_pose_out_of_range_is_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{option} is {value}; expected a number from 0 to"):
        LabelMap(**{option: value})  # type: ignore[arg-type]
