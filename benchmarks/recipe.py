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
}


class Benchmark(Protocol):
    """What a kind's class is: a frozen dataclass of options that can run itself."""

    def run(self, out: Path) -> int:
        """Run, or go on with, this benchmark in folder ``out``; returns the exit code."""
        ...


def read_recipe(path: Path, instead: Mapping[str, Any] | None = None) -> Benchmark:
    """The benchmark a YAML file describes. Paths in it are relative to the file's folder.

    Args:
        path: of the file.
        instead: options that win over the file's.

    Raises:
        UserError: no such file, not YAML, an unknown kind or name (the near ones are listed), a value of another type.
    """
    values = read_yaml(path, f"recipe '{path}'", "kind: NAME and that kind's options")
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


def profile_path(name: str) -> Path:
    """The file of a profile: one that comes with brainloom by name, or a path. Raises UserError for neither."""
    own = Path(__file__).parent / "recipes" / f"{name}.yaml"
    if own.is_file() or Path(name).is_file():
        return own if own.is_file() else Path(name)
    raise UserError(f"there is no profile '{name}'; expected tiny, or a YAML file of kind matrix")


def with_generators(benchmark: Benchmark, names: Sequence[str]) -> Benchmark:
    """The matrix with a source more for each generator, on the grid of its first one where the generator takes one.

    Raises:
        UserError: a benchmark of another kind, an unknown generator, a name that is a source already.
    """
    from benchmarks.matrix import Matrix

    if not isinstance(benchmark, Matrix):
        raise UserError("--generator needs a profile of kind matrix")
    grid = next(iter(benchmark.sources.values())).init_args
    sources = dict(benchmark.sources)
    for name in names:
        taken = constructor_options(find_generator(name, (str(Path.cwd()),)))
        spec = make_spec(name, {key: grid[key] for key in ("shape", "spacing") if key in grid and key in taken})
        short = name.rpartition(".")[2].rpartition(":")[2]
        if short in sources:
            raise UserError(f"'{short}' is one of the profile's generators already; expected another --generator")
        sources[short] = spec
    return replace(benchmark, sources=sources)


def _typed(value: Any, hint: Any, name: str, folder: Path) -> Any:
    """``value`` as the type ``hint``."""
    if hint is GeneratorSpec:
        return _spec(value, name)
    if hint == tuple[GeneratorSpec, ...]:
        return tuple(_spec(one, name) for one in (value if isinstance(value, list) else [value]))
    if hint == Mapping[str, GeneratorSpec]:
        if not isinstance(value, Mapping):
            raise UserError(f"{name} was given '{value}'; expected names, each with class_path and init_args")
        return {str(word): _spec(one, f"{name}.{word}") for word, one in value.items()}
    if hint == GeneratorSpec | None:
        return _spec(value, name)
    parsed = parse_value(value, hint, name)
    if isinstance(parsed, Path) and not parsed.is_absolute():
        return folder / parsed
    return parsed


def _spec(value: Any, name: str) -> GeneratorSpec:
    if not isinstance(value, Mapping) or not isinstance(value.get("init_args") or {}, Mapping):
        raise UserError(f"{name} was given '{value}'; expected class_path: NAME and init_args: the generator's options")
    for word in set(value) - {"class_path", "init_args"}:
        raise UserError(f"{name}: unknown name '{word}'; expected class_path, init_args")
    return make_spec(str(value.get("class_path", "LabelMap")), value.get("init_args") or {})
