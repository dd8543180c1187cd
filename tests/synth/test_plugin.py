"""A plug-in works as a loose module in the current folder and installed, and the conformance suite finds bad ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from synth.corpus import Corpus
from synth.generator import Generator, Params
from synth.keys import rng_for
from synth.labelmap import LabelMap
from synth.sample import Sample, centred_affine
from synth.testing import GeneratorConformance
from tests.conftest import PLUGIN, Run

Environment = Callable[[str], dict[str, str]]


class TestOnionConforms(GeneratorConformance):
    @pytest.fixture(autouse=True)
    def _module(self, onions: Any) -> None:
        self.onions = onions

    def make(self) -> Generator:
        built: Generator = self.onions.Onion(shape=(8, 10, 8), shells=4)
        return built


class TestLabelMapConforms(GeneratorConformance):
    generator = LabelMap
    options: ClassVar[dict[str, Any]] = {"shape": (16, 18, 16), "spacing": 11.0, "sites": ("north", "south")}


class TestLabelMapWithoutDeformationConforms(GeneratorConformance):
    generator = LabelMap
    options: ClassVar[dict[str, Any]] = {
        "shape": (16, 18, 16),
        "spacing": 11.0,
        "deformation": "none",
        "contrast": "random",
        "strip": 0.5,
    }


def generate(arguments: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = [
        sys.executable,
        "-m",
        "brainloom",
        "synth",
        "generate",
        *arguments,
        "--generator.shells",
        "7",
        "--count",
        "10",
        "--seed",
        "3",
        "--out",
        "onion.zarr",
    ]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False)


def check_onions(path: Path) -> str:
    corpus = Corpus(path)
    shells = [len(entry["params"]["brightness"]) for entry in corpus.entries()]
    assert len(corpus) == 10 and corpus.complete and corpus.image_shape == (1, 32, 40, 32)
    assert max(shells) > 5, "the option shells=7 did not reach the generator"
    return corpus.identity()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loose_module_in_the_current_folder_is_a_generator(
    workers: int, tmp_path: Path, in_subprocess: Environment, onions: Any
) -> None:
    shutil.copy(PLUGIN / "onions.py", tmp_path)
    done = generate(["--generator", "onions.Onion", "--workers", str(workers)], tmp_path, in_subprocess(""))
    assert done.returncode == 0, done.stderr
    check_onions(tmp_path / "onion.zarr")
    corpus, onion = Corpus(tmp_path / "onion.zarr"), onions.Onion(shells=7)
    expected = onion.render(onion.draw(rng_for(3, 9)))
    assert np.abs(corpus.image(9) - expected.image).max() <= np.ptp(expected.image) / 255 * 0.501
    assert np.array_equal(corpus.label(9), expected.label)


def test_an_installed_plugin_is_found_by_its_entry_point(
    installed: Path, tmp_path: Path, in_subprocess: Environment
) -> None:
    done = generate(["--generator", "Onion", "--workers", "0"], tmp_path, in_subprocess(str(installed)))
    assert done.returncode == 0, done.stderr
    check_onions(tmp_path / "onion.zarr")
    assert Corpus(tmp_path / "onion.zarr").header.recipe["generator"]["class_path"] == "Onion"


def test_an_installed_plugin_is_offered_when_a_name_is_misspelt(
    installed: Path, tmp_path: Path, in_subprocess: Environment
) -> None:
    done = generate(["--generator", "Onoin", "--workers", "0"], tmp_path, in_subprocess(str(installed)))
    assert done.returncode == 2 and "Onion" in done.stderr and not (tmp_path / "onion.zarr").exists()


def test_help_lists_the_options_of_a_plugin(onions: Any, run: Run) -> None:
    answer = run("synth", "generate", "--generator", "onions.Onion", "--help")
    assert answer.code == 0
    assert "--generator.shells" in answer.out and "most shells an onion can have" in answer.out


LOOSE = """
import numpy as np
from synth.generator import Generator
from synth.sample import Sample

class Bad(Generator):
    def __init__(self, shape: tuple[int, int, int] = (8, 8, 8), word: str = "") -> None:
        {constructor}
    def draw(self, rng):
        {draw}
    def render(self, params):
        {render}
"""
GOOD = {
    "constructor": "pass",
    "draw": "return {'a': float(rng.random())}",
    "render": "return Sample(np.full((1, 8, 8, 8), params['a'], np.float32))",
}


def write_loose(folder: Path, name: str, **parts: str) -> None:
    (folder / f"{name}.py").write_text(LOOSE.format(**{**GOOD, **parts}))


@pytest.mark.parametrize(
    "name, parts, says",
    [
        ("refuses", {"constructor": "raise ValueError('word is no\\nword at all')"}, "word is no"),
        ("arrays", {"draw": "return {'a': np.zeros(3)}"}, "draw"),
        ("breaks", {"render": "raise RuntimeError('no\\nvolume')"}, "sample 0"),
        ("flat", {"render": "return Sample(np.zeros((8, 8, 8), np.float32))"}, "[C, D, H, W]"),
        ("nothing", {"render": "return None"}, "sample 0"),
    ],
)
def test_a_bad_plugin_is_refused_in_one_sentence(
    name: str, parts: dict[str, str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    module = f"bad_{name}"
    write_loose(tmp_path, module, **parts)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    answer = run("synth", "generate", "--generator", f"{module}.Bad", "--count", 2, "--out", "bad.zarr", "--workers", 0)
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1 and answer.err.startswith("brainloom: error:") and says in answer.err
    assert not (tmp_path / "bad.zarr").exists()


def test_a_module_that_does_not_parse_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    (tmp_path / "bad_grammar.py").write_text("class Bad(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    answer = run("synth", "generate", "--generator", "bad_grammar.Bad", "--count", 2, "--out", "bad.zarr")
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1 and answer.err.startswith("brainloom: error:")
    assert "bad_grammar" in answer.err


def test_a_sample_that_fails_leaves_the_other_shards_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    write_loose(
        tmp_path,
        "sometimes",
        draw="return {'a': float(rng.random())}",
        render="assert params['a'] < 0.9, 'too\\nlarge'; " + GOOD["render"],
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    fails = [i for i in range(40) if rng_for(0, i).random() >= 0.9]
    assert fails and 0 not in fails
    words = (
        "synth",
        "generate",
        "--generator",
        "sometimes.Bad",
        "--count",
        40,
        "--out",
        "s.zarr",
        "--workers",
        0,
        "--shard-size",
        4,
    )
    answer = run(*words)
    failed = sorted({i // 4 for i in fails})
    assert answer.code == 1
    assert Corpus(tmp_path / "s.zarr").missing() == failed
    for shard in failed:
        first = next(i for i in fails if i // 4 == shard)
        assert any(f"sample {first}:" in line and "large" in line for line in answer.err.splitlines())
    assert "Traceback" not in answer.err


# --- the conformance suite itself: for every test a generator that breaks just that promise ---------------------------


class Plain(Generator):
    """Keeps every promise; the ones below each break one."""

    def __init__(self, size: int = 8) -> None:
        self.size = size

    def draw(self, rng: np.random.Generator) -> Params:
        return {"level": round(float(rng.random()), 4)}

    def render(self, params: Params) -> Sample:
        image = np.full((1, self.size, self.size, self.size), params["level"], np.float32)
        return Sample(image, covariates={"level": params["level"]}, affine=centred_affine((self.size,) * 3, (1.0,) * 3))


class GlobalDraw(Plain):
    def draw(self, rng: np.random.Generator) -> Params:
        return {"level": float(np.random.random())}  # noqa: NPY002


class DeafDraw(Plain):
    def draw(self, rng: np.random.Generator) -> Params:
        return {"level": 0.5}


class TupleParams(Plain):
    def draw(self, rng: np.random.Generator) -> Params:
        return {**super().draw(rng), "pair": (1, 2)}


class ArrayParams(Plain):
    def draw(self, rng: np.random.Generator) -> Params:
        return {**super().draw(rng), "array": np.zeros(2)}


class Restless(Plain):
    """Draws noise of its own in render."""

    def render(self, params: Params) -> Sample:
        noise = np.random.default_rng().standard_normal((1, 8, 8, 8))
        return Sample(noise)


class GlobalRender(Plain):
    def render(self, params: Params) -> Sample:
        return Sample(np.random.standard_normal((1, 8, 8, 8)))  # noqa: NPY002


class Scribbler(Plain):
    def render(self, params: Params) -> Sample:
        params["seen"] = True
        return super().render({"level": params["level"]})


class Counter(Plain):
    """Remembers what it rendered before."""

    def __init__(self, size: int = 8) -> None:
        super().__init__(size)
        self.seen: list[float] = []

    def render(self, params: Params) -> Sample:
        if params["level"] not in self.seen:
            self.seen.append(params["level"])
        return super().render({"level": self.seen.index(params["level"]) / 10})


class Company(Plain):
    def render_batch(self, batch: Any) -> list[Sample]:
        return [super(Company, self).render({"level": len(batch) / 10}) for _ in batch]


class Growing(Plain):
    def render(self, params: Params) -> Sample:
        return Sample(np.zeros((1, 8, 8, 8 + int(params["level"] * 10))))


class Backwards(Plain):
    def render(self, params: Params) -> Sample:
        return Sample(np.zeros((1, 8, 8, 8)), affine=np.diag([-1.0, 1.0, 1.0, 1.0]))


class Nameless(Plain):
    def labels(self) -> dict[int, str]:
        return {1: "one"}

    def render(self, params: Params) -> Sample:
        return Sample(np.zeros((1, 8, 8, 8)), np.full((8, 8, 8), 2))


class Usurper(Plain):
    """Has a covariate called image."""

    def render(self, params: Params) -> Sample:
        return Sample(np.zeros((1, 8, 8, 8)), covariates={"image": 1.0})


class Wavering(Plain):
    """A covariate that is now a number, now a word."""

    def render(self, params: Params) -> Sample:
        return Sample(np.zeros((1, 8, 8, 8)), covariates={"level": "high" if params["level"] > 0.5 else 0.0})


class Orphan(Plain):
    def parents(self) -> list[dict[str, Any]]:
        return [{"name": "somewhere"}]


class Unhinted(Plain):
    def __init__(self, size=8) -> None:  # type: ignore[no-untyped-def]
        super().__init__(size)


class Starred(Plain):
    def __init__(self, **options: int) -> None:
        super().__init__(**options)


class Misled(Plain):
    """Its hint says number, its default is a word."""

    def __init__(self, size: int = "eight") -> None:  # type: ignore[assignment]
        super().__init__(8)


@pytest.mark.parametrize(
    "bad, test, says",
    [
        (GlobalDraw, "test_draw_is_a_function_of_its_rng", "global state"),
        (DeafDraw, "test_draw_uses_its_rng", "rng it is given"),
        (TupleParams, "test_params_survive_json_unchanged", "lists for tuples"),
        (ArrayParams, "test_params_survive_json_unchanged", "new_seed"),
        (Restless, "test_render_gives_the_same_bits_twice", "pure function"),
        (Scribbler, "test_render_leaves_its_params_alone", "change a copy"),
        (GlobalRender, "test_render_does_not_read_global_random_state", "global random state"),
        (Counter, "test_render_does_not_depend_on_order_or_instance", "self"),
        (Company, "test_render_batch_equals_one_at_a_time", "shard size"),
        (Growing, "test_samples_are_valid_and_alike", "shape"),
        (Backwards, "test_samples_are_valid_and_alike", "RAS+"),
        (Nameless, "test_labels_have_names", "add them"),
        (Usurper, "test_covariates_are_numbers_or_words", "choose another"),
        (Wavering, "test_covariates_are_numbers_or_words", "always a word"),
        (Orphan, "test_parents_are_json_and_say_where_they_are_from", "sha256"),
        (Unhinted, "test_every_option_has_a_type_the_command_line_can_read", "no type hint"),
        (Starred, "test_every_option_has_a_type_the_command_line_can_read", "star argument"),
        (Misled, "test_every_option_has_a_type_the_command_line_can_read", "hint that fits"),
    ],
)
def test_the_conformance_suite_catches(bad: type[Generator], test: str, says: str) -> None:
    suite = type("Suite", (GeneratorConformance,), {"generator": bad, "samples": 4})()
    with pytest.raises(AssertionError) as caught:
        getattr(suite, test)()
    assert says in str(caught.value)


class TestPlainConforms(GeneratorConformance):
    """The generator that the broken ones derive from breaks nothing: what the suite catches is what was broken."""

    generator = Plain


def test_the_conformance_suite_catches_a_corpus_that_depends_on_shard_size(tmp_path: Path) -> None:
    suite = type("Suite", (GeneratorConformance,), {"generator": Company})()
    with pytest.raises(AssertionError, match=r"not what render gives|depends on its shard size"):
        suite.test_a_corpus_of_it_verifies_at_any_shard_size(tmp_path)


def test_the_recipe_in_a_corpus_names_every_option_with_its_default(onions: Any) -> None:
    from synth.generator import GeneratorSpec

    recipe = GeneratorSpec("onions.Onion", {"shells": 7}, (str(PLUGIN),)).recipe()
    expected = {"shape": [32, 40, 32], "spacing": 4.0, "shells": 7, "noise": 0.02}
    assert json.loads(json.dumps(recipe)) == {"class_path": "onions.Onion", "init_args": expected}
