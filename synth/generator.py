"""The Generator contract, and how one is found: by short name, entry point, or dotted path."""

from __future__ import annotations

import hashlib
import inspect
import json
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from synth.errors import UserError
from synth.plugins import (
    Option,
    PluginSpec,
    constructor_hints,
    constructor_options,
    find_class,
    known_classes,
    plain,
    restore_types,
)
from synth.sample import Sample

ENTRY_POINTS = "brainloom.generators"
BUILT_IN = {
    "LabelMap": "synth.labelmap:LabelMap",
    "Diffusion": "synth.diffusion.generator:Diffusion",
    "Scans": "synth.scans:Scans",
    "Video": "synth.video:Video",
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
class GeneratorSpec(PluginSpec):
    """A generator by name with its constructor's arguments: small, JSON-able, buildable in any process."""

    kind: ClassVar[str] = "generator"
    usual: ClassVar[str] = "LabelMap"

    class_path: str
    init_args: Mapping[str, Any] = field(default_factory=dict)
    search_path: tuple[str, ...] = ()
    """Folders put before ``sys.path`` when the class is a loose module (the user's current folder)."""

    @classmethod
    def known(cls) -> Iterable[str]:
        """Short names, built in and installed."""
        return known_generators()

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> GeneratorSpec:
        """A checked spec; see :func:`synth.options.make_spec`."""
        from synth.options import make_spec

        return make_spec(name, options)

    @classmethod
    def options_of(cls, name: str) -> list[Option]:
        """The constructor's options, for help. A dotted name is looked for in the current folder too."""
        return list(constructor_options(find_generator(name, (str(Path.cwd()),))).values())

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
        return {"class_path": self.class_path, "init_args": {k: plain(v) for k, v in sorted(arguments.items())}}

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
    return known_classes(ENTRY_POINTS, BUILT_IN)


def find_generator(name: str, search_path: Sequence[str] = ()) -> type[Generator]:
    """The class behind a short name, an entry point or a dotted path such as ``mymodule.Onion``.

    Raises:
        UserError: no such name (the near ones are listed), a module that fails to import, a class that is no Generator.
    """
    return find_class("generator", Generator, name, known_generators(), search_path)  # type: ignore[type-abstract]
