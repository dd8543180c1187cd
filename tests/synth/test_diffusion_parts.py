"""Samplers, losses and the ControlNet of latent diffusion, each by what is known of it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synth.corpus import Corpus
from synth.diffusion.generator import Diffusion
from synth.diffusion.learning import precision_for
from synth.diffusion.losses import Judges, Perceptual, divergence
from synth.diffusion.networks import Autoencoder, Control, build_unet, foretell
from synth.diffusion.people import Masks
from synth.diffusion.processes import BETAS, TRAIN_TIMESTEPS, make_sampler, noisy_and_wanted, shifted
from synth.diffusion.settings import Autoencoding, Controlling, Denoising, Size
from synth.diffusion.stages import Frame, untold
from synth.errors import UserError
from synth.keys import rng_for
from tests.synth.test_diffusion import make, train

MEAN, SD = 3.0, 0.5  # of the toy distribution, whose best answers are known


def shares(times: torch.Tensor) -> torch.Tensor:
    """ᾱ of DDPM at times."""
    betas = (
        torch.linspace(BETAS["beta_start"] ** 0.5, BETAS["beta_end"] ** 0.5, TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
    )
    return (1 - betas).cumprod(0)[times]


def best_answer(prediction: str, noisy: torch.Tensor, time: int) -> torch.Tensor:
    """What a perfect network says of normal data with MEAN and SD."""
    if prediction == "rectified_flow":
        t = (time + 1) / TRAIN_TIMESTEPS
        signal, noise = 1 - t, t
    else:
        share = float(shares(torch.tensor(time)))
        signal, noise = share**0.5, (1 - share) ** 0.5
    variance = signal**2 * SD**2 + noise**2
    clean = MEAN + signal * SD**2 / variance * (noisy - signal * MEAN)
    found = (noisy - signal * clean) / noise
    if prediction == "epsilon":
        return found
    return clean - found if prediction == "rectified_flow" else signal * found - noise * clean


def walked(sampler: str, prediction: str, steps: int, noise: torch.Tensor) -> torch.Tensor:
    made = make_sampler(sampler, prediction, steps)
    latent = noise
    for at, time in enumerate(made.times):
        latent = made.step(best_answer(prediction, latent, time), at, latent)
    return made.end(latent)


CASES = [
    ("ddim", "epsilon"),
    ("ddim", "v_prediction"),
    ("pndm", "epsilon"),
    ("pndm", "v_prediction"),
    ("adams_bashforth", "rectified_flow"),
    ("rectified_flow", "rectified_flow"),
]


@pytest.mark.parametrize(("sampler", "prediction"), CASES)
def test_a_sampler_with_a_perfect_network_makes_the_distribution(sampler: str, prediction: str) -> None:
    noise = torch.linspace(-2.5, 2.5, 51)[None, None, :, None, None]
    made = walked(sampler, prediction, 500, noise)
    torch.testing.assert_close(made, MEAN + SD * noise, atol=0.04, rtol=0)  # DDPM's last share of the mean is 0.035


@pytest.mark.parametrize("steps", [501, 667, 750, 999])
@pytest.mark.parametrize(("sampler", "prediction"), CASES)
def test_numbers_of_steps_that_do_not_divide_the_timesteps_make_the_distribution_too(
    sampler: str, prediction: str, steps: int
) -> None:
    noise = torch.linspace(-2.5, 2.5, 51)[None, None, :, None, None]
    made = walked(sampler, prediction, steps, noise)
    torch.testing.assert_close(made, MEAN + SD * noise, atol=0.04, rtol=0)


@given(st.integers(1, TRAIN_TIMESTEPS))
def test_steps_are_even_to_one_timestep_and_end_clean(steps: int) -> None:
    times = [*make_sampler("ddim", "epsilon", steps).times, -1]
    apart = [early - late for early, late in pairwise(times)]
    assert times[0] == TRAIN_TIMESTEPS - 1 and max(apart) - min(apart) <= 1


@pytest.mark.parametrize("steps", [1, 25, 50, 500, 1000])
def test_numbers_of_steps_that_divide_the_timesteps_are_as_far_apart_as_ever(steps: int) -> None:
    apart = TRAIN_TIMESTEPS // steps
    assert make_sampler("ddim", "epsilon", steps).times == [TRAIN_TIMESTEPS - 1 - at * apart for at in range(steps)]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_pndm_needs_fewer_steps_than_ddim(prediction: str) -> None:
    noise = torch.linspace(-2.5, 2.5, 51)[None, None, :, None, None]
    errors = {
        name: float((walked(name, prediction, 20, noise) - MEAN - SD * noise).abs().mean()) for name in ("ddim", "pndm")
    }
    assert errors["pndm"] < 0.5 * errors["ddim"]


def test_adams_bashforth_is_nearer_than_euler_in_as_many_steps() -> None:
    noise = torch.linspace(-2.5, 2.5, 51)[None, None, :, None, None]
    errors = {
        name: float((walked(name, "rectified_flow", 50, noise) - MEAN - SD * noise).abs().mean())
        for name in ("rectified_flow", "adams_bashforth")
    }
    assert errors["adams_bashforth"] < 0.5 * errors["rectified_flow"]


@given(st.floats(1, 10))
def test_shifted_times_keep_their_order_and_lean_towards_noise(shift: float) -> None:
    times = np.arange(TRAIN_TIMESTEPS)
    moved = shifted(times, shift)
    assert (np.diff(moved) >= 0).all() and (moved >= times).all() and moved[-1] == times[-1] and moved[0] >= 0
    assert np.array_equal(shifted(times, 1.0), times)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 25, 1000])
def test_steps_begin_at_pure_noise_and_are_as_many_as_asked_for(steps: int) -> None:
    ddim, pndm = make_sampler("ddim", "epsilon", steps).times, make_sampler("pndm", "epsilon", steps).times
    assert len(ddim) == steps and ddim[0] == TRAIN_TIMESTEPS - 1
    assert len(pndm) == steps + (steps > 1) and sorted(set(pndm), reverse=True) == ddim
    flow = make_sampler("rectified_flow", "rectified_flow", steps).times
    assert len(flow) == steps and flow[0] == TRAIN_TIMESTEPS - 1


@given(st.integers(0, TRAIN_TIMESTEPS - 1))
def test_what_is_wanted_leads_from_the_noisy_latent_back(time: int) -> None:
    latent, noise = torch.full((1, 1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1, 1), -1.0)
    times = torch.tensor([time])
    noisy, wanted = noisy_and_wanted("rectified_flow", latent, noise, times)
    torch.testing.assert_close(noisy + (time + 1) / TRAIN_TIMESTEPS * wanted, latent)
    share = shares(times).float()
    noisy, wanted = noisy_and_wanted("v_prediction", latent, noise, times)
    torch.testing.assert_close(share.sqrt() * noisy - (1 - share).sqrt() * wanted, latent, atol=1e-4, rtol=1e-4)
    noisy, wanted = noisy_and_wanted("epsilon", latent, noise, times)
    assert torch.equal(wanted, noise)


@pytest.mark.parametrize(("native", "word"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_gpu_without_bfloat16_computes_in_32_bits_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], native: bool, word: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert precision_for("auto", Size(), (64, 64, 64)) == word
    assert ("does not compute in bfloat16" in capsys.readouterr().out) == (not native)


def test_divergence_of_a_standard_normal_is_none() -> None:
    assert float(divergence(torch.zeros(2, 3, 4, 4, 4), torch.ones(2, 3, 4, 4, 4))) == 0
    assert float(divergence(torch.ones(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1))) == pytest.approx(0.5)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 16)] * 3, indexing="ij"))
    return ((grid**2).sum(0).sqrt() < 0.7).float()[None, None] + 0.1 * torch.from_numpy(
        rng_for(0, 0).standard_normal((1, 1, 16, 16, 16), np.float32)
    )


def test_perceptual_distance_is_none_to_oneself_and_forgives_brightness_before_blur(image: torch.Tensor) -> None:
    judge = Perceptual()
    blurred = torch.nn.functional.avg_pool3d(image, 3, 1, 1)
    assert float(judge(image, image)) == pytest.approx(0, abs=1e-7)
    assert float(judge(image, image * 1.3 + 0.1)) < 0.01 * float(judge(image, blurred))


def test_perceptual_network_is_the_same_every_time(image: torch.Tensor) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = Perceptual().features(image), Perceptual().features(image)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_judge_of_a_recipe_counts(image: torch.Tensor) -> None:
    judges = Judges(Autoencoding(perceptual=1, spectral=1, adversarial=1, adversarial_from=5), (16, 16, 16))
    back = image + 0.1
    one = torch.ones(1, 1, 4, 4, 4)
    early = judges(image, back, one, one, 4)
    late = judges(image, back, one, one, 5)
    assert set(late) == {"absolute", "kl", "perceptual", "spectral", "adversarial"} and set(late) - set(early) == {
        "adversarial"
    }
    assert all(torch.isfinite(term) and float(term.detach()) > 0 for term in late.values())


def test_a_discriminator_learns_while_the_autoencoder_does(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    corpus = make(tmp_path / "balls.zarr", 4)
    judged = {"perceptual": 0.1, "spectral": 0.01, "adversarial": 0.1, "adversarial_from": 1}
    plain = train(corpus, tmp_path / "plain", diffusion={"steps": 1}, previews=0)
    sharp = train(corpus, tmp_path / "sharp", autoencoder=judged, diffusion={"steps": 1}, previews=0)
    log = (sharp / "log" / "autoencoder" / "metrics.csv").read_text()
    assert "discriminator" in log and "adversarial" in log
    one, other = (load_file(folder / "autoencoder.safetensors") for folder in (plain, sharp))
    assert set(one) == set(other) and any(not np.array_equal(one[name], other[name]) for name in one)


ADVERSARIAL = {"steps": 4, "perceptual": 0.1, "adversarial": 0.5}


def test_two_trainings_with_a_discriminator_and_one_that_was_stopped_end_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synth.diffusion import learning

    corpus = make(tmp_path / "balls.zarr", 4)

    def trained(name: str) -> bytes:
        torch.manual_seed(len(name))  # torch's own stream is elsewhere in every process
        out = train(corpus, tmp_path / name, autoencoder=ADVERSARIAL, diffusion={"steps": 1}, previews=0)
        return (out / "autoencoder.safetensors").read_bytes()

    once = trained("a")
    assert trained("other") == once
    monkeypatch.setattr(learning, "CHECKPOINT_SECONDS", 0.0)
    average = learning.Learning._average

    def stopped(self: Any, step: int) -> None:
        average(self, step)
        if (self.name, step) == ("autoencoder", 2):
            raise RuntimeError("killed")

    monkeypatch.setattr(learning.Learning, "_average", stopped)
    with pytest.raises(RuntimeError, match="killed"):
        trained("stopped")
    monkeypatch.setattr(learning.Learning, "_average", average)
    assert trained("stopped") == once


def test_a_control_net_changes_nothing_before_it_has_learnt() -> None:
    size = Size()
    unet, control = build_unet(size, 2).eval(), Control(size, 2, 3, (8, 16)).eval()
    control.start_from(unet)
    noisy, vector = torch.randn(1, size.latent_channels, 4, 4, 4), torch.rand(1, 2)
    hint = control.embed(torch.randint(0, 3, (1, 16, 16, 16)))
    times = torch.tensor([500])
    with torch.no_grad():
        plain, controlled = foretell(unet, noisy, times, vector), foretell(unet, noisy, times, vector, control, hint)
    torch.testing.assert_close(plain, controlled, atol=1e-6, rtol=1e-6)
    assert torch.equal(dict(control.core.named_parameters())["conv_in.conv.weight"], unet.conv_in.conv.weight)


def test_label_numbers_become_places_and_unknown_ones_background() -> None:
    frame = Frame(0.0, 1.0, ((1, 0), (0, 0), (0, 1)), labels=(0, 4, 43))
    label = torch.tensor([[[[43, 4], [0, 7]]]])
    places = frame.places(label)
    assert places.shape == (1, 2, 2, 3) and places[0, 1].tolist() == [[2, 1, 0], [0, 0, 0]]


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("controlled")
    corpus = make(folder / "balls.zarr", 6)
    weights = train(corpus, folder / "w", control=Controlling(steps=3, batch_size=2, learning_rate=0.01), previews=0)
    return corpus, weights


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_controlled_volumes_come_with_their_label_maps_and_people(
    controlled: tuple[Path, Path], precision: Literal["fp32", "bf16"]
) -> None:
    corpus, weights = controlled
    generator = Diffusion(weights, masks=corpus, steps=2, precision=precision)
    params = generator.draw(rng_for(0, 3))
    sample = generator.render(params)
    source = Corpus(corpus)
    assert sample.label is not None and np.array_equal(sample.label, source.label(params["mask"]))
    assert sample.covariates["age"] == source.entry(params["mask"])["covariates"]["age"]
    assert generator.labels()[43] == "right lateral ventricle"
    assert any(parent.get("kind") == "corpus" and parent["name"] == source.name for parent in generator.parents()[-3:])
    without = Diffusion(weights, steps=2)
    assert without.render(without.draw(rng_for(0, 3))).label is None


def test_the_control_net_draws_pictures_while_it_learns_which_leave_its_weights_as_they_are(
    controlled: tuple[Path, Path], tmp_path: Path
) -> None:
    corpus, plain = controlled
    control = Controlling(steps=3, batch_size=2, learning_rate=0.01)
    drawn = train(corpus, tmp_path / "w", control=control, previews=2)
    names = sorted(path.name for path in (drawn / "progress").iterdir())
    assert [name for name in names if name.startswith("control")] == ["control-000002.png", "control-000003.png"]
    for name in ("autoencoder", "diffusion", "control"):
        assert (drawn / f"{name}.safetensors").read_bytes() == (plain / f"{name}.safetensors").read_bytes()


def test_another_label_map_gives_another_volume(controlled: tuple[Path, Path]) -> None:
    corpus, weights = controlled
    generator = Diffusion(weights, masks=corpus, steps=2)
    params = generator.draw(rng_for(0, 0))
    sexes = [entry["covariates"]["sex"] for entry in Corpus(corpus).entries()]
    unlike = next(number for number, sex in enumerate(sexes) if sex != sexes[params["mask"]])
    other = {**params, "mask": unlike}
    assert not np.array_equal(generator.render(params).image, generator.render(other).image)


@pytest.mark.parametrize("where", ["unet late", "unet beside", "control", "decoder"])
def test_networks_whose_bits_depend_on_the_place_are_shown_one_volume_at_a_time(
    controlled: tuple[Path, Path], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At few timesteps, by what is beside a volume, in the ControlNet or in the decoder: each is found out."""
    corpus, weights = controlled
    generator = Diffusion(weights, masks=corpus, steps=2)
    networks: Any = generator._networks
    assert generator.together == 4
    unet, control, decode = networks.unet.forward, networks.control.core.forward, networks.autoencoder.decode
    places = torch.arange(4.0)[:, None, None, None, None] * 1e-3

    def late(x: Any, times: Any, *rest: Any, **named: Any) -> Any:
        return unet(x, times, *rest, **named) + places * (times < 10)[:, None, None, None, None]

    def beside(x: Any, *rest: Any, **named: Any) -> Any:
        return unet(x, *rest, **named) + 1e-3 * x.std()

    def followed(*parts: Any, **named: Any) -> Any:
        down, middle = control(*parts, **named)
        return down, middle + places

    calls: list[int] = []

    def decoded(latent: Any) -> Any:
        calls.append(1)
        return decode(latent) * (1 - 1e-3 * len(calls))

    broken: dict[str, tuple[Any, str, Any]] = {
        "unet late": (networks.unet, "forward", late),
        "unet beside": (networks.unet, "forward", beside),
        "control": (networks.control.core, "forward", followed),
        "decoder": (networks.autoencoder, "decode", decoded),
    }
    monkeypatch.setattr(*broken[where])
    again = Diffusion(weights, masks=corpus, steps=2)
    again.__dict__["_networks"] = networks
    assert again.together == 1


def test_label_maps_that_do_not_fit_are_refused(controlled: tuple[Path, Path], tmp_path: Path) -> None:
    corpus, weights = controlled
    conditions: Any = Diffusion(weights).conditions
    with pytest.raises(UserError, match="were trained on 8×8×8"):
        Masks(corpus, conditions, (8, 8, 8), {4: "a", 43: "b"})
    with pytest.raises(UserError, match="label 43"):
        Masks(corpus, conditions, (12, 16, 14), {4: "a"})


def test_latents_are_kept_as_mean_and_sd_never_as_a_sample(controlled: tuple[Path, Path], tmp_path: Path) -> None:
    from synth.diffusion.latents import EncodedLatents, statistics, write_stage
    from synth.engine import Job, generate
    from synth.generator import GeneratorSpec

    corpus, weights = controlled
    opened = Diffusion(weights).weights
    folder = tmp_path / "stage"
    folder.mkdir()
    (folder / "autoencoder.safetensors").write_bytes((weights / "autoencoder.safetensors").read_bytes())
    write_stage(folder, Size(), opened.frame)
    spec = GeneratorSpec("synth.diffusion.latents.EncodedLatents", {"corpus": corpus, "weights": folder})
    generate(Job(spec, 6, 0, tmp_path / "latents.zarr", 4, dtype="float32"))
    stored = Corpus(tmp_path / "latents.zarr")
    network: Autoencoder = opened.networks(torch.device("cpu")).autoencoder
    image = opened.frame.image(torch.from_numpy(Corpus(corpus).image(2).astype(np.float32))[None])
    with torch.no_grad():
        mean, sd = network.encode(image)
    np.testing.assert_allclose(stored.image(2), torch.cat([mean, sd], dim=1)[0].numpy(), atol=1e-5)
    assert stored.entry(2)["affine"][0][0] == pytest.approx(12.0 * Size().factor)
    means = np.stack([stored.image(index)[: Size().latent_channels] for index in range(6)])
    known = statistics(stored, centred=True)
    np.testing.assert_allclose(known.centre.numpy(), means.mean(0), atol=1e-5)
    assert known.scale == pytest.approx(1 / (means - means.mean(0)).std(), rel=1e-3)
    assert statistics(stored, centred=False).scale == pytest.approx(1 / means.std(), rel=1e-3)
    assert EncodedLatents(corpus, folder).parents()[0]["sha256"] == Corpus(corpus).identity()


def test_every_number_of_conditions_is_left_untold_about_as_often_as_any_other() -> None:
    options = Denoising(untold=0.1, untold_each=0.4)
    hidden = untold(options, (60_000, 5), rng_for(3, 0, "test"))
    share = np.bincount(hidden.sum(1), minlength=6) / len(hidden)
    assert share[1:5] == pytest.approx(
        np.full(4, 0.9 * 0.4 / 6), abs=0.005
    )  # a rate drawn evenly makes every number as likely
    assert share[5] == pytest.approx(0.1 + 0.9 * 0.4 / 6, abs=0.005)
    alone = (~hidden).sum(1) == 1
    assert (~hidden)[alone].mean(0) == pytest.approx(np.full(5, 0.2), abs=0.02)  # each of them is told alone as often
    assert not untold(Denoising(untold=0.0, untold_each=0.0), (100, 5), rng_for(3, 1, "test")).any()
