"""What pre-training minimises: one file each, chosen by name; several with + between them, and plug-ins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from synth.errors import UserError
from synth.plugins import Option, PluginSpec, constructor_options, find_class, known_classes, plain, restore_types

if TYPE_CHECKING:
    from pretrain.backbones import Backbone
    from pretrain.objectives.base import Objective
    from synth.corpus import Corpus
    from synth.stream.merged import Merged

ENTRY_POINTS = "brainloom.objectives"
BUILT_IN = {
    "supervised": "pretrain.objectives.supervised:Supervised",
    "mae": "pretrain.objectives.mae:MaskedAutoencoder",
    "masked": "pretrain.objectives.masked:MaskedModelling",
    "simclr": "pretrain.objectives.simclr:SimCLR",
    "yaware": "pretrain.objectives.yaware:YAware",
    "segment": "pretrain.objectives.segment:Segmentation",
    "contrasts": "pretrain.objectives.contrasts:TwoContrasts",
}
PLUS = "+"


def known_objectives() -> dict[str, str]:
    """Short name → ``module:Class`` of the built-in objectives and of every installed plug-in."""
    return known_classes(ENTRY_POINTS, BUILT_IN)


def find_objectives(name: str) -> dict[str, type[Objective]]:
    """Part → class of an objective's name: one, or those of a hybrid such as ``mae+supervised``.

    Raises:
        UserError: a part that is no objective (near names are listed) or is there twice.
    """
    from pretrain.objectives.base import Objective

    parts = name.split(PLUS)
    if len(set(parts)) < len(parts):
        raise UserError(f"objective '{name}' has a part twice; expected each once")
    known = known_objectives()
    here = (str(Path.cwd()),) if any(part not in known for part in parts) else ()
    return {part: find_class("objective", Objective, part, known, here) for part in parts}


def make_objective(
    name: str, backbone: Backbone, corpus: Corpus | Merged, seed: int, options: Mapping[str, Any] | None = None
) -> Objective:
    """The objective ``name`` on a backbone.

    Args:
        name: a short name, several with + between them, or ``module.Class``.
        backbone: to train.
        corpus: to train on; targets and label names are taken from it.
        seed: of what the objective adds to the backbone.
        options: its constructor's; of a hybrid ``weights`` and, as ``part.option``, those of its parts.

    Raises:
        UserError: an unknown name or option, or a backbone or corpus that the objective cannot serve.
    """
    from pretrain.objectives.hybrid import Hybrid

    given = ObjectiveSpec.from_options(name, options or {}).init_args
    parts = {}
    for part, cls in find_objectives(name).items():
        prefix = "" if part == name else f"{part}."
        own = {option.removeprefix(prefix): value for option, value in given.items() if option.startswith(prefix)}
        parts[part] = _build(part, cls, backbone, corpus, seed, own)
    return parts[name] if name in parts else Hybrid(backbone, parts, tuple(given.get("weights", ())))


def _build(
    name: str, cls: type[Objective], backbone: Backbone, corpus: Corpus | Merged, seed: int, options: dict[str, Any]
) -> Objective:
    try:
        return cls(backbone, corpus, seed, **restore_types(cls, options))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"objective {name} refused its options: {error}") from error


@dataclass(frozen=True)
class ObjectiveSpec(PluginSpec):
    """An objective by name with its options, as the command line and YAML give it."""

    kind: ClassVar[str] = "objective"
    usual: ClassVar[str] = "supervised"

    class_path: str = "supervised"
    init_args: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def known(cls) -> Iterable[str]:
        """Short names, built in and installed."""
        return known_objectives()

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> ObjectiveSpec:
        """A checked spec. Raises UserError for an unknown name, option or type."""
        from synth.options import typed_options

        known = {option.name: option for option in cls.options_of(name)}
        typed = typed_options("objective", name, known, options)
        return cls(name, {option: plain(value) for option, value in typed.items()})

    @classmethod
    def options_of(cls, name: str) -> list[Option]:
        """The constructor's options; of a hybrid ``weights`` and those of its parts with the part's name before them."""
        from pretrain.objectives.base import GIVEN

        classes = find_objectives(name)
        of_class = {part: constructor_options(objective, GIVEN) for part, objective in classes.items()}
        if len(classes) == 1:
            return list(of_class[name].values())
        weights = Option("weights", tuple[float, ...], (), "of each part's loss, in the order of the name; 1 if absent")
        parts = [
            Option(f"{part}.{option.name}", option.hint, option.default, option.about)
            for part, options in of_class.items()
            for option in options.values()
        ]
        return [weights, *parts]

    def recipe(self) -> dict[str, Any]:
        """``class_path`` and ``init_args`` as plain JSON values."""
        return {"class_path": self.class_path, "init_args": plain(self.init_args)}
