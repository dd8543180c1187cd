"""One YAML per benchmark: ``kind`` says which, every other name is a field of that kind's class, typed and checked."""

from __future__ import annotations

import importlib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, Protocol

from synth.errors import UserError, near
from synth.generator import GeneratorSpec, find_generator
from synth.options import make_spec, parse_value, read_yaml
from synth.plugins import constructor_options

KINDS: dict[str, str] = {
    "real_scan": "benchmarks.real_scan.experiment:RealScan",
    "matrix": "benchmarks.matrix:Matrix",
    "diffusion": "benchmarks.diffusion:DiffusionBenchmark",
    "ranking": "benchmarks.ranking:Ranking",
}


class Benchmark(Protocol):
    """What a kind's class is: a frozen dataclass of options that can run itself."""

    def run(self, out: Path) -> int:
        """Run, or go on with, this benchmark in folder ``out``; returns the exit code."""
        ...


def read_recipe(path: Path, instead: Mapping[str, Any] | None = None, profile: str | None = None) -> Benchmark:
    """The benchmark a YAML file describes. Paths in it are relative to the file's folder.

    Args:
        path: of the file.
        instead: options that win over the file's.
        profile: which of the file's ``profiles``, each a set of options that win over the others, is taken.

    Raises:
        UserError: no such file, not YAML, an unknown kind or name (the near ones are listed), a value of another type.
    """
    values = read_yaml(path, f"recipe '{path}'", "kind: NAME and that kind's options")
    profiles = values.pop("profiles", {})
    if profile is not None and (not isinstance(profiles, Mapping) or not isinstance(profiles.get(profile), Mapping)):
        raise UserError(f"recipe '{path}' has no profile '{profile}'; near: {near(profile, profiles) or 'it has none'}")
    values |= profiles[profile] if profile is not None else {}
    values = {name: value for name, value in {**values, **(instead or {})}.items() if value is not None}
    kind = values.pop("kind", None)
    if kind not in KINDS:
        given = "no kind" if kind is None else f"kind '{kind}'"
        raise UserError(f"recipe '{path}' has {given}; expected kind: {near(str(kind or ''), KINDS)}")
    module, name = KINDS[kind].split(":")
    cls = getattr(importlib.import_module(module), name)
    hints = typing.get_type_hints(cls)
    typed = {}
    for option, value in values.items():
        if option not in hints:
            raise UserError(f"recipe '{path}': {kind} has no option '{option}'; near: {near(str(option), hints)}")
        typed[option] = _typed(value, hints[option], f"recipe '{path}': {option}", path.parent)
    for field in fields(cls):
        if field.name not in typed and field.default is MISSING and field.default_factory is MISSING:
            raise UserError(f"recipe '{path}' lacks '{field.name}', which {kind} needs")
    return typing.cast(Benchmark, cls(**typed))


def chosen_recipe(
    recipe: Path | None, generators: bool, profile: str | None, cohort: Sequence[str], external: Sequence[str]
) -> Benchmark:
    """The benchmark that ``benchmark run`` is asked for.

    Raises:
        UserError: both a recipe and generators or neither, a profile or a cohort that is none.
    """
    if (recipe is None) != generators:
        raise UserError("expected either a recipe or --generator NAME, and got both or neither")
    path = profile_path(profile or "tiny") if recipe is None else recipe
    inside = None if recipe is None else profile
    about = read_yaml(path, f"recipe '{path}'", "kind: NAME and that kind's options")
    usual, profiles = "full" if cohort else "tiny", about.get("profiles", {})
    if not isinstance(profiles, Mapping):
        raise UserError(f"recipe '{path}' has profiles '{profiles}'; expected names, each with its options")
    if inside is None and usual in profiles:
        inside = usual
    instead: dict[str, Any] = {}
    if cohort:
        by_task = folders_of("--cohort", cohort)
        instead = {"people": None, "cohort": by_task.pop("", about.get("cohort")), "cohorts": by_task or None}
        if "people" in about or "people" in profiles.get(inside, {}):
            instead["test_site"] = None  # a scanner of the simulated people
    if external:
        instead["externals"] = folders_of("--external", external)
    return read_recipe(path, instead, inside)


def folders_of(option: str, words: Sequence[str]) -> dict[str, str]:
    """Task → absolute folder of ``TASK=FOLDER`` words; the task of a mere folder is empty.

    Raises:
        UserError: two folders for one task.
    """
    found: dict[str, str] = {}
    for word in words:
        task, _, folder = word.rpartition("=") if not Path(word).exists() else ("", "", word)
        if task in found:
            raise UserError(
                f"{option} was given two folders for {task or 'all tasks'}; expected TASK=FOLDER for each task"
            )
        found[task] = str(Path(folder).absolute())
    return found


def profile_path(name: str) -> Path:
    """The file of a profile: one that comes with brainloom by name, or a path. Raises UserError for neither."""
    own = Path(__file__).parent / "recipes" / f"{name}.yaml"
    if own.is_file() or Path(name).is_file():
        return own if own.is_file() else Path(name)
    raise UserError(f"there is no profile '{name}'; expected tiny, or a YAML file of kind matrix")


def with_generators(benchmark: Benchmark, names: Sequence[str], options: Sequence[str] = ()) -> Benchmark:
    """The matrix with a source more for each generator, on the grid of its first one where the generator takes one.

    Args:
        benchmark: of kind matrix.
        names: of generators.
        options: ``NAME=VALUE`` words for their constructors.

    Raises:
        UserError: a benchmark of another kind, an unknown generator or option, a name that is a source already.
    """
    given = {}
    for word in options:
        name, sign, value = word.partition("=")
        if not sign:
            raise UserError(f"--generator-options was given '{word}'; expected NAME=VALUE, such as weights=ldm")
        given[name] = value
    for name in names:
        benchmark = with_source(benchmark, name.rpartition(".")[2].rpartition(":")[2], name, given)
    return benchmark


def with_source(benchmark: Benchmark, called: str, generator: str, options: Mapping[str, Any]) -> Benchmark:
    """The matrix with one more source of volumes. Raises UserError as :func:`with_generators`."""
    from benchmarks.matrix import Matrix

    if not isinstance(benchmark, Matrix):
        raise UserError("--generator, --scans and --clips need a recipe of kind matrix")
    if called in benchmark.sources:
        raise UserError(f"'{called}' is one of the recipe's sources already; expected another --generator")
    grid = next(iter(benchmark.sources.values())).init_args
    taken = constructor_options(find_generator(generator, (str(Path.cwd()),)))
    shaped: dict[str, Any] = {key: grid[key] for key in ("shape", "spacing") if key in grid and key in taken}
    return replace(benchmark, sources={**benchmark.sources, called: make_spec(generator, {**shaped, **options})})


def _typed(value: Any, hint: Any, name: str, folder: Path) -> Any:
    """``value`` as the type ``hint``."""
    if hint in (GeneratorSpec, GeneratorSpec | None):
        return _spec(value, name, folder)
    if hint == tuple[GeneratorSpec, ...]:
        return tuple(_spec(one, name, folder) for one in (value if isinstance(value, list) else [value]))
    if typing.get_origin(hint) is Mapping:
        if not isinstance(value, Mapping):
            raise UserError(f"{name} was given '{value}'; expected names, each with its value")
        return {
            str(word): _typed(one, typing.get_args(hint)[1], f"{name}.{word}", folder) for word, one in value.items()
        }
    parsed = parse_value(value, hint, name)
    if isinstance(parsed, Path) and not parsed.is_absolute():
        return folder / parsed
    return parsed


def _spec(value: Any, name: str, folder: Path) -> GeneratorSpec:
    if not isinstance(value, Mapping) or not isinstance(value.get("init_args") or {}, Mapping):
        raise UserError(f"{name} was given '{value}'; expected class_path: NAME and init_args: the generator's options")
    for word in set(value) - {"class_path", "init_args"}:
        raise UserError(f"{name}: unknown name '{word}'; expected class_path, init_args")
    spec = make_spec(str(value.get("class_path", "LabelMap")), value.get("init_args") or {})
    placed = {
        option: folder / one if isinstance(one, Path) and not one.is_absolute() else one
        for option, one in spec.init_args.items()
    }
    return replace(spec, init_args=placed)
