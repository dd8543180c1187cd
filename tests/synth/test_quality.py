"""MRIQC's metrics: formulas by hand, masks, and a bias field that is known."""

from __future__ import annotations

import numpy as np
import pytest

from synth import quality
from synth.anatomy.labels import label_table
from synth.labelmap import LabelMap
from synth.quality import Summary
from tests.synth.test_labelmap import QUIET, render


def test_a_summary_is_median_sd_and_scaled_mad() -> None:
    found = Summary.of(np.array([1.0, 2.0, 3.0, 4.0, 100.0]))
    assert (found.median, found.voxels) == (3.0, 5)
    assert found.mad == pytest.approx(1.4826)
    assert found.sd == pytest.approx(np.sqrt(((np.array([1, 2, 3, 4, 100]) - 22) ** 2).mean()))


def test_the_mad_of_normal_values_is_their_sd() -> None:
    values = np.random.Generator(np.random.Philox(1)).normal(100, 7, 20_000)
    assert Summary.of(values).mad == pytest.approx(7, rel=0.03)


def test_an_empty_mask_has_no_summary() -> None:
    assert np.isnan(Summary.of(np.array([])).median)


def test_formulas_are_mriqcs() -> None:
    wm, gm, air = Summary(1000, 50, 40, 101), Summary(600, 60, 40, 101), Summary(0, 20, 15, 101)
    assert quality.cjv(wm, gm) == pytest.approx(80 / 400)
    assert quality.cnr(wm, gm, air) == pytest.approx(400 / np.sqrt(50**2 + 60**2 + 20**2))
    assert quality.snr(wm) == pytest.approx(1000 / (50 * np.sqrt(101 / 100)))


def test_the_bias_range_is_of_the_brain_alone() -> None:
    field = np.linspace(0, 2, 101, dtype=np.float32)[:, None, None] * np.ones((1, 3, 3), np.float32)
    brain = np.zeros(field.shape, bool)
    brain[25:76] = True
    assert quality.inu_range(field, brain) == pytest.approx(0.9, abs=0.03)


@pytest.fixture(scope="module")
def quiet() -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """A volume without bias field, noise or texture, its label map and spacing."""
    sample = render(LabelMap(shape=(92, 112, 94), spacing=2.0, **QUIET))
    assert sample.label is not None
    return sample.image[0], sample.label, sample.spacing


@pytest.mark.parametrize("strength", [0.0, 0.15, 0.3])
def test_the_range_of_a_known_bias_field_is_found_again(strength: float, quiet: tuple) -> None:
    image, label, spacing = quiet
    x = np.linspace(-1, 1, image.shape[0], dtype=np.float32)[:, None, None]
    field = np.exp(strength * x * np.ones(image.shape, np.float32))
    brain = quality.masks(label, spacing, label_table())["brain"]
    found = quality.inu_range(quality.bias_by_n4(image * field, label > 0), brain)
    assert found == pytest.approx(quality.inu_range(field, brain), abs=0.06)


def test_masks_are_eroded_on_fine_grids_alone(quiet: tuple) -> None:
    _, label, _ = quiet
    whole = quality.masks(label, (2.0, 2.0, 2.0), label_table())
    eroded = quality.masks(label, (1.0, 1.0, 1.0), label_table())
    assert 0 < eroded["wm"].sum() < whole["wm"].sum() and not (eroded["gm"] & ~whole["gm"]).any()
    assert not (whole["air"] & whole["head"]).any() and not (whole["brain"] & ~whole["head"]).any()


def test_noise_lowers_snr_and_raises_cjv(quiet: tuple) -> None:
    image, label, _ = quiet
    rng = np.random.Generator(np.random.Philox(2))
    found = []
    for sd in (0.03, 0.09):
        noisy = np.abs(image + sd * rng.standard_normal(image.shape, dtype=np.float32)).astype(np.float32)
        found.append(quality.measure(noisy, label, (1.0, 1.0, 1.0), label_table()))
    assert set(found[0]) == set(quality.METRICS)
    assert found[0]["snr_wm"] > 1.5 * found[1]["snr_wm"] and found[0]["cjv"] < found[1]["cjv"]
    assert found[0]["gm_wm_ratio"] == pytest.approx(found[1]["gm_wm_ratio"], abs=0.05)
    assert 0 < found[0]["csf_wm_ratio"] < found[0]["gm_wm_ratio"] < 1
