"""The conformance suite of generators: subclass it in your tests, name your class, run pytest.

    from synth.testing import GeneratorConformance

    class TestOnion(GeneratorConformance):
        generator = Onion
        options = {"shape": (8, 10, 8)}

Every failure says what to mend. The suite renders a dozen volumes or so: choose options that make small ones.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import random
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np

from synth.corpus import Corpus, as_stored, checksum
from synth.engine import Job, generate
from synth.errors import UserError
from synth.generator import Generator, GeneratorSpec, Params, find_generator, restore_types
from synth.keys import rng_for
from synth.options import parse_value
from synth.sample import Sample
from synth.verify import verify
from synth.writing import RESERVED


def difference(one: Sample, other: Sample) -> str:
    """What differs between two samples, in words; empty when every bit is equal."""
    if one.image.shape != other.image.shape:
        return f"image shapes {one.image.shape} and {other.image.shape}"
    if one.image.tobytes() != other.image.tobytes():
        return f"{int((one.image != other.image).sum())} of {one.image.size} image voxels"
    if (one.label is None) != (other.label is None):
        return "one has a label map, the other has none"
    if one.label is not None and other.label is not None and not np.array_equal(one.label, other.label):
        return f"{int((one.label != other.label).sum())} of {one.label.size} label voxels"
    if dict(one.covariates) != dict(other.covariates):
        names = sorted(set(one.covariates) | set(other.covariates))
        return "covariates " + ", ".join(n for n in names if one.covariates.get(n) != other.covariates.get(n))
    return "" if np.array_equal(one.affine, other.affine) else "affines"


@contextlib.contextmanager
def stirred(seed: int) -> Iterator[None]:
    """Python's, numpy's and (where it is imported) torch's global random state set to ``seed``, put back after."""
    torch = sys.modules.get("torch")
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 — the state a generator must not read
    state = torch.random.get_rng_state() if torch else None
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if torch:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        if torch:
            torch.random.set_rng_state(state)


class GeneratorConformance:
    """What the engine, the loaders and ``explain`` rely on, as tests.

    Attributes:
        generator: the class under test.
        options: its constructor's arguments.
        samples: volumes drawn by a test, at least 2.
        seed: of their random streams.

    Where a class and its options do not say enough, override :meth:`make` to return a new generator.
    """

    generator: ClassVar[type[Generator] | None] = None
    options: ClassVar[Mapping[str, Any]] = {}
    samples: ClassVar[int] = 3
    seed: ClassVar[int] = 20

    def make(self) -> Generator:
        """A new generator, of small volumes if it can."""
        if self.generator is None:
            raise TypeError(f"{type(self).__name__}: set the attribute 'generator' to your class, or override make()")
        return self.generator(**self.options)

    @property
    def made(self) -> Generator:
        """One generator, made once for the class: building may be dear."""
        if "_made" not in type(self).__dict__:
            type(self)._made = self.make()  # type: ignore[attr-defined]
        made: Generator = type(self)._made  # type: ignore[attr-defined]
        return made

    def draws(self) -> list[Params]:
        """The params of samples 0, 1, … as the engine hands them to ``render``: once through JSON."""
        return [json.loads(json.dumps(self.made.draw(rng_for(self.seed, i)))) for i in range(self.samples)]

    def spec(self) -> GeneratorSpec:
        """Class and constructor arguments, as observed while ``make`` builds."""
        cls = type(self.made)
        signature, build, given = inspect.signature(cls), cls.__init__, {}

        def observe(this: Generator, *args: Any, **kwargs: Any) -> None:
            if type(this) is cls:
                given.update(signature.bind(*args, **kwargs).arguments)
            build(this, *args, **kwargs)

        with mock.patch.object(cls, "__init__", observe):
            self.make()
        folder = Path(inspect.getfile(cls)).parent
        return GeneratorSpec(f"{cls.__module__}.{cls.__qualname__}", given, (str(folder),))

    def test_draw_is_a_function_of_its_rng(self) -> None:
        """The same rng gives the same params, whatever the global random state."""
        for index in range(self.samples):
            with stirred(1):
                first = self.made.draw(rng_for(self.seed, index))
            with stirred(2):
                again = self.made.draw(rng_for(self.seed, index))
            assert first == again, (
                f"draw gave {first} and then {again} from the same rng: take every random number from the rng handed "
                "to draw, none from numpy's, torch's or Python's global state, and keep no count of calls"
            )

    def test_draw_uses_its_rng(self) -> None:
        """Different rngs give different params."""
        drawn = [repr(self.made.draw(rng_for(self.seed, index))) for index in range(8)]
        assert len(set(drawn)) > 1, "draw gave the same params from eight rngs: it must use the rng it is given"

    def test_params_survive_json_unchanged(self) -> None:
        """Params are words, numbers, lists and dicts, so that a record keeps all of them."""
        for index in range(self.samples):
            params = self.made.draw(rng_for(self.seed, index))
            assert isinstance(params, dict), f"draw returned {type(params).__name__}; expected a dict"
            try:
                back = json.loads(json.dumps(params, allow_nan=False))
            except (TypeError, ValueError) as error:
                raise AssertionError(
                    f"draw returned params that are not JSON ({error}): use float(), int(), .tolist() and str(), "
                    "no NaN; instead of an array keep a seed (synth.keys.new_seed) and draw the array in render"
                ) from error
            assert back == params, (
                f"params changed on the way through JSON: {params} became {back}; use lists for tuples, words for keys"
            )

    def test_render_gives_the_same_bits_twice(self) -> None:
        """``explain --check`` renders a record again."""
        for params in self.draws():
            differs = difference(self.made.render(params), self.made.render(params))
            assert not differs, f"render of the same params twice differs ({differs}): make it a pure function"

    def test_render_leaves_its_params_alone(self) -> None:
        """The record is written after ``render`` has seen it."""
        for params in self.draws():
            before = copy.deepcopy(params)
            self.made.render(params)
            assert params == before, f"render changed its params from {before} to {params}: change a copy"

    def test_render_does_not_read_global_random_state(self) -> None:
        """Bits do not depend on what else runs in the process."""
        for params in self.draws():
            with stirred(1):
                one = self.made.render(params)
            with stirred(2):
                other = self.made.render(params)
            differs = difference(one, other)
            assert not differs, (
                f"render depends on global random state ({differs}): draw a seed in draw (synth.keys.new_seed) and "
                "make a generator of it in render (synth.keys.rng_for, or torch.Generator)"
            )

    def test_render_does_not_depend_on_order_or_instance(self) -> None:
        """Any worker may render any sample, in any order."""
        drawn = self.draws()
        forward = [self.made.render(params) for params in drawn]
        fresh = self.make()
        for index in reversed(range(self.samples)):
            differs = difference(forward[index], fresh.render(drawn[index]))
            assert not differs, (
                f"sample {index} differs ({differs}) when a new generator renders in another order: keep nothing in "
                "self that render changes and reads again"
            )

    def test_render_batch_equals_one_at_a_time(self) -> None:
        """Bits do not depend on the shard a sample is in."""
        drawn = self.draws()
        batch = self.made.render_batch(copy.deepcopy(drawn))
        assert len(batch) == len(drawn), f"render_batch returned {len(batch)} samples for {len(drawn)} params"
        for index, (params, sample) in enumerate(zip(drawn, batch, strict=True)):
            differs = difference(self.made.render(params), sample)
            assert not differs, (
                f"sample {index} of render_batch differs from render ({differs}): the bits of a volume must not depend "
                "on its company, or a corpus would depend on its shard size; make render a batch of one, and batch "
                "only with operations whose bits do not change with batch size"
            )

    def test_samples_are_valid_and_alike(self) -> None:
        """Valid samples of one shape, all or none with a label map, RAS+."""
        rendered = [self.made.render(params) for params in self.draws()]
        for index, sample in enumerate(rendered):
            assert isinstance(sample, Sample), f"render returned {type(sample).__name__}; expected synth.sample.Sample"
            assert sample.image.shape == rendered[0].image.shape, (
                f"sample {index} is {sample.image.shape}, sample 0 {rendered[0].image.shape}: every volume of a "
                "generator has the shape [C, D, H, W] that its options say"
            )
            assert (sample.label is None) == (rendered[0].label is None), (
                f"sample {index} {'lacks' if sample.label is None else 'has'} a label map, unlike sample 0: all or none"
            )
            assert (
                np.array_equal(np.argmax(np.abs(sample.affine[:3, :3]), axis=0), [0, 1, 2])
                and (np.diag(sample.affine)[:3] > 0).all()
            ), (
                f"the affine of sample {index} does not run left→right, posterior→anterior, inferior→superior: turn "
                f"the array to RAS+ (nibabel.as_closest_canonical) before you return it; it is\n{sample.affine}"
            )

    def test_labels_have_names(self) -> None:
        """Where ``labels()`` names anything, it names every number written."""
        names = self.made.labels()
        rendered = [self.made.render(params).label for params in self.draws()] if names else []
        written = {int(number) for label in rendered if label is not None for number in np.unique(label)}
        assert all(isinstance(n, int) and isinstance(word, str) for n, word in names.items()), (
            f"labels() must give number → name, gave {names}"
        )
        unnamed = sorted(written - set(names) - {0})
        assert not unnamed, f"labels {unnamed} are written but labels() does not name them: add them"

    def test_covariates_are_numbers_or_words(self) -> None:
        """Every covariate can become a column of its own."""
        kinds: dict[str, type] = {}
        for index, params in enumerate(self.draws()):
            for name, value in self.made.render(params).covariates.items():
                where = f"covariate '{name}' of sample {index}"
                assert isinstance(value, (float, str)), f"{where} is {value!r}; expected a number or a word"
                assert isinstance(value, str) or np.isfinite(value), f"{where} is {value}: leave a missing one out"
                assert name.isidentifier(), f"{where}: use letters, digits and _ only; it becomes an array's name"
                assert name not in RESERVED, f"{where}: that name is the corpus's own; choose another"
                assert kinds.setdefault(name, type(value)) is type(value), (
                    f"{where} is {value!r}, in another sample it was a {kinds[name].__name__}: "
                    "always a number or always a word"
                )

    def test_parents_are_json_and_say_where_they_are_from(self) -> None:
        """``parents()`` can be written into a corpus."""
        parents = self.made.parents()
        assert isinstance(parents, list), f"parents() returned {type(parents).__name__}; expected a list of dicts"
        try:
            same = json.loads(json.dumps(parents, allow_nan=False)) == parents
        except (TypeError, ValueError) as error:
            raise AssertionError(f"parents() is not JSON ({error}): use words, numbers, lists and dicts") from error
        assert same, f"parents() changes on the way through JSON: {parents}; use lists for tuples, words for paths"
        for parent in parents:
            lacking = {"name", "sha256", "licence"} - set(parent)
            assert not lacking, f"parent {parent} lacks {', '.join(sorted(lacking))}: a corpus names its sources"

    def test_every_option_has_a_type_the_command_line_can_read(self) -> None:
        """The constructor's signature is its configuration."""
        spec = self.spec()
        cls = type(self.made)
        hints, recipe = typing.get_type_hints(cls.__init__), spec.recipe()["init_args"]
        for name, parameter in inspect.signature(cls).parameters.items():
            where = f"option '{name}' of {cls.__name__}"
            assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD or parameter.kind is parameter.KEYWORD_ONLY, (
                f"{where} is a star argument: name every option, the command line reads them from the signature"
            )
            assert name in hints, (
                f"{where} has no type hint: write {name}: int (or float, str, bool, Path, tuple[…], Literal[…])"
            )
            assert name in recipe, f"{where} has no default and make() gave it no value"
            try:
                parsed = parse_value(recipe[name], hints[name], f"--generator.{name}")
            except UserError as error:
                raise AssertionError(f"{where} cannot be read back ({error}): give it a hint that fits") from error
            wanted = restore_types(cls, {name: recipe[name]})[name]
            assert parsed == wanted, f"{where}: {wanted!r} is read back as {parsed!r}; its hint does not fit"

    def test_spec_builds_an_equal_generator(self) -> None:
        """The recipe in a corpus is enough to build the generator again."""
        spec = self.spec()
        recipe = json.loads(json.dumps(spec.recipe()))
        rebuilt = GeneratorSpec(recipe["class_path"], recipe["init_args"], spec.search_path)
        assert find_generator(rebuilt.class_path, rebuilt.search_path) is type(self.made), (
            f"{rebuilt.class_path} leads to another class: define the generator at the top of an importable module"
        )
        assert rebuilt.fingerprint(self.made.parents()) == spec.fingerprint(self.made.parents()), (
            "the recipe changes on the way through JSON: keep options to numbers, words, paths, tuples and None"
        )
        generator = rebuilt.build()
        for index, params in enumerate(self.draws()):
            drawn = json.loads(json.dumps(generator.draw(rng_for(self.seed, index))))
            assert drawn == params, f"built from its recipe the generator draws {drawn}; expected {params}"
            differs = difference(self.made.render(params), generator.render(params))
            assert not differs, f"built from its recipe the generator renders another sample {index} ({differs})"

    def test_a_corpus_of_it_verifies_at_any_shard_size(self, tmp_path: Path) -> None:
        """Through the engine onto disk, and every bit read back."""
        identities = []
        for size in (2, self.samples):
            job = Job(self.spec(), self.samples, self.seed, tmp_path / f"shards-of-{size}.zarr", size)
            outcome = generate(job, workers=0)
            assert not outcome.failed, f"the engine failed: {'; '.join(outcome.failed.values())}"
            corpus = Corpus(job.out)
            problems = [problem for _, found in verify(corpus) for problem in found]
            assert not problems, f"the corpus does not verify: {'; '.join(problems)}"
            identities.append(corpus.identity())
            for index, params in enumerate(self.draws()):
                sample = self.made.render(params)
                image, _ = as_stored(sample.image, corpus.header.recipe["dtype"])
                label = None if sample.label is None else sample.label.astype(np.int16)
                assert checksum(image, label) == corpus.entry(index)["sha256"], (
                    f"sample {index} in the corpus is not what render gives outside of it"
                )
        assert identities[0] == identities[1], "the corpus depends on its shard size: mend render_batch first"
