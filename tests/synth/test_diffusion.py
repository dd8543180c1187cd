"""Latent diffusion learns on a corpus and generates through the engine, the same bits whoever asks."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from synth.corpus import Corpus
from synth.diffusion.conditions import Condition, encode
from synth.diffusion.generator import Diffusion
from synth.diffusion.settings import Autoencoding, Controlling, Denoising, Size, TrainOptions
from synth.diffusion.weights import CONFIG, open_weights
from synth.engine import Job, generate
from synth.errors import UserError
from synth.generator import Generator, GeneratorSpec, Params
from synth.keys import rng_for
from synth.sample import Sample, centred_affine
from synth.testing import GeneratorConformance, difference
from synth.verify import verify
from tests.conftest import ROOT, Run

SHAPE = (12, 16, 14)  # 12 and 14 are no multiples of the networks' 8: padded inside, cut off at the end
FILES = {"autoencoder.safetensors", "diffusion.safetensors", "config.json", "README.md", "samples.png"}
FOLDERS = {"log", "progress"}


class Balls(Generator):
    """A ball per person: larger in men, darker with age, of two labels."""

    def __init__(self, unknown: tuple[str, ...] = ()) -> None:
        self.unknown = unknown  # covariates that every other volume lacks

    def draw(self, rng: np.random.Generator) -> Params:
        return {"age": float(rng.uniform(30, 80)), "sex": str(rng.choice(["F", "M"])), "word": "always"}

    def draw_at(self, index: int, rng: np.random.Generator) -> Params:
        return {**self.draw(rng), **({"unknown": list(self.unknown)} if index % 2 and self.unknown else {})}

    def render(self, params: Params) -> Sample:
        axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
        inside = sum(axis**2 for axis in axes) < (0.7 if params["sex"] == "M" else 0.5)
        diagnosis = "AD" if params["age"] > 60 else "PD" if params["age"] > 45 else "CN"
        covariates = {
            "age": params["age"],
            "sex": params["sex"],
            "diagnosis": diagnosis,
            "volume_left_lateral_ventricle": params["age"] * 100,
            "volume_right_lateral_ventricle": params["age"] * 100,
        }
        covariates = {name: value for name, value in covariates.items() if name not in params.get("unknown", ())}
        image = inside[None] * (100 - params["age"]) * 10.0
        label = np.where(inside, np.where(axes[0] < 0, 4, 43), 0).astype(np.int16)
        return Sample(image, label, covariates, centred_affine(SHAPE, (12.0, 12.0, 12.0)))

    def parents(self) -> list[dict[str, Any]]:
        return [{"kind": "label map", "name": "cohort A", "sha256": "ab" * 32, "licence": "CC0"}]

    def labels(self) -> dict[int, str]:
        return {4: "left lateral ventricle", 43: "right lateral ventricle"}


def make(out: Path, count: int = 8, seed: int = 1) -> Path:
    generate(Job(GeneratorSpec(f"{__name__}.Balls"), count, seed, out, 4))
    return out


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("balls") / "balls.zarr")


@pytest.fixture(scope="module")
def weights(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(corpus, tmp_path_factory.mktemp("weights") / "balls")


def meant(
    autoencoder: dict[str, Any] | None = None, diffusion: dict[str, Any] | None = None, **rest: Any
) -> TrainOptions:
    stages = {
        "autoencoder": Autoencoding(**{"steps": 3, "batch_size": 2, **(autoencoder or {})}),
        "diffusion": Denoising(**{"steps": 4, "batch_size": 2, **(diffusion or {})}),
    }
    return TrainOptions(**{**stages, "previews": 1, "precision": "fp32", **rest})


def train(corpus: Path, out: Path, **changes: Any) -> Path:
    from synth.diffusion.train import train_diffusion

    train_diffusion(corpus, out, meant(**changes))
    return out


class TestDiffusionConforms(GeneratorConformance):
    samples: ClassVar[int] = 2
    folder: ClassVar[Path]

    @pytest.fixture(autouse=True)
    def _folder(self, weights: Path) -> None:
        type(self).folder = weights

    def make(self) -> Generator:
        return Diffusion(self.folder, steps=2, batch=2)


def test_finished_folder_explains_itself(weights: Path) -> None:
    assert {path.name for path in weights.iterdir()} == FILES | FOLDERS
    assert {path.name for path in (weights / "progress").iterdir()} == {
        "autoencoder-000003.png",
        "diffusion-000004.png",
    }
    card = (weights / "README.md").read_text()
    assert "balls.zarr" in card and "CC0" in card and "--generator.weights" in card


def test_training_leaves_no_latents_of_its_volumes_behind(weights: Path) -> None:
    assert not list(weights.rglob("*.zarr")) and not list(weights.rglob("*.ckpt"))


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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_volume_is_the_same_whatever_it_is_made_together_with(
    weights: Path, precision: Literal["fp32", "bf16"]
) -> None:
    generator = Diffusion(weights, steps=2, batch=4, precision=precision)
    drawn = [generator.draw(rng_for(0, index)) for index in range(7)]
    alone = [generator.render(params) for params in drawn]
    for start in (0, 1, 3):
        for sample, other in zip(generator.render_batch(drawn[start:]), alone[start:], strict=True):
            assert not difference(sample, other)


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


def test_volumes_in_bfloat16_are_those_in_32_bits_but_for_rounding(weights: Path) -> None:
    exact, rounded = Diffusion(weights, steps=5), Diffusion(weights, steps=5, precision="bf16")
    params = exact.draw(rng_for(0, 0))
    one, other = exact.render(params).image, rounded.render(params).image
    assert other.dtype == np.float32 and not np.array_equal(one, other)
    assert np.abs(one - other).mean() < 0.02 and np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99


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


def test_any_condition_can_be_asked_for(corpus: Path, weights: Path, tmp_path: Path, run: Run) -> None:
    conditions = ("age", "sex", "diagnosis", "ventricular_volume")
    given = {"given": str(weights)}
    out = train(corpus, tmp_path / "w", autoencoder=given, diffusion={"steps": 1}, conditions=conditions)
    age, *_, volume = open_weights(out).conditions
    low, high = volume.low + 100, volume.high - 100
    asked = f"sex=F,diagnosis=AD|PD,ventricular_volume={low}:{high}"
    generator = Diffusion(out, asked=asked)
    drawn = [generator.draw(rng_for(0, index))["conditions"] for index in range(40)]
    assert {person["sex"] for person in drawn} == {"F"} and {person["diagnosis"] for person in drawn} == {"AD", "PD"}
    assert all(low <= person["ventricular_volume"] <= high for person in drawn)
    assert min(p["age"] for p in drawn) < age.low + 10 and max(p["age"] for p in drawn) > age.high - 10
    words = ("--generator.weights", out, "--generator.asked", f"age={age.high},sex=F", "--generator.steps", 1)
    made = tmp_path / "made.zarr"
    answer = run("synth", "generate", "--generator", "Diffusion", *words, "--count", 2, "--workers", 0, "--out", made)
    assert answer.code == 0, answer.err
    assert [(e["covariates"]["age"], e["covariates"]["sex"]) for e in Corpus(made).entries()] == [(age.high, "F")] * 2


def test_asking_for_nothing_draws_what_was_always_drawn(weights: Path) -> None:
    """A condition that is narrowed leaves the others as they were."""
    drawn, narrow = (
        Diffusion(weights, asked=asked).draw(rng_for(0, 1))["conditions"]
        for asked in ("", "sex=F|M,diagnosis=AD|CN|PD")
    )
    assert drawn == narrow


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("height=180", "asked names 'height', which the weights are not told; they are told age, sex, diagnosis"),
        ("age=5", "within the trained range"),
        ("age=70:60", "within the trained range"),
        ("age=old", "one number or low:high"),
        ("sex=F|X", "'X'; the weights know F, M"),
        ("sex", "expected such as sex=F"),
        ("sex=F,sex=M", "every condition once"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(weights: Path, asked: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Diffusion(weights, asked=asked)


def test_one_thing_is_asked_for_in_one_place(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="diagnosis is asked for twice"):
        Diffusion(weights, asked="diagnosis=AD", diagnoses=("CN",))
    with pytest.raises(UserError, match="give one"):
        Diffusion(weights, asked="sex=F", people=tmp_path / "people.tsv")


def test_numbers_of_a_table_outside_the_trained_range_are_taken_as_its_end_and_said_once(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    age = open_weights(weights).conditions[0]
    (tmp_path / "people.tsv").write_text("age\tsex\tdiagnosis\n5\tF\tAD\n99\tF\tn/a\n98\tF\tAD\n")
    generator = Diffusion(weights, people=tmp_path / "people.tsv")
    drawn = [generator.draw(rng_for(0, index))["conditions"] for index in range(60)]
    assert {person["age"] for person in drawn} == {age.low, age.high}
    assert {person.get("diagnosis") for person in drawn} == {"AD", None}  # where it is missing it is left to the model
    generator.parents()
    assert "age of 3 row(s) lies outside the trained range" in capsys.readouterr().err
    generator.parents()
    assert capsys.readouterr().err == ""


def test_the_participants_of_the_training_corpus_are_a_table(weights: Path, corpus: Path, tmp_path: Path) -> None:
    table = Corpus(corpus).covariates()
    table.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    assert len(Diffusion(weights, people=tmp_path / "participants.tsv").people.rows) == len(table)  # type: ignore[attr-defined]


def test_people_come_from_a_table(weights: Path, tmp_path: Path) -> None:
    low, high = next((c.low, c.high) for c in open_weights(weights).conditions if c.name == "age")
    table = tmp_path / "people.tsv"
    table.write_text(f"participant_id\tage\tsex\tdx\nsub-1\t{low}\tF\tdementia\nsub-2\t{high}\tM\tcontrol\n")
    generator = Diffusion(weights, people=table)
    drawn = [generator.draw(rng_for(0, index)) for index in range(20)]
    told = {(p["conditions"]["age"], p["conditions"]["sex"], p["conditions"]["diagnosis"]) for p in drawn}
    assert told == {(low, "F", "AD"), (high, "M", "CN")}
    assert generator.parents()[-1]["name"] == "people.tsv"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("age\tsex\tdiagnosis\n", "has no rows"),
        ("age\tsex\tdiagnosis\nold\tF\tAD\n", "age is 'old'; expected a number"),
        ("age\tsex\n50\tF\n", "has no 'diagnosis'"),
        ("age\tsex\tdiagnosis\n60\tF\tflu\n", "know AD, CN, PD"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(weights: Path, tmp_path: Path, rows: str, said: str) -> None:
    (tmp_path / "people.tsv").write_text(rows)
    with pytest.raises(UserError, match=said):
        Diffusion(weights, people=tmp_path / "people.tsv")


def test_what_is_left_untold_is_no_covariate_of_the_volume(weights: Path) -> None:
    generator = Diffusion(weights, untold=("age",), steps=1)
    sample = generator.render(generator.draw(rng_for(0, 0)))
    assert set(sample.covariates) == {"sex", "diagnosis"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ages": (10.0, 20.0)}, "trained range"),
        ({"diagnoses": ("flu",)}, "the weights know AD, CN, PD"),
        ({"steps": 0}, "1 to 1000"),
        ({"guidance": float("nan")}, "0 to 20"),
        ({"batch": 0}, "1 or more"),
        ({"precision": "fp16"}, "expected fp32 or bf16"),
        ({"sampler": "rectified_flow"}, "expected ddim or pndm"),
        ({"untold": ("height",)}, "told age, sex, diagnosis"),
        ({"ages": (40.0, 50.0), "people": Path("people.tsv")}, "give one"),
        ({"masks": Path("masks.zarr")}, "no ControlNet"),
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
        ({"conditions": ("large=volume_left_lateral_ventricle+nose",)}, "no covariate 'nose'"),
        ({"conditions": ()}, "one or more covariates"),
        ({"conditions": ("age", "age")}, "none of them twice"),
        ({"networks": Size(channels=(16, 32, 64, 64), fold=4)}, "too small"),
    ],
)
def test_training_refuses_bad_input_and_writes_nothing(
    corpus: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        train(corpus, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        (Autoencoding, {"batch_size": 0}, "--autoencoder.batch-size is 0"),
        (Denoising, {"steps": 0}, "--diffusion.steps is 0"),
        (Denoising, {"untold": 1.0}, "--diffusion.untold is 1"),
        (Controlling, {"steps": -1}, "--control.steps is -1"),
        (Size, {"channels": (15, 32)}, "multiples of its 8 groups"),
        (Size, {"attention": (True,)}, "one per U-Net level"),
        (Autoencoding, {"kl": -1.0}, "--autoencoder.kl is -1"),
    ],
)
def test_recipes_out_of_range_are_refused(part: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        part(**values).check()


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


def test_a_training_is_the_same_by_what_its_files_hold_not_by_where_they_lie(
    corpus: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "moved"):
        shutil.copytree(weights, tmp_path / name)
    out, short = tmp_path / "w", {"steps": 1}
    train(corpus, out, autoencoder={"given": str(tmp_path / "one")}, diffusion=short)
    train(corpus, out, autoencoder={"given": str(tmp_path / "moved")}, diffusion=short)
    assert "already trained" in capsys.readouterr().out
    other = train(corpus, tmp_path / "other", diffusion=short, seed=5)
    shutil.copyfile(other / "autoencoder.safetensors", tmp_path / "one" / "autoencoder.safetensors")
    with pytest.raises(UserError, match="choose another --out"):
        train(corpus, out, autoencoder={"given": str(tmp_path / "one")}, diffusion=short)


def test_a_perceptual_network_counts_by_its_content_too(corpus: Path, tmp_path: Path) -> None:
    import torch

    from synth.diffusion.losses import Perceptual

    judge = Perceptual().core.state_dict()
    for name, factor in (("a.pth", 1.0), ("b.pth", 2.0)):
        torch.save({key: t * factor if t.is_floating_point() else t for key, t in judge.items()}, tmp_path / name)
    judged = {"perceptual": 1.0, "perceptual_network": str(tmp_path / "a.pth"), "steps": 1}
    out = train(corpus, tmp_path / "w", autoencoder=judged, diffusion={"steps": 1})
    (tmp_path / "a.pth").write_bytes((tmp_path / "b.pth").read_bytes())
    with pytest.raises(UserError, match="choose another --out"):
        train(corpus, out, autoencoder=judged, diffusion={"steps": 1})
    (tmp_path / "a.pth").unlink()
    with pytest.raises(UserError, match="there is no file"):
        train(corpus, tmp_path / "new", autoencoder=judged)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("prediction", ["epsilon", "rectified_flow"])
def test_every_prediction_is_learnt_and_sampled(corpus: Path, tmp_path: Path, weights: Path, prediction: str) -> None:
    given = {"given": str(weights)}
    out = train(corpus, tmp_path / "w", autoencoder=given, diffusion={"prediction": prediction, "steps": 2})
    generator = Diffusion(out, steps=2)
    assert generator.sampler == ("adams_bashforth" if prediction == "rectified_flow" else "ddim")
    image = generator.render(generator.draw(rng_for(0, 0))).image
    assert image.shape == (1, *SHAPE) and np.isfinite(image).all()
    assert (out / "autoencoder.safetensors").read_bytes() == (weights / "autoencoder.safetensors").read_bytes()
    assert "taken from `balls`" in (out / "README.md").read_text()


def test_sums_of_volumes_are_conditions(corpus: Path, tmp_path: Path, weights: Path) -> None:
    conditions = ("age", "ventricular_volume", "half=volume_left_lateral_ventricle")
    given = {"given": str(weights)}
    out = train(corpus, tmp_path / "w", autoencoder=given, diffusion={"steps": 1}, conditions=conditions)
    age, both, half = open_weights(out).conditions
    assert both.low == pytest.approx(age.low * 200) and half.high == pytest.approx(age.high * 100)
    sample = Diffusion(out, steps=1).render(Diffusion(out).draw(rng_for(0, 0)))
    assert both.low <= float(sample.covariates["ventricular_volume"]) <= both.high


def test_volumes_that_lack_a_condition_are_trained_untold_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = tmp_path / "lacking.zarr"
    generate(Job(GeneratorSpec(f"{__name__}.Balls", {"unknown": ("age",)}), 8, 1, lacking, 4))
    out = train(lacking, tmp_path / "w", diffusion={"steps": 2})
    assert "age: 4 of 8 volumes do not have it" in capsys.readouterr().out
    age = open_weights(out).conditions[0]
    ages = [entry["covariates"]["age"] for entry in Corpus(lacking).entries() if "age" in entry["covariates"]]
    assert (age.low, age.high) == (min(ages), max(ages))
    assert 30 <= Diffusion(out).draw(rng_for(0, 0))["conditions"]["age"] <= 80


def test_a_recipe_comes_from_a_file_and_the_command_line_wins(corpus: Path, tmp_path: Path, run: Run) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("conditions: [age]\nautoencoder: {steps: 2, batch_size: 2}\ndiffusion: {steps: 9, ema: 0.9}\n")
    words = ("synth", "train", "--generator", "Diffusion", "--corpus", corpus, "--config", recipe)
    answer = run(*words, "--out", tmp_path / "w", "--diffusion.steps", 2, "--previews", 0)
    assert answer.code == 0, answer.err
    options = json.loads((tmp_path / "w" / CONFIG).read_text())["options"]
    assert options["conditions"] == ["age"] and options["autoencoder"]["steps"] == 2
    assert options["diffusion"]["steps"] == 2 and options["diffusion"]["ema"] == 0.9


@pytest.mark.parametrize("name", ["tiny", "small", "published"])
def test_built_in_recipes_are_read_by_their_names(name: str, run: Run) -> None:
    answer = run("synth", "train", "--config", name, "--print_config")
    assert answer.code == 0 and "prediction" in answer.out


def test_the_tiny_recipe_is_what_training_does_when_told_nothing(run: Run) -> None:
    assert (
        run("synth", "train", "--config", "tiny", "--print_config").out == run("synth", "train", "--print_config").out
    )


@pytest.mark.parametrize("words", [("--config", "tinny"), ("--diffusion.step", "3"), ("--diffusion", "3")])
def test_recipe_names_and_options_that_are_unknown_are_refused_with_near_ones(words: tuple[str, str], run: Run) -> None:
    answer = run("synth", "train", "--corpus", "a", "--out", "b", *words)
    assert answer.code == 2 and ("tiny" in answer.err or "--diffusion.steps" in answer.err)


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_interrupted_training_goes_on_to_the_same_weights(
    corpus: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    from safetensors.numpy import load_file

    from synth.diffusion import learning

    monkeypatch.setattr(learning, "CHECKPOINT_SECONDS", 0.0)
    after = learning.Learning._average

    def stopped(self: Any, step: int) -> None:
        after(self, step)
        if (self.name, step) == (stage, 2):
            raise RuntimeError("killed")

    monkeypatch.setattr(learning.Learning, "_average", stopped)
    with pytest.raises(RuntimeError, match="killed"):
        train(corpus, tmp_path)
    with pytest.raises(UserError, match="not finished"):
        open_weights(tmp_path)
    assert (tmp_path / "checkpoints" / f"{stage}.ckpt").exists()
    monkeypatch.setattr(learning.Learning, "_average", after)
    train(corpus, tmp_path)
    for name in ("autoencoder.safetensors", "diffusion.safetensors"):
        one, other = load_file(weights / name), load_file(tmp_path / name)
        for key, tensor in one.items():
            np.testing.assert_array_equal(other[key], tensor, err_msg=key)


def test_training_survives_kill_9_and_ends_with_the_same_bits(corpus: Path, weights: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from synth.diffusion import learning\n"
        "from synth.diffusion.stages import LearnDenoising\n"
        "from synth.diffusion.train import train_diffusion\n"
        "from tests.synth.test_diffusion import meant\n"
        "learning.CHECKPOINT_SECONDS = 0.0\n"
        "LearnDenoising.after = lambda self, step: time.sleep(1)\n"
        f"train_diffusion(Path({str(corpus)!r}), Path({str(tmp_path / 'w')!r}), meant())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "w" / "checkpoints" / "diffusion.ckpt"
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and checkpoint.exists()
    with pytest.raises(UserError, match="not finished"):
        open_weights(tmp_path / "w")
    train(corpus, tmp_path / "w")
    for name in ("autoencoder.safetensors", "diffusion.safetensors"):
        assert (tmp_path / "w" / name).read_bytes() == (weights / name).read_bytes(), name


def test_damaged_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_bytes((weights / name).read_bytes())
    (tmp_path / "diffusion.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UserError, match="damaged"):
        Diffusion(tmp_path).render(Diffusion(weights).draw(rng_for(0, 0)))
    (tmp_path / CONFIG).write_text(json.dumps({"format": "other", "format_version": 9}))
    with pytest.raises(UserError, match="other version 9"):
        Diffusion(tmp_path)


def test_condition_vector_is_scaled_one_hot_and_minus_one_where_untold() -> None:
    conditions = [
        Condition("age", 20.0, 80.0),
        Condition("sex", words=("F", "M"), shares=(0.5, 0.5)),
        Condition("diagnosis", words=("AD", "CN", "PD"), shares=(0.2, 0.3, 0.5)),
    ]
    assert encode(conditions, {"age": 35.0, "sex": "M", "diagnosis": "CN"}).tolist() == [0.25, 1.0, 0.0, 1.0, 0.0]
    assert encode(conditions, {"age": 35.0, "sex": "M"}).tolist() == [0.25, 1.0, -1.0, -1.0, -1.0]


def test_folding_is_undone() -> None:
    import torch

    from synth.diffusion.networks import fold, unfold

    image = torch.arange(2 * 4 * 6 * 8.0).reshape(2, 1, 4, 6, 8)
    assert torch.equal(unfold(fold(image, 2), 2), image)
    assert fold(image, 2)[0, :, 0, 0, 0].tolist() == image[0, 0, :2, :2, :2].flatten().tolist()
