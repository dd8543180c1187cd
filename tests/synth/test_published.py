"""MONAI's bundle brain_image_synthesis_latent_diffusion_model, without its weights: the published layout at full size, and
a tiny twin that the real monai-generative 0.2.3 made (tests/fixtures/make_published_layout.py)."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from synth.corpus import Corpus
from synth.diffusion.bundle_config import NETWORKS
from synth.diffusion.generator import Diffusion
from synth.diffusion.layouts import fill, old_name, shapes_of
from synth.diffusion.networks import Autoencoder, build_unet
from synth.diffusion.published import AFFINE, CONDITIONS, find_bundle, open_bundle
from synth.diffusion.sampling import decode, sample_latent
from synth.diffusion.settings import Size
from synth.diffusion.weights import DiffusionWeights, open_weights
from synth.errors import UserError
from synth.generator import Generator, GeneratorSpec
from synth.keys import rng_for
from synth.repeatable import repeatable
from synth.testing import GeneratorConformance, difference
from tests.conftest import ROOT, Run, elsewhere

FIXTURES = ROOT / "tests" / "fixtures"
TWIN = FIXTURES / "published_twin"
AUTOENCODER, UNET = Path("models", "autoencoder.pth"), Path("models", "diffusion_model.pth")
ROUNDING = 1e-5  # of 32-bit sums over 50 steps on other processors; another list of timesteps differs by 4e-3


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may spoil."""
    return Path(shutil.copytree(TWIN, tmp_path / "twin"))


@pytest.fixture(scope="module")
def full_size() -> dict[str, Any]:
    """The published networks without memory for their numbers."""
    size = Size.from_json(NETWORKS)
    with torch.device("meta"):
        return {"autoencoder": Autoencoder(size).core, "diffusion": build_unet(size, len(CONDITIONS))}


def published_layout() -> dict[str, dict[str, tuple[int, ...]]]:
    """Network → tensor → shape, of the real package at full size."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for line in (FIXTURES / "published_layout.tsv").read_text().splitlines():
        network, name, shape = line.split("\t")
        found.setdefault(network, {})[name] = tuple(int(n) for n in shape.split("×"))
    return found


def volume_of(weights: DiffusionWeights, steps: int) -> np.ndarray:
    """The volume ``[1, D, H, W]`` of the fixture's noise and person."""
    given = np.load(TWIN / "volumes.npz")
    networks = weights.networks(torch.device("cpu"))
    noise, person = torch.from_numpy(given["noise"]), torch.from_numpy(given["person"])
    with repeatable():
        return decode(networks, sample_latent(networks, weights.sampler("ddim", steps), noise, person), weights.shape)[
            0
        ]


def test_full_size_networks_have_every_published_tensor_and_the_published_size(full_size: dict[str, Any]) -> None:
    layout, new = published_layout(), {part: shapes_of(network) for part, network in full_size.items()}
    assert {part: {old_name(name): shape for name, shape in shapes.items()} for part, shapes in new.items()} == layout
    counts = {part: sum(p.numel() for p in network.parameters()) for part, network in full_size.items()}
    assert counts == {"autoencoder": 13_766_248, "diffusion": 553_168_899}
    assert [round(4 * n / 1e6, 1) for n in counts.values()] == [55.1, 2212.7]  # MB, as the hub lists the two files


def test_the_recipe_published_describes_these_networks() -> None:
    import yaml

    from synth.diffusion.settings import RECIPES

    recipe = yaml.safe_load((RECIPES / "published.yaml").read_text())
    assert Size.from_json(recipe["networks"]) == Size.from_json(NETWORKS)
    assert recipe["diffusion"]["prediction"] == "epsilon"
    assert recipe["conditions"] == [condition.name for condition in CONDITIONS]


def test_published_names_load_into_the_full_size_networks(full_size: dict[str, Any]) -> None:
    with torch.device("meta"):
        file = {part: {n: torch.empty(s) for n, s in shapes.items()} for part, shapes in published_layout().items()}
    for part, network in full_size.items():
        before = len(file[part])
        network.load_old_state_dict(left := dict(file[part]))
        assert not left and len(file[part]) == before


@pytest.mark.parametrize("steps", [50, 30])
def test_twin_of_the_real_package_gives_the_same_volume(steps: int) -> None:
    """MONAI's networks and scheduler here, monai-generative's there; the array is flipped to left→right."""
    wanted = np.load(TWIN / "volumes.npz")[f"volume_{steps}"][0]
    found = volume_of(open_weights(TWIN), steps)
    assert wanted.std() > 0.1 and 0 < wanted.min() < wanted.max() < 1
    np.testing.assert_allclose(found[:, ::-1], wanted, rtol=0, atol=ROUNDING)


def test_generator_renders_the_twin_as_its_sampler_does() -> None:
    """The whole way from a record: encoded conditions in the published order, 50 steps unless others are asked."""
    from synth.diffusion.sampling import noise_of

    generator = Diffusion(TWIN)
    person = {"sex": "M", "age": 44 + 0.7 * 38, "ventricular_volume": 45e3, "brain_volume": 1.45e6}
    sample = generator.render({"conditions": person, "noise_seed": 5})
    networks = generator.weights.networks(torch.device("cpu"))
    vector = torch.tensor([[1.0, 0.7, 0.25, 0.5]])
    with repeatable():
        noise = torch.from_numpy(noise_of(5, (3, 4, 6, 4)))[None]
        latent = sample_latent(networks, generator.weights.sampler("ddim", 50), noise, vector)
        wanted = networks.autoencoder.decode(latent).numpy()[0]
    np.testing.assert_allclose(sample.image, wanted, rtol=0, atol=ROUNDING)
    assert sample.image.shape == (1, 16, 24, 16) and sample.label is None and sample.covariates == person


class TestTwinConforms(GeneratorConformance):
    samples: ClassVar[int] = 2

    def make(self) -> Generator:
        return Diffusion(TWIN, steps=2)


def test_each_condition_has_its_own_place() -> None:
    generator = Diffusion(TWIN, steps=5)
    params = generator.draw(rng_for(0, 0))
    person = {"sex": "F", "age": 50.0, "ventricular_volume": 30e3, "brain_volume": 1.2e6}
    others = {"sex": "M", "age": 80.0, "ventricular_volume": 150e3, "brain_volume": 1.8e6}
    samples = [generator.render({**params, "conditions": person})]
    samples += [generator.render({**params, "conditions": {**person, name: others[name]}}) for name in others]
    assert all(difference(one, two) for at, one in enumerate(samples) for two in samples[:at])


def test_drawn_people_lie_in_the_published_ranges() -> None:
    drawn = [Diffusion(TWIN).draw(rng_for(0, index))["conditions"] for index in range(50)]
    assert list(drawn[0]) == ["sex", "age", "ventricular_volume", "brain_volume"]
    assert {person["sex"] for person in drawn} == {"F", "M"}
    assert all(44 <= person["age"] <= 82 and 1.0e6 <= person["brain_volume"] <= 1.9e6 for person in drawn)
    narrow = Diffusion(TWIN, ages=(60.0, 65.0))
    assert all(60 <= narrow.draw(rng_for(1, index))["conditions"]["age"] <= 65 for index in range(20))


def test_names_of_monai_itself_load_too(twin: Path) -> None:
    """What load_old 0 of the model zoo means: a network fine-tuned under MONAI 1.4 or later."""
    found = open_weights(twin).networks(torch.device("cpu"))
    autoencoder, unet = found.autoencoder, found.unet
    for path in (AUTOENCODER, UNET):
        (twin / path).unlink()
    assert (
        isinstance(autoencoder, Autoencoder)
        and "decoder.blocks.2.postconv.conv.weight" in autoencoder.core.state_dict()
    )
    torch.save(autoencoder.core.state_dict(), twin / "models" / "autoencoder.pt")
    torch.save({"epoch": 3, "state_dict": unet.state_dict()}, twin / "models" / "model.pt")
    found = volume_of(open_weights(twin), 30)
    assert np.array_equal(found, volume_of(open_weights(TWIN), 30))


def test_safetensors_load_too(twin: Path) -> None:
    from safetensors.torch import save_file

    for path, name in ((AUTOENCODER, "autoencoder"), (UNET, "model")):
        save_file(torch.load(twin / path, weights_only=True), twin / "models" / f"{name}.safetensors")
        (twin / path).write_bytes(b"never read")
    assert np.array_equal(volume_of(open_weights(twin), 30), volume_of(open_weights(TWIN), 30))


def test_without_a_config_the_networks_are_the_published_ones(twin: Path) -> None:
    shutil.rmtree(twin / "configs")
    weights = open_bundle(twin)
    assert weights.shape == (160, 224, 160) and weights.config["latent_shape"] == [3, 20, 28, 20]
    corners = np.array([[0, 0, 0, 1], [159, 223, 159, 1]]) @ weights.affine.T
    assert np.allclose(
        corners[:, :3], [[-78.5, -125.5, -60.6], [80.5, 97.5, 98.4]], atol=0.1
    )  # a head in MNI space, mm
    assert np.array_equal(weights.affine, AFFINE)
    with pytest.raises(UserError, match=r"does not fit its networks: \d+ missing"):
        weights.networks(torch.device("cpu"))


def test_bundle_is_found_from_its_folder_its_parent_and_its_models(twin: Path, tmp_path: Path) -> None:
    inner = tmp_path / "download" / "brain_image_synthesis_latent_diffusion_model"
    shutil.copytree(twin, inner)
    assert find_bundle(inner) == find_bundle(inner / "models") == find_bundle(inner.parent) == inner
    assert find_bundle(tmp_path) is None


def test_corpus_names_the_files_and_the_people_behind_them(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "ukb.zarr"
    words = ("--generator", "Diffusion", "--generator.weights", TWIN, "--generator.steps", 2, "--count", 2)
    assert run("synth", "generate", *words, "--out", out, "--workers", 0).code == 0
    (mine,) = Corpus(out).header.parents
    assert set(mine["files"]) == {AUTOENCODER.as_posix(), UNET.as_posix()} and len(mine["sha256"]) == 64
    assert (
        mine["licence"].startswith("Apache-2.0; ") and "UK Biobank" in mine["licence"] and "UK Biobank" in mine["data"]
    )
    assert mine["as_published"] is False
    assert run("synth", "verify", out).code == 0 and run("synth", "explain", out, 1, "--check").code == 0


def test_recipe_keeps_the_steps_that_were_left_to_the_weights(tmp_path: Path) -> None:
    kept = GeneratorSpec("Diffusion", {"weights": TWIN}).recipe()["init_args"]
    assert (kept["steps"], kept["guidance"]) == (50, 1.0)
    kept = GeneratorSpec("Diffusion", {"weights": tmp_path / "nowhere", "steps": 7}).recipe()["init_args"]
    assert (kept["steps"], kept["guidance"]) == (7, None)


@pytest.mark.parametrize("steps", [501, 700, 999, 400])
def test_numbers_of_steps_at_which_the_published_sampler_would_not_begin_at_noise_are_refused(steps: int) -> None:
    with pytest.raises(UserError, match=f"steps is {steps}; .* expected a number that divides 1000"):
        Diffusion(TWIN, steps=steps)


@pytest.mark.parametrize("steps", [1, 20, 30, 50, 250, 500, 1000])
def test_other_numbers_begin_within_two_steps_of_noise_and_end_clean(steps: int) -> None:
    times = open_bundle(TWIN).sampler("ddim", Diffusion(TWIN, steps=steps).steps).times
    assert len(times) == steps and times[-1] == 0 and times[0] + 2 * (1000 // steps) > 999


def test_guidance_is_refused_as_nothing_was_trained_untold() -> None:
    with pytest.raises(UserError, match="never trained without conditions; leave it at 1"):
        Diffusion(TWIN, guidance=3.0)


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Load a file of tensors, change it, save it."""
    held = torch.load(path, weights_only=True)
    torch.save(change(held) or held, path)


def reshape(held: dict[str, Any]) -> None:
    held["conv_in.conv.weight"] = held["conv_in.conv.weight"][:4]


def spoil(held: dict[str, Any]) -> None:
    held["out.2.conv.bias"][1] = float("nan")


def mix(held: dict[str, Any]) -> None:
    name = next(name for name in held if ".to_out.0." in name)
    held[name.replace(".to_out.0.", ".out_proj.")] = held.pop(name)


SPOILT: dict[str, tuple[Path, Callable[[dict[str, Any]], Any], str]] = {
    "wrong shape": (UNET, reshape, "'conv_in.conv.weight' is 4×7×3×3×3, expected 8×7×3×3×3"),
    "not finite": (UNET, spoil, "NaN or infinity in tensor 'out.2.conv.bias'"),
    "mixed names": (UNET, mix, "1 missing (the first is "),
    "tensor missing": (
        UNET,
        lambda held: held.__delitem__("conv_in.conv.bias"),
        "1 missing (the first is conv_in.conv.bias)",
    ),
    "tensor too many": (
        AUTOENCODER,
        lambda held: held.update(more=torch.zeros(1)),
        "0 missing, 1 unexpected (the first is more)",
    ),
    "something else": (AUTOENCODER, lambda held: held.update(more="words"), "holds a str under 'more'"),
    "no names": (AUTOENCODER, lambda held: list(held.values()), "holds a list"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_weights_are_refused_in_a_sentence_before_anything_is_written(
    case: str, twin: Path, run: Run, tmp_path: Path
) -> None:
    path, change, said = SPOILT[case]
    rewrite(twin / path, change)
    assert_refused(twin, run, tmp_path, said)


def assert_refused(folder: Path, run: Run, tmp_path: Path, said: str) -> None:
    out = tmp_path / "never.zarr"
    words = ("--generator", "Diffusion", "--generator.weights", folder, "--count", 1, "--out", out, "--workers", 0)
    answer = run("synth", "generate", *words)
    assert answer.code == 2 and said in answer.err and "Traceback" not in answer.err and not out.exists(), answer.err
    assert len(answer.err.strip().splitlines()) == 1


class Trap:
    """Pickled, it asks whoever reads it to make a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_pickle_with_code_is_refused_and_not_run(twin: Path, run: Run, tmp_path: Path) -> None:
    mark = tmp_path / "the code ran".replace(" ", "_")
    rewrite(twin / UNET, lambda held: held.update(trap=Trap(mark)))
    assert_refused(
        twin, run, tmp_path, f"was refused and nothing in it was run: it asks for {os.system.__module__}.system"
    )
    assert not mark.exists()
    torch.load(twin / UNET, weights_only=False)  # the trap works
    assert mark.exists()


def test_damaged_file_is_refused(twin: Path, run: Run, tmp_path: Path) -> None:
    (twin / UNET).write_bytes((twin / UNET).read_bytes()[:5000])
    assert_refused(twin, run, tmp_path, "cannot be read as tensors")


def test_half_a_bundle_is_refused(twin: Path, run: Run, tmp_path: Path) -> None:
    (twin / UNET).unlink()
    assert_refused(twin, run, tmp_path, "has half of a bundle: expected diffusion_model.safetensors or model.pt or")


def changed_config(folder: Path, part: str, name: str, value: Any) -> Path:
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text())
    (config[part] if part else config)[name] = value
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("part", "name", "value", "said"),
    [
        ("diffusion_def", "num_channels", "$__import__('os').system('touch ran')", "nothing is evaluated"),
        ("autoencoder_def", "num_res_blocks", "@blocks", "nothing in it is evaluated"),
        ("autoencoder_def", "attention_levels", [False, False, True], "attention in the autoencoder"),
        ("diffusion_def", "in_channels", 3, "expected 7 in"),
        ("diffusion_def", "cross_attention_dim", 8, "with 4 only"),
        ("scheduler", "schedule", "linear_beta", "with 'scaled_linear_beta' only"),
        ("scheduler", "prediction_type", "v_prediction", "another prediction_type"),
        ("", "noise", "$torch.randn(@shape)", "expected torch.randn((1, 3, d, h, w))"),
        ("", "scheduler", None, "it has no scheduler"),
    ],
)
def test_configs_of_other_layouts_are_refused(
    twin: Path, run: Run, tmp_path: Path, part: str, name: str, value: Any, said: str
) -> None:
    assert_refused(changed_config(twin, part, name, value), run, tmp_path, said)


def test_emptying_loader_of_monai_is_given_a_copy() -> None:
    tensors = torch.load(TWIN / UNET, weights_only=True)
    count, size = len(tensors), Size.from_json(open_bundle(TWIN).config["networks"])
    fill(build_unet(size, len(CONDITIONS)), tensors, TWIN / UNET)
    assert len(tensors) == count


def real_package() -> Path | None:
    """Folder in which the real monai-generative is: BRAINLOOM_GENERATIVE, or where it is installed."""
    if given := os.environ.get("BRAINLOOM_GENERATIVE"):
        return Path(given)
    found = importlib.util.find_spec("generative")
    return Path(found.origin).parents[1] if found and found.origin else None


@pytest.mark.slow
def test_real_package_makes_these_fixtures_and_our_volume_bit_by_bit(tmp_path: Path) -> None:
    package = real_package()
    if package is None:
        pytest.skip(
            "pip install --no-deps --target FOLDER monai-generative==0.2.3, and set BRAINLOOM_GENERATIVE=FOLDER"
        )
    script = FIXTURES / "make_published_layout.py"
    environment = elsewhere()
    environment["PYTHONPATH"] += os.pathsep + str(package)
    subprocess.run([sys.executable, "-W", "ignore", script, tmp_path], check=True, env=environment, timeout=100)
    assert (tmp_path / "published_layout.tsv").read_text() == (FIXTURES / "published_layout.tsv").read_text()
    found = volume_of(open_weights(tmp_path / "published_twin"), 50)
    wanted = np.load(tmp_path / "published_twin" / "volumes.npz")["volume_50"][0]
    assert np.array_equal(found[:, ::-1], wanted)
