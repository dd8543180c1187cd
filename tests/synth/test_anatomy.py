"""The built-in anatomy and label maps from outside; volumes asked for and volumes that come out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from synth.anatomy import morphometry
from synth.anatomy.labels import label_table
from synth.anatomy.people import Person, effects
from synth.anatomy.source import builtin_path, find_label_maps, load_anatomy
from synth.appearance import image as images
from synth.keys import rng_for
from synth.labelmap import LabelMap, wanted_changes
from tests.conftest import spheres_in_a_box
from tests.synth.test_people import person

# both sides together, mL of a head of 1450 mL: wide ranges of healthy young adults segmented with FreeSurfer
PLAUSIBLE_ML = {
    "cerebral_white_matter": (380, 560),
    "cerebral_cortex": (400, 600),
    "lateral_ventricle": (8, 30),
    "cerebellum_white_matter": (20, 40),
    "cerebellum_cortex": (75, 130),
    "thalamus": (12, 18),
    "caudate": (5.5, 9),
    "putamen": (8, 12.5),
    "pallidum": (2.8, 4.5),
    "third_ventricle": (0.5, 2),
    "fourth_ventricle": (0.9, 2.8),
    "brainstem": (17, 26),
    "hippocampus": (7, 9.5),
    "amygdala": (2.6, 4.2),
    "accumbens": (0.8, 1.6),
}
POSE = {
    "rotation": [3.1, -2.3, 4.2],
    "stretch": [0.0] * 3,
    "shear": [0.0] * 3,
    "shift": [0.37, 0.61, 0.13],
    "flip": False,
}


def builtin_image() -> tuple[np.ndarray, np.ndarray]:
    image: Any = nibabel.load(builtin_path())
    return np.asarray(image.dataobj), image.affine


def mm(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """[N, 3] positions in mm."""
    positions: np.ndarray = nibabel.affines.apply_affine(affine, np.argwhere(mask))
    return positions


def test_the_builtin_anatomy_is_stored_in_canonical_orientation() -> None:
    data, affine = builtin_image()
    assert nibabel.aff2axcodes(affine) == ("R", "A", "S")
    assert np.issubdtype(data.dtype, np.integer) and data.ndim == 3


def test_left_labels_lie_left_and_right_labels_right() -> None:
    data, affine = builtin_image()
    for label in load_anatomy(builtin_path()).labels:
        if label.name.startswith(("Left", "Right")):
            x = mm(data == label.number, affine)[:, 0]
            side = -1 if label.name.startswith("Left") else 1
            assert (side * x > -1.5).all() and side * x.mean() > 5, label.name


def test_left_and_right_have_the_same_volume_within_three_percent() -> None:
    data, _ = builtin_image()
    for label in load_anatomy(builtin_path()).labels:
        if label.partner != label.number:
            counts = [(data == number).sum() for number in (label.number, label.partner)]
            assert abs(counts[0] / counts[1] - 1) < 0.03, label.name


@pytest.mark.parametrize("structure", PLAUSIBLE_ML)
def test_volumes_are_plausible_for_a_head_of_mean_size(structure: str) -> None:
    anatomy = load_anatomy(builtin_path())
    scaled = anatomy.volumes[structure] / 1000 * 1450 / anatomy.intracranial_ml
    low, high = PLAUSIBLE_ML[structure]
    assert low <= scaled <= high


def test_every_structure_with_an_effect_is_in_the_builtin_anatomy() -> None:
    assert set(effects()) <= set(load_anatomy(builtin_path()).volumes)


def test_structures_of_the_builtin_anatomy_are_where_anatomy_puts_them() -> None:
    data, affine = builtin_image()
    centre = {
        name: mm(np.isin(data, [n for n, label in label_table().items() if label.structure == name]), affine).mean(0)
        for name in ("eye", "cerebellum_cortex", "hippocampus", "cerebral_cortex", "brainstem", "caudate", "thalamus")
    }
    assert centre["eye"][1] > centre["hippocampus"][1] > centre["cerebellum_cortex"][1]
    assert centre["cerebral_cortex"][2] > centre["hippocampus"][2] > centre["cerebellum_cortex"][2]
    assert centre["caudate"][1] > centre["thalamus"][1] and centre["thalamus"][2] > centre["brainstem"][2]


@pytest.mark.parametrize("axes", [("R", "A", "S"), ("L", "I", "A"), ("P", "S", "R")])
def test_a_label_map_is_turned_upright_however_it_is_stored(
    axes: tuple[str, str, str], toy_label_map: Callable[..., Path]
) -> None:
    toy = nibabel.Nifti1Image(spheres_in_a_box(), np.diag([4.0, 4.0, 4.0, 1.0]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(toy.affine), nibabel.orientations.axcodes2ornt(axes)
    )
    stored = toy.as_reoriented(turn)
    assert nibabel.aff2axcodes(stored.affine) == axes
    folder = toy_label_map(np.asarray(stored.dataobj), affine=stored.affine)
    anatomy = load_anatomy(folder / "toy_dseg.nii.gz")
    upright = load_anatomy(toy_label_map(folder="upright") / "toy_dseg.nii.gz")
    assert np.array_equal(anatomy.index, upright.index) and anatomy.brain == upright.brain


def test_label_maps_are_found_sorted_and_below(toy_label_map: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("b_dseg.nii.gz", "a_dseg.nii"):
        folder = toy_label_map(name=name)
    (folder / "notes.txt").write_text("no label map")
    assert [path.name for path in find_label_maps(tmp_path)] == ["a_dseg.nii", "b_dseg.nii.gz"]


def test_a_label_map_that_was_replaced_is_read_again(toy_label_map: Callable[..., Path]) -> None:
    path = toy_label_map() / "toy_dseg.nii.gz"
    before = load_anatomy(path).volumes["hippocampus"]
    larger = spheres_in_a_box()
    larger[8:14, 20:24, 26:32] = 17
    toy_label_map(larger)
    assert load_anatomy(path).volumes["hippocampus"] > before


def test_a_relative_path_is_that_of_the_current_folder(
    toy_label_map: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, number, partner in (("here", 17, 53), ("there", 4, 43)):
        array = np.where(np.isin(spheres_in_a_box(), (number, partner)), 3, spheres_in_a_box())
        monkeypatch.chdir(toy_label_map(array, folder=folder))
        assert number not in [label.number for label in load_anatomy(Path("toy_dseg.nii.gz")).labels]


def test_every_real_label_map_is_read(real_anatomies: Path) -> None:
    paths = find_label_maps(real_anatomies)
    for path in paths[:2]:
        anatomy = load_anatomy(path)
        assert 1000 < anatomy.intracranial_ml < 2100
        number = {label.name: at for at, label in enumerate(anatomy.labels)}
        left, right = (
            np.argwhere(anatomy.index == number[f"{side}-Hippocampus"]).mean(0) for side in ("Left", "Right")
        )
        cerebellum = np.argwhere(anatomy.index == number["Left-Cerebellum-Cortex"]).mean(0)
        assert left[0] < right[0] and (cerebellum < left)[1:].all()


# --- morphometry ----------------------------------------------------------------------------------------------------


class Studio:
    """Renders people on the built-in anatomy at 2 mm, everything but the person equal.

    The pose is a few degrees off the grid: aligned with it, every voxel would be read exactly between two voxels.
    """

    def __init__(self) -> None:
        self.generator = LabelMap(shape=(88, 104, 84), spacing=2.0, warp_mm=0.0, flip=False)
        self.params = {**self.generator.draw(rng_for(0, 0)), "pose": POSE}
        self.size = load_anatomy(builtin_path()).intracranial_ml
        self.own = {name: np.log(effects()[name].ml_at_30) - target for name, target in person().log_targets().items()}
        self.reference = self.volumes()

    def subject(self, residuals: dict[str, float] | None = None, **changes: Any) -> Person:
        """The person whom the built-in anatomy stands for, with changes."""
        own = {name: value + (residuals or {}).get(name, 0.0) for name, value in self.own.items()}
        return person(icv_ml=self.size, residuals=own, **changes)

    def volumes(self, residuals: dict[str, float] | None = None, **changes: Any) -> dict[str, float]:
        """Structure → mm³ on the rendered label map."""
        params = {**self.params, "person": self.subject(residuals, **changes).as_params()}
        label = self.generator.render(params).label
        assert label is not None
        counts = np.bincount(label.ravel(), minlength=2100)
        volumes = {"intracranial": 0.0}
        for entry in label_table().values():
            if entry.is_intracranial:
                volumes[entry.structure] = volumes.get(entry.structure, 0.0) + 8.0 * counts[entry.number]
                volumes["intracranial"] += 8.0 * counts[entry.number]
        return volumes

    def realised(self, structure: str, residuals: dict[str, float] | None = None, **changes: Any) -> float:
        """Log volume change of one structure against the reference."""
        return float(np.log(self.volumes(residuals, **changes)[structure] / self.reference[structure]))


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio()


def test_the_reference_person_is_the_anatomy_itself(studio: Studio) -> None:
    anatomy = load_anatomy(builtin_path())
    assert wanted_changes(anatomy, studio.subject(), True) == pytest.approx(dict.fromkeys(effects(), 0.0), abs=1e-9)
    for structure in ("cerebral_cortex", "cerebral_white_matter", "hippocampus", "lateral_ventricle"):
        assert studio.reference[structure] == pytest.approx(anatomy.volumes[structure], rel=0.03)


@pytest.mark.parametrize(
    "structure, asked",
    [
        ("hippocampus", -0.5),
        ("hippocampus", -0.25),
        ("hippocampus", 0.2),
        ("amygdala", -0.2),
        ("lateral_ventricle", -0.5),
        ("lateral_ventricle", 0.8),
        ("lateral_ventricle", 1.6),
        ("third_ventricle", 1.0),
        ("cerebral_cortex", -0.1),
        ("thalamus", -0.15),
        ("putamen", -0.15),
    ],
)
def test_a_structure_changes_by_what_is_asked(structure: str, asked: float, studio: Studio) -> None:
    allowed = 0.1 if "ventricle" in structure else 0.05
    assert studio.realised(structure, {structure: asked}) == pytest.approx(asked, abs=allowed)


def test_a_change_of_one_structure_leaves_the_others_nearly_alone(studio: Studio) -> None:
    volumes = studio.volumes({"hippocampus": -0.3})
    for structure in ("cerebral_cortex", "cerebral_white_matter", "thalamus", "putamen", "cerebellum_cortex"):
        assert volumes[structure] == pytest.approx(studio.reference[structure], rel=0.03)


@pytest.mark.parametrize(
    "changes",
    [
        {"diagnosis": "AD", "severity": 1.0},
        {"age": 70.0},
        {"age": 85.0},
        {"age": 75.0, "diagnosis": "AD", "severity": 1.0},
    ],
    ids=["AD", "70 years", "85 years", "75 years and AD"],
)
def test_a_person_has_the_volumes_asked_for(changes: dict[str, Any], studio: Studio) -> None:
    asked = wanted_changes(load_anatomy(builtin_path()), studio.subject(**changes), True)
    volumes = studio.volumes(**changes)
    for structure in ("hippocampus", "putamen", "thalamus", "cerebral_cortex", "lateral_ventricle"):
        realised = np.log(volumes[structure] / studio.reference[structure])
        assert realised == pytest.approx(asked[structure], abs=0.1 if "ventricle" in structure else 0.05), structure


@pytest.mark.parametrize("index", range(6))
def test_drawn_people_have_the_volumes_asked_for_warp_and_pose_and_all(index: int) -> None:
    generator = LabelMap(shape=(144, 172, 144), spacing=1.25, ages=(40.0, 90.0), neck=(0.0, 0.0, 0.0))
    params = generator.draw(rng_for(77, index))
    who, anatomy = Person(**params["person"]), load_anatomy(builtin_path())
    covariates = generator.render(params).covariates
    head = who.icv_ml / anatomy.intracranial_ml
    asked = wanted_changes(anatomy, who, True)
    for structure in ("hippocampus", "amygdala", "putamen", "thalamus", "lateral_ventricle"):
        found = sum(float(covariates[f"volume_{side}_{structure}"]) for side in ("left", "right"))
        realised = float(np.log(found / (anatomy.volumes[structure] * head)))
        expected = float(np.clip(asked[structure], -morphometry.LOG_LIMIT, morphometry.LOG_LIMIT))
        allowed = {"lateral_ventricle": 0.1, "amygdala": 0.08}.get(structure, 0.05)  # 1.25 mm: voxels count for more
        assert realised == pytest.approx(expected, abs=allowed), structure


def test_ventricles_grow_with_age_and_with_ad(studio: Studio) -> None:
    ages = [studio.realised("lateral_ventricle", age=age) for age in (20.0, 30.0, 50.0, 70.0)]
    assert ages == sorted(ages) and ages[-1] > 0.5
    assert studio.realised("lateral_ventricle", diagnosis="AD", severity=1.0) > 0.2


@pytest.mark.parametrize(
    "changes",
    [
        {"diagnosis": "AD", "severity": 1.0},
        {"age": 20.0},
        {"age": 70.0},
        {"age": 90.0, "diagnosis": "AD", "severity": 1.0},
    ],
    ids=["AD", "20 years", "70 years", "90 years and AD"],
)
def test_the_skull_stays_as_large_as_it_was(changes: dict[str, Any], studio: Studio) -> None:
    assert studio.realised("intracranial", **changes) == pytest.approx(0, abs=0.015)


def test_a_larger_head_is_larger_by_what_was_asked(studio: Studio) -> None:
    params = {**studio.params, "person": {**studio.subject().as_params(), "icv_ml": studio.size * 0.9}}
    smaller = studio.generator.render(params).covariates["volume_intracranial"]
    assert float(smaller) == pytest.approx(0.9 * studio.reference["intracranial"], rel=0.01)


@pytest.mark.parametrize("warp_mm", [0.0, 1.5, 3.0])
@pytest.mark.parametrize("severity", [1.0, 2.0])
def test_nothing_folds_even_in_the_oldest_and_the_most_ill(warp_mm: float, severity: float, studio: Studio) -> None:
    generator = LabelMap(shape=(88, 104, 84), spacing=2.0, warp_mm=warp_mm)
    who = studio.subject(age=90.0, diagnosis="AD", severity=severity)
    nodes = generator.plan({**studio.params, "person": who.as_params()}).nodes
    still = generator.plan({**studio.params, "person": None}).nodes
    assert np.abs(nodes.values - still.values)[..., :3].max() > 3, "nothing moved, so nothing was tested"
    assert still.smallest_jacobian() > 0.99
    assert nodes.smallest_jacobian() > 0


def test_a_fold_is_seen_in_a_mirrored_head_too() -> None:
    axes = np.meshgrid(*[np.arange(6.0)] * 3, indexing="ij")
    for side in (1.0, -1.0):
        values = np.stack([side * axes[0], axes[1], axes[2]], axis=-1).astype(np.float32)
        assert images.Nodes(values, 1).smallest_jacobian() == pytest.approx(1)
        values[3, 3, 3, 0] -= side * 2.5
        assert images.Nodes(values, 1).smallest_jacobian() < 0


def test_the_random_warp_has_the_strength_it_says() -> None:
    box = morphometry.velocity_grid(load_anatomy(builtin_path()), tuple(effects()))
    flows = [morphometry.random_velocity(rng_for(seed, 0), box, 1.5, 25.0) for seed in range(4)]
    assert np.std(flows) == pytest.approx(1.5, rel=0.1)
