"""Each effect of the appearance model does what its name says, alone, and at the strength asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion

from synth.anatomy.labels import label_table
from synth.appearance import image as images
from synth.appearance import kernel, kspace, priors
from synth.appearance.contrast import draw_contrast, draw_scanner
from synth.errors import UserError
from synth.keys import rng_for
from synth.labelmap import LabelMap
from synth.sample import Sample
from tests.conftest import ROOT
from tests.synth.test_labelmap import QUIET, centre_mm

FINE: dict[str, Any] = {"shape": (80, 96, 84), "spacing": 2.0, "flip": False}


def pair(index: int = 0, spacing: float = 2.0, **effect: Any) -> tuple[Sample, Sample]:
    """The same head on the same scanner, without and with one effect."""
    quiet = LabelMap(**{**FINE, "spacing": spacing, **QUIET})
    params = quiet.draw(rng_for(5, index))
    return quiet.render(params), quiet.render({**params, "scanner": {**params["scanner"], **effect}})


def spectrum(sample: Sample, axis: int) -> np.ndarray:
    """Power by frequency along one axis, lowest first."""
    power: np.ndarray = (np.abs(np.fft.rfft(sample.image[0], axis=axis)) ** 2).sum(
        tuple(a for a in range(3) if a != axis)
    )
    return power


def interior(sample: Sample, *numbers: int) -> np.ndarray:
    """Voxels two voxels inside some labels."""
    assert sample.label is not None
    inside: np.ndarray = binary_erosion(np.isin(sample.label, numbers), iterations=2)
    return inside


# --- the volume as a whole -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("contrast", ["t1w", "t2w", "flair", "random"])
def test_the_same_params_give_the_same_bits(contrast: Any) -> None:
    generator = LabelMap(**FINE, contrast=contrast, deformation="strong")
    params = generator.draw(rng_for(0, 1))
    first, second = generator.render(params), generator.render(params)
    assert np.array_equal(first.image, second.image) and np.array_equal(first.label, second.label)
    assert not np.array_equal(first.image, generator.render({**params, "noise_seed": 1}).image)


@pytest.mark.parametrize(
    "contrast, order",
    [
        ("t1w", ("cerebral_white_matter", "cerebral_cortex", "lateral_ventricle")),
        ("t2w", ("lateral_ventricle", "cerebral_cortex", "cerebral_white_matter")),
        ("flair", ("cerebral_cortex", "cerebral_white_matter", "lateral_ventricle")),
    ],
)
def test_tissues_have_the_order_of_their_contrast_on_every_scanner(contrast: str, order: tuple[str, ...]) -> None:
    for index in range(50):
        rng = rng_for(1, index)
        scanner = draw_scanner(rng, None, contrast, priors.complete(contrast, {}))
        means = [draw_contrast(contrast, rng, scanner, label_table())[structure][0] for structure in order]
        assert means == sorted(means, reverse=True), index


def test_an_effect_comes_as_often_and_as_strong_as_its_prior_says() -> None:
    generator = LabelMap(motion=(0.25, 1.0, 3.0), gamma=(1.0, 0.5, 2.0))
    scanners = [generator.draw(rng_for(0, i))["scanner"] for i in range(400)]
    motion = [scanner["motion"] for scanner in scanners if scanner["motion"] is not None]
    assert 70 < len(motion) < 130
    assert min(motion) >= 1 and max(motion) <= 3 and np.mean(motion) == pytest.approx(2, abs=0.2)
    assert np.median([scanner["gamma"] for scanner in scanners]) == pytest.approx(1, abs=0.1), "log-uniform"


@pytest.mark.parametrize("name", priors.EFFECTS)
def test_every_effect_can_be_switched_off(name: str) -> None:
    lowest = priors.EFFECTS[name].lowest
    generator = LabelMap(contrast="random", **{name: (0.0, lowest, lowest)})
    assert all(generator.draw(rng_for(0, i))["scanner"][name] is None for i in range(20))


@given(st.sampled_from(sorted(priors.EFFECTS)), st.tuples(*[st.floats(-3, 30)] * 3))
def test_a_prior_is_either_refused_or_kept_as_it_is(name: str, prior: tuple[float, float, float]) -> None:
    effect = priors.EFFECTS[name]
    chance, low, high = prior
    if 0 <= chance <= 1 and effect.lowest <= low <= high <= effect.highest:
        assert priors.check(name, prior) == prior
    else:
        with pytest.raises(UserError, match=name):
            priors.check(name, prior)


def test_the_recipe_holds_every_prior_in_numbers() -> None:
    from synth.generator import GeneratorSpec

    for contrast in priors.PRIORS:
        arguments = GeneratorSpec("LabelMap", {"contrast": contrast, "noise": (1, 0, 0.5)}).recipe()["init_args"]
        assert arguments["noise"] == [1.0, 0.0, 0.5]
        for name in set(priors.EFFECTS) - {"noise"}:
            assert arguments[name] == list(priors.PRIORS[contrast][name])


# --- noise ------------------------------------------------------------------------------------------------------------


def test_gaussian_noise_has_the_sd_asked_for_and_a_normal_shape() -> None:
    noisy = np.full((40, 41, 42), 100.0, np.float32)
    kernel.add_noise(noisy, np.float32(5), np.float32(0), np.uint64(3), kernel.normal_table())
    assert noisy.mean() == pytest.approx(100, abs=0.1) and noisy.std() == pytest.approx(5, rel=0.02)
    standard = (noisy - 100) / 5
    assert np.mean(standard**3) == pytest.approx(0, abs=0.05) and np.mean(standard**4) == pytest.approx(3, abs=0.15)
    neighbours = [np.corrcoef(standard[1:].ravel(), standard[:-1].ravel())[0, 1]]
    neighbours += [np.corrcoef(standard[..., lag:].ravel(), standard[..., :-lag].ravel())[0, 1] for lag in (1, 2, 5)]
    assert np.abs(neighbours).max() < 0.02


def test_rician_noise_lifts_the_background_as_rayleigh_says() -> None:
    dark = np.zeros((40, 41, 42), np.float32)
    kernel.add_noise(dark, np.float32(0), np.float32(4), np.uint64(3), kernel.normal_table())
    assert dark.mean() == pytest.approx(4 * np.sqrt(np.pi / 2), rel=0.02)
    assert dark.std() == pytest.approx(4 * np.sqrt(2 - np.pi / 2), rel=0.02)


# --- smooth fields ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_sd", [0.1, 0.5])
def test_the_bias_field_has_the_strength_asked_for_and_is_smooth(log_sd: float) -> None:
    fields = [np.log(images.bias_field((50, 60, 50), [150.0, 180.0, 150.0], log_sd, rng_for(s, 0))) for s in range(40)]
    assert np.std(fields) == pytest.approx(log_sd, rel=0.1)
    assert max(np.diff(f, axis=a).std() for f in fields for a in range(3)) < 0.15 * log_sd


def test_a_bias_field_brightens_one_part_of_the_head_and_darkens_another() -> None:
    plain, biased = pair(bias=0.4)
    inside = interior(plain, 2, 41)
    assert plain.image[0][inside].std() < 0.02
    assert biased.image[0][inside].std() > 0.1


# --- resolution --------------------------------------------------------------------------------------------------------


def test_thick_slices_lose_detail_along_one_axis_alone() -> None:
    lost = []
    for index in range(6):
        plain, thick = pair(index, slices=7.0)
        kept = [spectrum(thick, a)[24:].sum() / spectrum(plain, a)[24:].sum() for a in range(3)]
        assert sorted(kept)[0] < 0.3 * sorted(kept)[1]
        lost.append(int(np.argmin(kept)))
        assert np.array_equal(plain.label, thick.label)
    assert len(set(lost)) > 1, "the axis is drawn"


def test_larger_voxels_lose_detail_along_every_axis() -> None:
    plain, coarse = pair(resolution=6.0)
    assert all(spectrum(coarse, a)[28:].sum() < 0.3 * spectrum(plain, a)[28:].sum() for a in range(3))


def test_resampling_keeps_a_flat_image_flat_and_a_ramp_a_ramp() -> None:
    spacing, shape = (1.0, 1.0, 1.0), (60, 20, 20)
    scanner = {**dict.fromkeys(priors.EFFECTS, None), "resolution": 4.0}
    plan = images.plan_acquisition(shape, scanner, spacing, 1.0, 3)
    assert all(2 < distance <= 4 for distance, _ in plan.voxels) and plan.shape[0] < 30
    flat = images.acquire(np.ones(shape, np.float32), plan, spacing)
    assert flat.shape == shape and np.allclose(flat, 1, atol=1e-5)
    ramp = np.broadcast_to(np.arange(60, dtype=np.float32)[:, None, None], shape).copy()
    assert np.abs(images.acquire(ramp.copy(), plan, spacing) - ramp)[6:-6].max() < 0.05


def test_blur_is_a_gaussian_of_the_sd_asked_for() -> None:
    point = np.zeros((41, 43, 45), np.float32)
    point[20, 21, 22] = 1
    images._spread(point, tuple(images._taps(3.0 / spacing) for spacing in (1.0, 1.5, 2.0)))
    assert point.sum() == pytest.approx(1, abs=1e-5)
    for axis, spacing in enumerate((1.0, 1.5, 2.0)):
        at = np.arange(point.shape[axis]) * spacing
        line = point.sum(tuple(a for a in range(3) if a != axis))
        assert np.sqrt((line * (at - (line * at).sum()) ** 2).sum()) == pytest.approx(3, rel=0.06)


def test_a_voxel_at_a_boundary_is_between_its_tissues() -> None:
    plain, _ = pair(spacing=2.0)
    ventricle, image = np.isin(plain.label, (4, 43)), plain.image[0]
    white = np.median(image[np.isin(plain.label, (2, 41))])
    fluid = image[ventricle].min()
    between = (image[ventricle] > fluid + 0.2 * (white - fluid)) & (image[ventricle] < fluid + 0.8 * (white - fluid))
    assert between.mean() > 0.1


# --- k-space -----------------------------------------------------------------------------------------------------------


def test_a_moving_head_leaves_ghosts_outside_it_and_stays_where_it_was() -> None:
    plain, moved = pair(motion=4.0)
    outside = plain.label == 0
    assert moved.image[0][outside].mean() > 1.5 * plain.image[0][outside].mean()
    assert np.corrcoef(plain.image[0].ravel(), moved.image[0].ravel())[0, 1] > 0.8


def test_a_head_that_does_not_move_leaves_no_ghost() -> None:
    image = rng_for(0, 0).random((20, 22, 24), dtype=np.float32)
    still = kspace.move_head(image, *kspace.motion_filter(image.shape, 0.0, ((1.0, 0.0),) * 3, rng_for(1, 0)))
    assert np.allclose(still, image, atol=1e-4)


def test_ringing_leaves_nothing_beyond_the_k_space_kept() -> None:
    image = np.zeros((64, 64, 64), np.float32)
    image[20:44, 20:44, 20:44] = 100
    rung = kspace.ring(image, 0.5)
    assert rung[30:34, 30:34].max() > 103, "overshoot at the edge"
    assert np.abs(np.fft.rfft(rung[32, 32])[20:]).max() < 0.25 * np.abs(np.fft.rfft(image[32, 32])[20:]).max()
    assert np.allclose(kspace.ring(image, 1.0), image, atol=1e-3)


def test_spikes_are_plane_waves() -> None:
    image = np.full((32, 36, 40), 100.0, np.float32)
    spiked = kspace.add_spikes(image, kspace.spike_waves(image.shape, 10.0, rng_for(3, 0)))
    power = np.sort(np.abs(np.fft.fftn(spiked - spiked.mean())).ravel() ** 2)[::-1]
    assert spiked.std() > 5
    assert power[:200].sum() > 0.7 * power.sum(), "a few points of k-space hold it"


# --- tone --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_gamma_is_a_power_of_the_scaled_intensity(gamma: float) -> None:
    image = np.linspace(0, 1.4, 1000, dtype=np.float32)
    expected = image**gamma
    kernel.apply_tone(image, np.float32(1), images.tone_curve(gamma), 0)
    assert np.abs(image - expected)[5:].max() < 2e-3


def test_quantisation_leaves_the_steps_asked_for() -> None:
    _, quantised = pair(quantise=15.0)
    values = np.unique(quantised.image)
    assert len(values) <= 24 and np.allclose(values * 15, np.rint(values * 15), atol=1e-4)


def test_texture_varies_a_tissue_by_the_spread_drawn() -> None:
    found = []
    for contrast, factor in (("random", 0.5), ("random", 1.0), ("t1w", 1.0)):
        quiet = LabelMap(**{**FINE, **QUIET}, contrast=contrast)
        params = quiet.draw(rng_for(5, 0))
        mean, sd = params["contrast"]["cerebral_white_matter"]
        scanner = {**params["scanner"], "texture": factor, "coarse": 0.0}
        sample = quiet.render({**params, "scanner": scanner, "contrast": {**params["contrast"]}})
        white = sample.image[0][interior(sample, 2, 41)]
        found.append(white.std() / white.mean() / (factor * sd / mean))
    assert found[:2] == pytest.approx([1.0, 1.0], abs=0.15)
    assert found[2] == pytest.approx(8**-0.5, abs=0.1), "a voxel of 8 mm³ averages"


# --- field of view ------------------------------------------------------------------------------------------------------


def test_the_neck_is_cut_where_asked() -> None:
    plain, cut = pair(neck=-10.0)
    _, deep = pair(neck=-30.0)
    bottom = [np.flatnonzero((s.label > 0).any((0, 1)))[0] for s in (plain, cut, deep)]
    assert bottom[0] < bottom[1] < bottom[2] and FINE["spacing"] * (bottom[2] - bottom[1]) == pytest.approx(20, abs=2)
    assert (deep.image[0][..., : bottom[2]] == 0).all()
    assert centre_mm(deep, "cerebral_cortex")[2] > centre_mm(plain, "cerebral_cortex")[2] - 1
    assert deep.covariates["volume_brain_stem"] < plain.covariates["volume_brain_stem"], "as written, not as asked"


def test_a_crop_takes_away_no_more_than_its_share() -> None:
    for index in range(8):
        plain, cropped = pair(index, crop=0.5)
        for axis, n in enumerate(FINE["shape"]):
            seen = np.flatnonzero((cropped.image[0] > 0).any(tuple(a for a in range(3) if a != axis)))
            whole = np.flatnonzero((plain.image[0] > 0).any(tuple(a for a in range(3) if a != axis)))
            assert len(seen) >= 0.5 * n - (n - len(whole)) - 1
        inside = cropped.image[0] > 0
        assert np.array_equal(plain.label[inside], cropped.label[inside])  # type: ignore[index]


def test_nothing_of_the_brain_is_left_where_nothing_can_be_seen() -> None:
    generator = LabelMap(**{**FINE, **QUIET}, contrast="random")
    params = generator.draw(rng_for(0, 0))
    tiny = generator.render({**params, "scanner": {**params["scanner"], "neck": -100.0, "crop": 0.9}})
    assert np.isfinite(tiny.image).all() and tiny.label is not None


def test_a_spacing_finer_than_the_label_map_is_warned_of(capfd: pytest.CaptureFixture[str]) -> None:
    LabelMap(shape=(16, 16, 16), spacing=0.5).parents()
    assert "finer than that of label map 'builtin' (1 × 1 × 1 mm)" in capfd.readouterr().err
    LabelMap(shape=(16, 16, 16), spacing=1.0).parents()
    assert capfd.readouterr().err == ""


def test_the_documented_priors_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "appearance.md").read_text()
    for name, effect in priors.EFFECTS.items():
        columns = [priors.PRIORS[contrast][name] for contrast in ("t1w", "t2w", "random")]
        shown = " | ".join(f"{chance:g}, {low:g}–{high:g}" for chance, low, high in columns)
        assert f"| `{name}` | {effect.unit} | {shown} |" in page
