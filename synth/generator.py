"""The Generator contract, and how one is found: by short name, entry point, or dotted path."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import json
import sys
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from synth.errors import UserError, near
from synth.sample import Sample

ENTRY_POINTS = "brainloom.generators"
BUILT_IN = {
    "LabelMap": "synth.labelmap:LabelMap",
    "Diffusion": "synth.diffusion.generator:Diffusion",
    "Scans": "synth.scans:Scans",
}
Params = dict[str, Any]


class Generator(ABC):
    """Makes volumes: ``draw`` picks every random number of one volume, ``render`` is a pure function of them.

    A plug-in is one subclass. The typed signature of its constructor is its configuration on the command line
    (``--generator.NAME VALUE``) and in YAML; the output grid belongs to it too, by habit as ``shape`` and ``spacing``.
    """

    needs_actor: bool = False
    """True when building it is dear (it holds weights): the engine then keeps one instance per worker."""

    @classmethod
    def complete(cls, arguments: Params) -> Params:
        """The constructor's arguments as a recipe should keep them; override where one left out stands for others."""
        return arguments

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Params:
        """Every random decision of one volume as a small record that survives JSON (no arrays; keep seeds instead)."""

    def draw_at(self, index: int, rng: np.random.Generator) -> Params:
        """The record of sample ``index`` of a corpus; override where the number itself means something, such as the
        index-th scan of a folder. Default: :meth:`draw`, for which all samples are alike."""
        return self.draw(rng)

    @abstractmethod
    def render(self, params: Params) -> Sample:
        """The volume of one record: the same record gives the same bits, in any process and any order."""

    def render_batch(self, batch: Sequence[Params]) -> list[Sample]:
        """Volumes of several records; override where batching pays. Must equal ``render`` one at a time."""
        return [self.render(params) for params in batch]

    def parents(self) -> list[dict[str, Any]]:
        """What the volumes derive from (label maps, weights, people): name, sha256, licence of each. Default none."""
        return []

    def labels(self) -> dict[int, str]:
        """The label numbers this generator can write and their names. Default none."""
        return {}


@dataclass(frozen=True)
class GeneratorSpec:
    """A generator by name with its constructor's arguments: small, JSON-able, buildable in any process."""

    class_path: str
    init_args: Mapping[str, Any] = field(default_factory=dict)
    search_path: tuple[str, ...] = ()
    """Folders put before ``sys.path`` when the class is a loose module (the user's current folder)."""

    def build(self) -> Generator:
        """The generator itself. Raises UserError for bad arguments, with the generator's own sentence."""
        cls = find_generator(self.class_path, self.search_path)
        try:
            return cls(**restore_types(cls, self.init_args))
        except (TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"generator {self.class_path} refused its options: {error}") from error

    def recipe(self) -> dict[str, Any]:
        """class_path and every constructor argument, defaults included, as plain JSON values."""
        cls = find_generator(self.class_path, self.search_path)
        arguments = {**defaults_of(cls), **self.init_args}
        arguments = as_hinted(cls, cls.complete(arguments))
        return {"class_path": self.class_path, "init_args": {k: _plain(v) for k, v in sorted(arguments.items())}}

    def fingerprint(self, parents: Sequence[Mapping[str, Any]]) -> str:
        """sha256 of class, arguments and parents. Where parents are named by checksum, a path counts by what lies
        there, so that a corpus made again from a copied folder is the same corpus."""
        recipe = self.recipe()
        hints = constructor_hints(find_generator(self.class_path, self.search_path))
        arguments = {
            name: "<path>" if value is not None and parents and "Path" in repr(hints.get(name)) else value
            for name, value in recipe["init_args"].items()
        }
        content = [
            recipe["class_path"],
            arguments,
            [[parent.get("name"), str(parent.get("sha256", parent))] for parent in parents],
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


def restore_types(cls: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no tuples or paths: give the constructor what its type hints ask for."""
    hints = constructor_hints(cls)
    restored = {}
    for name, value in arguments.items():
        hint = repr(hints.get(name, ""))
        if isinstance(value, list) and "tuple" in hint.lower():
            value = tuple(value)
        elif isinstance(value, str) and "Path" in hint:
            value = Path(value)
        restored[name] = value
    return restored


def constructor_hints(cls: type) -> dict[str, Any]:
    """Parameter → type hint of a class's constructor."""
    return typing.get_type_hints(cls.__init__)  # type: ignore[misc]


def as_hinted(cls: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A whole number where a ``float`` is hinted becomes one, so that 2 and 2.0 are the same recipe."""
    hints = constructor_hints(cls)

    def floated(value: Any, hint: Any) -> Any:
        options = {hint, *typing.get_args(hint)}
        if type(value) is int and float in options and int not in options:
            return float(value)
        return value

    return {name: floated(value, hints.get(name)) for name, value in arguments.items()}


def defaults_of(cls: type) -> dict[str, Any]:
    """Constructor arguments that have a default, with it."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def known_generators() -> dict[str, str]:
    """Short name → ``module:Class`` of the built-in generators and of every installed plug-in."""
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return {**{point.name: point.value for point in points}, **BUILT_IN}


def find_generator(name: str, search_path: Sequence[str] = ()) -> type[Generator]:
    """The class behind a short name, an entry point or a dotted path such as ``mymodule.Onion``.

    Raises:
        UserError: no such name (the near ones are listed), a module that fails to import, a class that is no Generator.
    """
    for folder in reversed(search_path):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    known = known_generators()
    target = known.get(name, name).replace(":", ".")
    if "." not in target:
        raise UserError(
            f"there is no generator '{name}'; near names: {near(name, known)}. "
            "Give a short name, or module.Class for one of your own"
        )
    module_name, _, class_name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises, a SyntaxError for one
        raise UserError(
            f"generator '{name}': cannot import module '{module_name}' ({type(error).__name__}: {error})"
        ) from error
    cls = getattr(module, class_name, None)
    if cls is None:
        classes = [n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, Generator)]
        raise UserError(f"generator '{name}': '{module_name}' has no '{class_name}'; near: {near(class_name, classes)}")
    if not (inspect.isclass(cls) and issubclass(cls, Generator)):
        raise UserError(f"generator '{name}' is not a subclass of synth.generator.Generator")
    return cls
