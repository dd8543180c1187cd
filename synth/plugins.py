"""Plug-ins: a class found by short name, entry point or dotted path; its constructor's typed signature is its options.

A command that takes one has a parameter annotated with a :class:`PluginSpec`: ``--KIND NAME --KIND.OPTION VALUE``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import sys
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from synth.errors import UserError, near

Base = TypeVar("Base")


@dataclass(frozen=True)
class Option:
    """One option of a plug-in's constructor: type hint, default (``inspect.Parameter.empty`` if it has none), one line."""

    name: str
    hint: Any
    default: Any
    about: str


class PluginSpec(ABC):
    """A plug-in by name with its options, checked: what ``--KIND NAME --KIND.OPTION VALUE`` becomes.

    Attributes:
        kind: the word for such a plug-in in messages; a command's parameter has the same name.
        usual: the short name that help and YAML take where none is given.
        class_path: the plug-in's name.
    """

    kind: ClassVar[str]
    usual: ClassVar[str]
    class_path: str

    @classmethod
    @abstractmethod
    def known(cls) -> Iterable[str]:
        """Short names, built in and installed."""

    @classmethod
    @abstractmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> PluginSpec:
        """A checked spec from text or YAML values. Raises UserError for an unknown name, option or type."""

    @classmethod
    @abstractmethod
    def options_of(cls, name: str) -> list[Option]:
        """The options of the plug-in ``name``, for help. Raises UserError for an unknown name."""

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """``class_path`` and ``init_args`` as plain JSON values."""


def known_classes(group: str, built_in: Mapping[str, str]) -> dict[str, str]:
    """Short name → ``module:Class`` of the built-in plug-ins and of those installed in an entry point group."""
    points = importlib.metadata.entry_points(group=group)
    return {**{point.name: point.value for point in points}, **built_in}


def find_class(
    kind: str, base: type[Base], name: str, known: Mapping[str, str], search_path: Sequence[str] = ()
) -> type[Base]:
    """The class behind a short name, an entry point or a dotted path such as ``mymodule.Onion``.

    Args:
        kind: the word for such a plug-in in messages.
        base: what it must be a subclass of.
        name: to look up.
        known: short name → ``module:Class``.
        search_path: folders put before ``sys.path``.

    Raises:
        UserError: no such name (the near ones are listed), a module that fails to import, a class of another kind.
    """
    for folder in reversed(search_path):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    target = known.get(name, name).replace(":", ".")
    if "." not in target:
        raise UserError(
            f"there is no {kind} '{name}'; near names: {near(name, known)}. "
            "Give a short name, or module.Class for one of your own"
        )
    module_name, _, class_name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises, a SyntaxError for one
        raise UserError(
            f"{kind} '{name}': cannot import module '{module_name}' ({type(error).__name__}: {error})"
        ) from error
    cls = getattr(module, class_name, None)
    if cls is None:
        classes = [n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, base)]
        raise UserError(f"{kind} '{name}': '{module_name}' has no '{class_name}'; near: {near(class_name, classes)}")
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise UserError(f"{kind} '{name}' is not a subclass of {base.__module__}.{base.__qualname__}")
    return cls


def plain(value: Any) -> Any:
    """``value`` as JSON keeps it: lists for tuples, words for paths."""
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
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


def constructor_options(cls: type, given: Sequence[str] = ()) -> dict[str, Option]:
    """The options of a class: its constructor's parameters but for those that the program gives (``given``)."""
    from docstring_parser import parse

    about = {p.arg_name: p.description or "" for p in parse(inspect.getdoc(cls) or "").params}
    hints = constructor_hints(cls)
    return {
        name: Option(name, hints.get(name, str), parameter.default, about.get(name, ""))
        for name, parameter in inspect.signature(cls).parameters.items()
        if name not in given
    }
