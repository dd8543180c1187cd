"""Latent diffusion learns on a corpus and generates through the engine, the same bits whoever asks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from synth.corpus import Corpus
from synth.diffusion.conditions import Condition, encode
from synth.diffusion.generator import Diffusion
from synth.diffusion.weights import CONFIG, open_weights
from synth.engine import Job, generate
from synth.errors import UserError
from synth.generator import Generator, GeneratorSpec, Params
from synth.keys import rng_for
from synth.sample import Sample, centred_affine
from synth.testing import GeneratorConformance, difference
from synth.verify import verify

SHAPE = (12, 16, 14)  # 12 and 14 are no multiples of the networks' 8: padded inside, cut off at the end
MEANT = {"autoencoder_steps": 3, "diffusion_steps": 4, "batch_size": 2}


class Balls(Generator):
    """A ball per person: larger in men, darker with age."""

    def draw(self, rng: np.random.Generator) -> Params:
        return {"age": float(rng.uniform(30, 80)), "sex": str(rng.choice(["F", "M"])), "word": "always"}

    def render(self, params: Params) -> Sample:
        axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
        inside = sum(axis**2 for axis in axes) < (0.7 if params["sex"] == "M" else 0.5)
        diagnosis = "AD" if params["age"] > 60 else "PD" if params["age"] > 45 else "CN"
        covariates = {"age": params["age"], "sex": params["sex"], "diagnosis": diagnosis}
        image = inside[None] * (100 - params["age"]) * 10.0
        return Sample(image, None, covariates, centred_affine(SHAPE, (12.0, 12.0, 12.0)))

    def parents(self) -> list[dict[str, Any]]:
        return [{"kind": "label map", "name": "cohort A", "sha256": "ab" * 32, "licence": "CC0"}]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("balls") / "balls.zarr"
    generate(Job(GeneratorSpec(f"{__name__}.Balls"), 8, 1, out, 4))
    return out


@pytest.fixture(scope="module")
def weights(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("weights") / "balls"
    train(corpus, out)
    return out


def train(corpus: Path, out: Path, **changes: Any) -> None:
    from synth.diffusion.train import TrainOptions, train_diffusion

    train_diffusion(corpus, out, TrainOptions(**{**MEANT, **changes}))


class TestDiffusionConforms(GeneratorConformance):
    samples: ClassVar[int] = 2
    folder: ClassVar[Path]

    @pytest.fixture(autouse=True)
    def _folder(self, weights: Path) -> None:
        type(self).folder = weights

    def make(self) -> Generator:
        return Diffusion(self.folder, steps=2)


def test_finished_folder_explains_itself(weights: Path) -> None:
    names = {path.name for path in weights.iterdir()}
    assert names == {"autoencoder.safetensors", "diffusion.safetensors", "config.json", "README.md", "samples.png"}
    card = (weights / "README.md").read_text()
    assert "balls.zarr" in card and "CC0" in card and "--generator.weights" in card


def test_volumes_keep_grid_range_and_conditions(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "ldm.zarr"
    outcome = generate(Job(GeneratorSpec("Diffusion", {"weights": weights, "steps": 2}), 5, 3, out, 2))
    made = Corpus(out)
    assert not outcome.failed and made.image_shape == (1, *SHAPE)
    assert not [problem for _, found in verify(made) for problem in found]
    table = made.covariates()
    assert table["age"].between(30, 80).all()
    assert set(table["sex"]) <= {"F", "M"} and set(table["diagnosis"]) <= {"AD", "CN", "PD"}
    first = made.sample(0)
    assert np.array_equal(first.affine, centred_affine(SHAPE, (12.0, 12.0, 12.0)))
    assert first.image.min() >= 0 and first.image.max() <= 1


def test_parents_lead_to_the_people_behind_the_corpus(weights: Path) -> None:
    mine, corpus, people = Diffusion(weights).parents()
    assert (mine["kind"], corpus["kind"], people["name"]) == ("generator weights", "corpus", "cohort A")
    assert len(mine["sha256"]) == 64 and "CC0" in mine["licence"]


def test_number_of_threads_does_not_change_bits(weights: Path) -> None:
    import torch

    generator, before = Diffusion(weights, steps=2), torch.get_num_threads()
    params = generator.draw(rng_for(0, 0))
    try:
        torch.set_num_threads(1)
        one = generator.render(params)
        torch.set_num_threads(2)
        two = generator.render(params)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert not difference(one, two)


def test_conditions_change_the_volume(weights: Path) -> None:
    generator = Diffusion(weights, steps=2)
    params = generator.draw(rng_for(0, 0))
    told = params["conditions"]
    other = {**params, "conditions": {**told, "sex": "F" if told["sex"] == "M" else "M"}}
    assert difference(generator.render(params), generator.render(other))


def test_ages_and_diagnoses_can_be_narrowed(weights: Path) -> None:
    low, high = next((c.low, c.high) for c in open_weights(weights).conditions if c.name == "age")
    middle = (low + high) / 2
    generator = Diffusion(weights, ages=(middle, high), diagnoses=("AD",))
    drawn = [generator.draw(rng_for(0, index))["conditions"] for index in range(20)]
    assert all(person["age"] >= middle and person["diagnosis"] == "AD" for person in drawn)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ages": (10.0, 20.0)}, "trained range"),
        ({"diagnoses": ("flu",)}, "the weights know AD, CN, PD"),
        ({"steps": 0}, "1 to 1000"),
        ({"guidance": float("nan")}, "0 to 20"),
    ],
)
def test_bad_options_are_refused(weights: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Diffusion(weights, **options)


def test_recipe_is_what_it_was_when_steps_were_a_default(weights: Path) -> None:
    kept = GeneratorSpec("Diffusion", {"weights": weights}).recipe()["init_args"]
    assert (kept["steps"], kept["guidance"]) == (25, 1.0)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights"):
        Diffusion(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conditions": ("agee",)}, "no covariate 'agee'; near names: age"),
        ({"conditions": ()}, "one or more covariates"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"diffusion_steps": 0}, "--diffusion-steps is 0"),
        ({"size": "huge"}, "--size is 'huge'"),
        ({"size": "published"}, "too small"),
    ],
)
def test_training_refuses_bad_input_and_writes_nothing(
    corpus: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        train(corpus, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_training_refuses_a_missing_corpus(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no corpus"):
        train(tmp_path / "nowhere.zarr", tmp_path / "out")


def test_finished_weights_are_kept_and_others_refused(
    corpus: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (weights / CONFIG).read_bytes()
    train(corpus, weights)
    assert "already trained" in capsys.readouterr().out
    with pytest.raises(UserError, match="choose another --out"):
        train(corpus, weights, seed=5)
    assert (weights / CONFIG).read_bytes() == before


@pytest.mark.parametrize("stop", [("autoencoder", 1), ("diffusion", 2)])
def test_interrupted_training_goes_on_to_the_same_weights(
    corpus: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: tuple[str, int]
) -> None:
    from safetensors.numpy import load_file

    from synth.diffusion import checkpoint
    from synth.diffusion import train as training

    whole: Callable[..., None] = training._one_step

    def stopped(stage: Any, step: int, loss_of: Any) -> None:
        if (stage.name, step) == stop:
            raise KeyboardInterrupt
        whole(stage, step, loss_of)

    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(training, "_one_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(corpus, tmp_path)
    with pytest.raises(UserError, match="not finished"):
        open_weights(tmp_path)
    monkeypatch.setattr(training, "_one_step", whole)
    train(corpus, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()
    for name in ("autoencoder.safetensors", "diffusion.safetensors"):
        one, other = load_file(weights / name), load_file(tmp_path / name)
        for key, tensor in one.items():
            np.testing.assert_allclose(other[key], tensor, rtol=1e-3, atol=1e-4, err_msg=key)


def test_damaged_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    for path in weights.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "diffusion.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UserError, match="damaged"):
        Diffusion(tmp_path).render(Diffusion(weights).draw(rng_for(0, 0)))
    (tmp_path / CONFIG).write_text(json.dumps({"format": "other", "format_version": 9}))
    with pytest.raises(UserError, match="other version 9"):
        Diffusion(tmp_path)


def test_condition_vector_is_scaled_and_one_hot() -> None:
    conditions = [
        Condition("age", 20.0, 80.0),
        Condition("sex", words=("F", "M"), shares=(0.5, 0.5)),
        Condition("diagnosis", words=("AD", "CN", "PD"), shares=(0.2, 0.3, 0.5)),
    ]
    vector = encode(conditions, {"age": 35.0, "sex": "M", "diagnosis": "CN"})
    assert vector.tolist() == [0.25, 1.0, 0.0, 1.0, 0.0]


def test_published_networks_have_their_published_size() -> None:
    import torch

    from synth.diffusion.networks import SIZES, Autoencoder, build_unet

    with torch.device("meta"):
        networks = Autoencoder(SIZES["published"]), build_unet(SIZES["published"], 4)
    counts = [sum(p.numel() for p in network.parameters()) / 1e6 for network in networks]
    assert counts == [pytest.approx(13.77, abs=0.01), pytest.approx(553.17, abs=0.01)]
    assert SIZES["published"].factor == 8 and replace(SIZES["published"], fold=1) == SIZES["published"]


def test_folding_is_undone() -> None:
    import torch

    from synth.diffusion.networks import fold, unfold

    image = torch.arange(2 * 4 * 6 * 8.0).reshape(2, 1, 4, 6, 8)
    assert torch.equal(unfold(fold(image, 2), 2), image)
    assert fold(image, 2)[0, :, 0, 0, 0].tolist() == image[0, 0, :2, :2, :2].flatten().tolist()


def test_sampling_steps_are_spaced_as_the_scheduler_assumes() -> None:
    from synth.diffusion.networks import SIZES, sample_scheduler

    steps = sample_scheduler(SIZES["tiny"], 25).timesteps.tolist()
    assert steps[0] == 999 and set(np.diff(steps)) == {-40} and steps[-1] - 40 == -1
