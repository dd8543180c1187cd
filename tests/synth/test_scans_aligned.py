"""Scans on the template: a moved brain comes back, in the same bits, and the record says what was done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synth.align import RegistrationError, template, to_scan_of
from synth.anatomy.people import MEAN_ICV_ML
from synth.anatomy.source import builtin_path, load_anatomy
from synth.brain import brain_of
from synth.corpus import Corpus, as_stored
from synth.engine import Job, generate
from synth.errors import UserError
from synth.generator import GeneratorSpec
from synth.keys import rng_for
from synth.sample import Sample
from synth.scans import Scans
from synth.verify import verify
from tests.conftest import Run
from tests.synth import test_bad_input
from tests.synth.brains import MOVED, STILL, builtin, put, study
from tests.synth.test_bad_input import refuse

place = test_bad_input.place
GRID: dict[str, Any] = {"shape": (32, 40, 32), "spacing": 5.0}
ALIGNED: dict[str, Any] = {**GRID, "stripped": True, "align": True}
LANDMARKS = {"lateral ventricle": (4, 43), "thalamus": (10, 49), "hippocampus": (17, 53), "brainstem": (16,)}
SIDES = [(n,) for pair in LANDMARKS.values() for n in pair]


def drawn(scans: Scans, index: int) -> tuple[dict[str, Any], Sample]:
    params = json.loads(json.dumps(scans.draw_at(index, rng_for(0, index))))
    return params, scans.render(params)


def centroids() -> np.ndarray:
    """``[structures, 4]`` middles of structures of the unmoved brain in mm, homogeneous."""
    sample = builtin()
    assert sample.label is not None
    middles = [np.argwhere(np.isin(sample.label, numbers)).mean(0) for numbers in SIDES]
    return np.column_stack([np.array(middles), np.ones(len(middles))]) @ sample.affine.T


def test_structures_of_a_moved_brain_come_back_to_where_the_unmoved_one_has_them(tmp_path: Path) -> None:
    scans = Scans(study(tmp_path, STILL, MOVED), **ALIGNED)
    (first, still), (second, back) = drawn(scans, 0), drawn(scans, 1)
    anatomy = load_anatomy(builtin_path())
    here = centroids()
    wanted = here[:, :3] * (MEAN_ICV_ML / anatomy.intracranial_ml) ** (1 / 3)  # as the template has them
    for params, where in ((first, STILL), (second, MOVED)):
        found = here @ (np.linalg.inv(to_scan_of(params["align"])) @ where).T
        assert np.linalg.norm(found[:, :3] - wanted, axis=1).max() < 1.5
    assert np.corrcoef(still.image.ravel(), back.image.ravel())[0, 1] > 0.98
    loose = Scans(tmp_path, **GRID, stripped=True)
    unaligned = np.corrcoef(drawn(loose, 0)[1].image.ravel(), drawn(loose, 1)[1].image.ravel())[0, 1]
    assert unaligned < 0.95


def test_the_volume_is_the_scan_seen_once_through_the_recorded_map(tmp_path: Path) -> None:
    """A ball of 25 mm in the scan lies where the map's inverse sends it."""
    scans = Scans(study(tmp_path, MOVED), **ALIGNED)
    params, volume = drawn(scans, 0)
    brain = brain_of(scans.folder / params["scan"], params["sha256"], True, False)
    at = np.array(brain.image.shape) // 2 + [6, 4, 3]
    axes = np.meshgrid(*(np.arange(n) for n in brain.image.shape), indexing="ij")
    ball = sum((axis - centre) ** 2 for axis, centre in zip(axes, at, strict=True)) < 5**2
    brain.image[...] = np.where(ball, 1, 0)
    seen = scans.render(params).image[0]
    weights = seen / seen.sum()
    voxel = [float((axis * weights).sum()) for axis in np.meshgrid(*(np.arange(n) for n in seen.shape), indexing="ij")]
    expected = np.linalg.inv(to_scan_of(params["align"])) @ brain.affine @ [*at, 1]
    brain_of.cache_clear()
    assert np.linalg.norm((volume.affine @ [*voxel, 1] - expected)[:3]) < 0.5


def test_the_template_lies_as_labelmap_lays_the_anatomy() -> None:
    inside = np.argwhere(template() > 0.15)
    middle = (inside.min(0) + inside.max(0)) / 2 - (np.array(template().shape) - 1) / 2
    assert np.abs(middle).max() <= 1.0  # voxels of 4 mm: sulcal CSF is no part of the brain's box
    assert abs((template() > 0.15).sum() * 64 / 1000 / MEAN_ICV_ML - 1) < 0.1


def test_ray_workers_make_the_same_aligned_corpus(tmp_path: Path, ray_of_two: Any, run: Run) -> None:
    spec = GeneratorSpec("Scans", {"folder": study(tmp_path / "study", STILL, MOVED), **ALIGNED})
    for name, workers in (("a.zarr", 0), ("b.zarr", 2)):
        assert not generate(Job(spec, 2, 0, tmp_path / name, shard_size=1), workers).failed
    corpus = Corpus(tmp_path / "a.zarr")
    assert Corpus(tmp_path / "b.zarr").identity() == corpus.identity()
    assert not [problem for _, found in verify(corpus) for problem in found]
    assert corpus.header.parents[-1]["kind"] == "template"
    answer = run("synth", "explain", tmp_path / "b.zarr", 1, "--check")
    assert answer.out.endswith("the same bits\n") and '"template_to_scan"' in answer.out


def test_import_records_options_and_what_they_did_and_does_it_again_alike(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synth.quality.N4_ITERATIONS", (3,))  # how good it is, is not asked here
    folder = study(tmp_path / "study", MOVED)
    words = ("--shape", "32,40,32", "--spacing", "5", "--stripped", "--align", "--n4", "--workers", "0")
    assert run("synth", "import", folder, *words, "--out", tmp_path / "a.zarr").code == 0
    corpus = Corpus(tmp_path / "a.zarr")
    options = corpus.header.recipe["generator"]["init_args"]
    assert (options["strip"], options["stripped"], options["align"], options["n4"]) == (False, True, True, True)
    params = corpus.entry(0)["params"]
    assert len(params["align"]["template_to_scan"]) == 12 and params["align"]["by"].startswith("SimpleITK ")
    low, high = params["n4"]["bias_p05_p95"]
    assert low < 1 < high
    volume = np.linalg.det(MOVED[:3, :3]) * load_anatomy(builtin_path()).intracranial_ml
    assert params["brain_ml"] == pytest.approx(volume, rel=0.03)
    start, end = params["align"]["mutual_information"]
    assert end > start
    brain_of.cache_clear()
    again, volume_again = drawn(Scans(folder, **ALIGNED, n4=True), 0)
    assert again == params and np.array_equal(as_stored(volume_again.image, "uint8")[0], corpus.stored(0))


def test_strip_finds_the_brain_once_a_scan_and_align_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    mask = builtin().label > 0  # type: ignore[operator]

    def brain_mask(image: Any, affine: Any, path: Path) -> Any:
        looked.append(path)
        return mask

    monkeypatch.setattr("synth.strip.check_installed", lambda: None)
    monkeypatch.setattr("synth.strip.strip_parents", lambda: [])
    monkeypatch.setattr("synth.strip.brain_mask", brain_mask)
    folder = study(tmp_path / "heads", STILL, MOVED, MOVED, strip=False)
    spec = GeneratorSpec("Scans", {"folder": folder, **GRID, "strip": True, "align": True})
    assert not generate(Job(spec, 3, 0, tmp_path / "a.zarr")).failed
    assert len(looked) == 3 + 1  # the last one also before anything is made
    params = Corpus(tmp_path / "a.zarr").entry(1)["params"]
    alone, _ = drawn(Scans(study(tmp_path / "brains", STILL, MOVED), **ALIGNED), 1)
    assert np.allclose(to_scan_of(params["align"]), to_scan_of(alone["align"]), atol=0.05)


def planted_bias(shape: tuple[int, ...]) -> np.ndarray:
    """A field from 0.7 to 1.3, brighter to the right and the front."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return (1 + 0.3 * np.sin(1.2 * (x + y))).astype(np.float32)


def test_n4_takes_out_most_of_a_planted_bias(tmp_path: Path) -> None:
    sample = builtin()
    assert sample.label is not None
    image = np.where(sample.label > 0, sample.image[0], 0)
    put(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz", image * planted_bias(image.shape), sample.affine)
    white = np.isin(sample.label, (2, 41))
    path = tmp_path / "sub-01/anat/sub-01_T1w.nii.gz"
    spread = {}
    for n4 in (False, True):
        values = brain_of(path, "", True, n4).image[white]
        spread[n4] = float(values.std() / values.mean())
    without = float(image[white].std() / image[white].mean())
    assert spread[False] > without + 0.03
    assert spread[True] - without < 0.5 * (spread[False] - without)


# -- what is refused, or fails


def ball(path: Path, radius_mm: float) -> Path:
    axes = np.meshgrid(*(np.arange(n) * 5.0 - n * 2.5 for n in (48, 56, 48)), indexing="ij")
    inside = sum(axis**2 for axis in axes) < radius_mm**2
    return put(path, (inside * 90).astype(np.float32), builtin().affine)


@pytest.mark.parametrize("which", [1, 2])
def test_a_brain_that_fits_nowhere_fails_alone_be_it_first_or_last(which: int, tmp_path: Path) -> None:
    folder = study(tmp_path / "study", STILL, STILL)
    ball(folder / f"sub-{which:02d}/anat/sub-{which:02d}_T1w.nii.gz", 32.0)  # 137 mL
    outcome = generate(Job(GeneratorSpec("Scans", {"folder": folder, **ALIGNED}), 2, 0, tmp_path / "a.zarr"))
    assert list(outcome.failed) == [which - 1]
    assert f"sub-{which:02d}_T1w.nii.gz' comes out at 0." in outcome.failed[which - 1]
    assert len(list(Corpus(tmp_path / "a.zarr").entries())) == 1


def test_a_registration_that_does_not_help_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synth.align._optimise", lambda *_: None)
    with pytest.raises(RegistrationError, match="lies no better on the template after registration"):
        Scans(study(tmp_path, MOVED), **ALIGNED).draw_at(0, rng_for(0, 0))


@pytest.mark.parametrize(
    "words, says",
    [
        (("--align",), "align needs the brain alone; add strip, or stripped"),
        (("--n4",), "n4 needs the brain alone; add strip, or stripped"),
        (("--strip", "--stripped"), "strip and stripped are both set"),
    ],
)
def test_options_at_odds_are_refused(words: tuple[str, ...], says: str, place: Path, run: Run) -> None:
    study(place / "bids", STILL)
    refuse(run, place, "synth", "import", "bids", *words, "--workers", "0", "--out", "new.zarr", says=says)


def test_without_simpleitk_the_command_that_mends_it_is_named(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(place / "bids", STILL)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = ("--stripped", "--align", "--workers", "0", "--out", "new.zarr")
    refuse(run, place, "synth", "import", "bids", *words, says="pip install SimpleITK")


def test_a_whole_head_is_not_taken_for_a_brain(tmp_path: Path) -> None:
    scans = Scans(study(tmp_path, STILL, strip=False), **GRID, stripped=True)
    with pytest.raises(UserError, match=r"holds \d+ mL above zero; expected the 100 to 2500 of a brain alone"):
        drawn(scans, 0)
