"""Commands are plain typed functions; this turns their signatures into options, YAML and clear errors.

A parameter before ``/`` is positional (one with a default can be left out), every other one is ``--name VALUE``
(``--na-me`` and ``--na_me`` alike). A parameter annotated with a :class:`synth.plugins.PluginSpec`, such as
``generator: GeneratorSpec``, brings ``--generator NAME`` and, from the constructor's own signature,
``--generator.OPTION VALUE``. One annotated with another dataclass is a section: ``--section.FIELD VALUE``, a mapping in
YAML. Wherever a tuple is expected, commas do. ``--config FILE`` reads the same names from YAML (the command line wins),
``--print_config`` writes them; a function marked :func:`with_recipes` takes the name of one of its own recipes there too.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from synth.errors import UserError, near
from synth.generator import GeneratorSpec, find_generator, known_generators
from synth.plugins import Option, PluginSpec, constructor_options, plain

Function = Callable[..., int]
RECIPES = "__recipes__"  # attribute of a command's function: folder of its own YAML files


def with_recipes(folder: Path) -> Callable[[Function], Function]:
    """Mark a command's function: ``--config NAME`` then means ``folder/NAME.yaml``, unless there is a file NAME."""

    def mark(function: Function) -> Function:
        setattr(function, RECIPES, folder)
        return function

    return mark


def call(function: Function, arguments: list[str], program: str) -> int:
    """Parse ``arguments`` for ``function``, call it, return its exit code. Raises UserError for bad input."""
    if any(word in ("-h", "--help") for word in arguments):
        print(help_text(function, arguments, program))
        return 0
    given = list(_pairs(function, arguments, program))
    values = _from_config(function, given)
    for name, value in given:
        if name not in ("config", "print_config"):
            values[name] = value
    print_config = any(name == "print_config" for name, _ in given)
    keywords = _typed(function, values, program, complete=not print_config)
    if print_config:
        print(_as_yaml(keywords), end="")
        return 0
    positional = [keywords.pop(p.name) for p in _parameters(function) if p.kind is p.POSITIONAL_ONLY]
    if positional and isinstance(positional[-1], list):
        positional = [*positional[:-1], *positional[-1]]
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional = list(keywords.pop(parameter.name))
    return int(function(*positional, **keywords) or 0)


def _parameters(function: Function) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def _is_positional(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL)


def _pairs(function: Function, arguments: list[str], program: str) -> Iterator[tuple[str, Any]]:
    """(name, text) of every option on the command line, unknown names refused with the near ones."""
    positional = [p for p in _parameters(function) if _is_positional(p)]
    words = iter(arguments)
    many: list[str] = []
    for word in words:
        if not word.startswith("--"):
            if positional and positional[0].kind is inspect.Parameter.VAR_POSITIONAL:
                many.append(word)
            elif positional:
                yield positional.pop(0).name, word
            else:
                raise UserError(f"{program} was given '{word}', which belongs to no option; options start with --")
            continue
        given, equals, text = word[2:].partition("=")
        name = _option_name(function, given, program)
        if name == "print_config" or (_is_flag(function, name) and not equals):
            yield name, "true"
            continue
        value = text if equals else next(words, None)
        if value is None:
            raise UserError(f"{program}: option '--{name}' was given no value")
        yield name, value
    if many:
        yield positional[0].name, many


def _option_name(function: Function, given: str, program: str) -> str:
    """The name of an option as Python has it. Raises UserError for one that is unknown, with the near ones."""
    options = {p.name for p in _parameters(function) if not _is_positional(p)} | {"config", "print_config"}
    sections = _sections(function)
    fields = {f"{name}.{field.name}" for name, cls in sections.items() for field in dataclasses.fields(cls)}
    name = given.replace("-", "_")
    if name in sections:
        first = dataclasses.fields(sections[name])[0].name
        raise UserError(f"{program}: --{name} is a section; give its fields, as --{name}.{first}")
    if name in options | fields:
        return name
    if "." in given and given.partition(".")[0] in _plugin_parameters(function):
        return given
    known = ["--" + option.replace("_", "-") for option in options | fields]
    raise UserError(f"{program} has no option '--{given}'; near: {near('--' + given, known)}")


def _is_flag(function: Function, name: str) -> bool:
    return typing.get_type_hints(function).get(name) is bool


def _plugin_parameters(function: Function) -> dict[str, type[PluginSpec]]:
    """Parameter → the kind of plug-in that it takes, of those that take one."""
    found = {}
    for name, hint in typing.get_type_hints(function).items():
        for one in (hint, *typing.get_args(hint)):
            if inspect.isclass(one) and issubclass(one, PluginSpec):
                found[name] = one
    return found


def _sections(function: Function) -> dict[str, Any]:
    """Parameters annotated with a dataclass that is no plug-in's, and that class."""
    hints, plugins = typing.get_type_hints(function), _plugin_parameters(function)
    return {
        p.name: hints[p.name]
        for p in _parameters(function)
        if dataclasses.is_dataclass(hints.get(p.name)) and p.name not in plugins
    }


def read_yaml(path: Path, name: str, expected: str) -> dict[str, Any]:
    """The mapping that a YAML file holds; ``name`` is what errors call it, ``expected`` what they say it should hold.

    Raises:
        UserError: no such file, not YAML, or not a mapping.
    """
    import yaml

    if not path.is_file():
        raise UserError(f"{name}: there is no such file; expected YAML that holds {expected}")
    try:
        loaded = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{name} holds {type(loaded).__name__}; expected {expected}")
    return loaded


def _from_config(function: Function, given: list[tuple[str, Any]]) -> dict[str, Any]:
    """The values of ``--config FILE``, flattened to option names."""
    values: dict[str, Any] = {}
    for name, text in given:
        if name != "config":
            continue
        loaded = read_yaml(_config_path(function, text), f"--config {text}", "the command's option names, with values")
        names = {p.name for p in _parameters(function)}
        sections = _sections(function)
        for key, value in loaded.items():
            key = str(key).replace("-", "_")
            if key not in names:
                raise UserError(f"--config {text}: unknown name '{key}'; near: {near(key, names)}")
            kind = _plugin_parameters(function).get(key)
            if kind is not None and isinstance(value, Mapping):
                for word in set(value) - {"class_path", "init_args"}:
                    raise UserError(f"--config {text}: unknown name '{word}' in {key}; expected class_path, init_args")
                values[key] = value.get("class_path", kind.usual)
                values |= {f"{key}.{k}": v for k, v in (value.get("init_args") or {}).items()}
            elif key in sections:
                if not isinstance(value, Mapping):
                    raise UserError(f"--config {text}: {key} holds '{value}'; expected names with values")
                known = [field.name for field in dataclasses.fields(sections[key])]
                for word in set(map(str, value)) - set(known):
                    raise UserError(f"--config {text}: unknown name '{word}' in {key}; near: {near(word, known)}")
                values |= {f"{key}.{k}": v for k, v in value.items()}
            else:
                values[key] = value
    return values


def _config_path(function: Function, text: str) -> Path:
    """The file behind ``--config``: a path, or the name of one of the command's own recipes.

    Raises:
        UserError: no such file, and no such recipe.
    """
    folder: Path | None = getattr(function, RECIPES, None)
    if folder is None or Path(text).exists() or Path(text).suffix:
        return Path(text)
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if text not in known:
        raise UserError(f"--config {text}: there is no such file, nor a recipe of that name; near: {near(text, known)}")
    return folder / f"{text}.yaml"


def _section(name: str, cls: Any, default: Any, values: dict[str, Any]) -> Any:
    """The dataclass of a section: its default, with the fields that were given."""
    hints = typing.get_type_hints(cls)
    given = {k.split(".", 1)[1]: v for k, v in values.items() if k.startswith(f"{name}.")}
    typed = {field: parse_value(value, hints[field], f"--{name}.{field}") for field, value in given.items()}
    return dataclasses.replace(default, **typed)


def _typed(function: Function, values: dict[str, Any], program: str, complete: bool) -> dict[str, Any]:
    """Keyword arguments of the right types. ``complete=False`` lets required ones be missing (for --print_config)."""
    hints = typing.get_type_hints(function)
    kinds, sections = _plugin_parameters(function), _sections(function)
    keywords: dict[str, Any] = {}
    for parameter in _parameters(function):
        name = parameter.name
        if name in kinds:
            keywords[name] = _spec(name, kinds[name], values, parameter.default)
        elif name in sections:
            keywords[name] = _section(name, sections[name], parameter.default, values)
        elif name in values:
            keywords[name] = (
                values[name]
                if parameter.kind is parameter.VAR_POSITIONAL
                else (parse_value(values[name], hints[name], f"--{name.replace('_', '-')}"))
            )
        elif parameter.default is not parameter.empty:
            keywords[name] = parameter.default
        elif complete:
            word = name.upper() if _is_positional(parameter) else f"--{name.replace('_', '-')}"
            raise UserError(f"{program} needs {word}; see {program} --help")
    for name, value in keywords.items():
        if parameter_is_many(function, name) and complete:
            keywords[name] = [parse_value(item, hints[name], name.upper()) for item in value]
    return keywords


def parameter_is_many(function: Function, name: str) -> bool:
    """True for a ``*name`` parameter, which takes every positional word."""
    return inspect.signature(function).parameters[name].kind is inspect.Parameter.VAR_POSITIONAL


def _spec(parameter: str, kind: type[PluginSpec], values: dict[str, Any], default: Any) -> Any:
    """The spec of ``--generator NAME --generator.OPTION VALUE…``, or of another kind of plug-in."""
    options = {k.split(".", 1)[1]: v for k, v in values.items() if k.startswith(f"{parameter}.")}
    name = values.get(parameter)
    if name is None:
        if options or default is inspect.Parameter.empty:
            raise UserError(f"--{parameter} was not given; expected one of {', '.join(kind.known())} or module.Class")
        return default
    return kind.from_options(str(name), options)


def make_spec(name: str, options: Mapping[str, Any]) -> GeneratorSpec:
    """A checked spec: the class exists, every option is one of its constructor's, every value has the right type.

    A dotted name is looked for in the current folder too. Raises UserError otherwise.
    """
    search_path = (str(Path.cwd()),) if name not in known_generators() else ()
    cls = find_generator(name, search_path)
    short = {target.replace(":", "."): key for key, target in known_generators().items()}
    name = short.get(name.replace(":", "."), name)
    return GeneratorSpec(name, typed_options("generator", name, constructor_options(cls), options), search_path)


def typed_options(kind: str, name: str, known: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a plug-in, every one known and of the right type, none that is needed left out.

    Args:
        kind, name: of the plug-in, for messages.
        known: see :func:`synth.plugins.constructor_options`.
        given: text from the command line or YAML values.

    Raises:
        UserError: an unknown option (near ones are listed), a value of another type, a missing option.
    """
    typed = {}
    for option, value in given.items():
        option = option.replace("-", "_")
        if option not in known:
            raise UserError(f"{kind} {name} has no option '{option}'; near: {near(option, known)}")
        typed[option] = parse_value(value, known[option].hint, f"--{kind}.{option}")
    missing = [o.name for o in known.values() if o.default is inspect.Parameter.empty and o.name not in typed]
    if missing:
        raise UserError(f"{kind} {name} needs --{kind}.{missing[0]}")
    return typed


def parse_value(value: Any, hint: Any, name: str) -> Any:
    """``value`` (text from the command line or a YAML value) as the type ``hint``; UserError naming ``name`` else."""
    import jsonargparse

    if typing.get_args(hint) == (str, ...) and isinstance(value, str) and not value.startswith("["):
        value = [word.strip() for word in value.split(",") if word.strip()]  # words stay words: 1, true and null too
    text = value if isinstance(value, str) else json.dumps(plain(value))
    if (
        "tuple" in repr(hint)
        and isinstance(value, str)
        and not value.startswith("[")
        and ("," in value or not _scalar(hint))
    ):
        text = f"[{value.rstrip(',')}]"
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        parsed = parser.parse_args([f"--value={text}"]).value
    except Exception as error:
        raise UserError(f"{name} was given '{value}'; expected {_describe(hint)}") from error
    if isinstance(parsed, Path):
        return Path(str(parsed))
    return parsed


def _scalar(hint: Any) -> bool:
    """True when something else than a tuple is accepted too (``float | tuple[float, float, float]``)."""
    return (
        any(argument in (int, float, str) for argument in typing.get_args(hint))
        and typing.get_origin(hint) is not tuple
    )


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if hint in (int, float, str, bool):
        return {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}[hint]
    kinds = [kind for kind in typing.get_args(hint) if kind not in (type(None), ...)]
    if typing.get_origin(hint) is tuple and len(set(kinds)) == 1 and ... not in typing.get_args(hint):
        word = {int: "whole numbers", float: "numbers"}.get(kinds[0], "values")
        return f"{len(kinds)} {word} separated by commas"
    if typing.get_origin(hint) is not tuple and len(kinds) > 0 and type(None) in typing.get_args(hint):
        return " or ".join(_describe(kind) for kind in kinds)
    text = str(hint).replace("typing.", "").replace("pathlib.", "")
    return f"{text} (a tuple as 1,2,3)" if "tuple" in text else text


def _as_yaml(keywords: Mapping[str, Any]) -> str:
    import yaml

    written: dict[str, Any] = {}
    for name, value in keywords.items():
        if isinstance(value, PluginSpec):
            written[name] = value.recipe()
        else:
            written[name] = plain(dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value)  # type: ignore[arg-type]
    return str(yaml.safe_dump(written, sort_keys=False))


def help_text(function: Function, arguments: list[str], program: str) -> str:
    """Usage, one line per option with type and default, from the signature and the Google-style docstring."""
    from docstring_parser import parse

    doc = parse(inspect.getdoc(function) or "")
    about = {p.arg_name.lstrip("*"): (p.description or "") for p in doc.params}
    hints = typing.get_type_hints(function)
    words = " ".join(_usage_word(p) for p in _parameters(function) if _is_positional(p))
    lines = [f"usage: {program} {words} [options]".replace("  ", " "), "", doc.short_description or ""]
    lines += ["", doc.long_description] if doc.long_description else []
    lines += ["", "options:"]
    sections = _sections(function)
    for parameter in _parameters(function):
        if parameter.name in sections:
            lines += _section_help(parameter.name, sections[parameter.name], parameter.default)
            continue
        label = parameter.name.upper() if _is_positional(parameter) else f"--{parameter.name.replace('_', '-')}"
        lines.append(_option_line(label, hints.get(parameter.name), parameter.default, about.get(parameter.name, "")))
    lines.append(_option_line("--config", Path, None, "YAML file with these names; the command line wins"))
    lines.append(_option_line("--print_config", bool, False, "print the YAML of this command line and stop"))
    for name, kind in _plugin_parameters(function).items():
        chosen = next((b for a, b in itertools.pairwise(arguments) if a == f"--{name}"), kind.usual)
        lines += _plugin_help(name, kind, chosen)
    return "\n".join(lines)


def _section_help(name: str, cls: Any, default: Any) -> list[str]:
    """One line per field of a section, described under ``Attributes`` of its docstring."""
    from docstring_parser import parse

    about: dict[str, str] = {}
    for entry in parse(inspect.getdoc(cls) or "").params:
        about |= dict.fromkeys((word.strip() for word in entry.arg_name.split(",")), entry.description or "")
    hints = typing.get_type_hints(cls)
    return [
        _option_line(
            f"--{name}.{field.name.replace('_', '-')}",
            hints[field.name],
            getattr(default, field.name),
            about.get(field.name, ""),
        )
        for field in dataclasses.fields(cls)
    ]


def _usage_word(parameter: inspect.Parameter) -> str:
    """``CORPUS``, ``[FOLDER]`` when it can be left out, ``RESULTS…`` when there can be many."""
    word = parameter.name.upper() + ("…" if parameter.kind is parameter.VAR_POSITIONAL else "")
    return word if parameter.default is parameter.empty else f"[{word}]"


def _plugin_help(parameter: str, kind: type[PluginSpec], name: str) -> list[str]:
    known = ", ".join(kind.known())
    return [
        "",
        f"options of {kind.kind} {name} (others: --{parameter} NAME --help; known: {known}):",
        *(
            _option_line(f"--{parameter}.{option.name}", option.hint, option.default, option.about)
            for option in kind.options_of(name)
        ),
    ]


def _option_line(label: str, hint: Any, default: Any, about: str) -> str:
    import textwrap

    empty = default is inspect.Parameter.empty
    is_plugin = inspect.isclass(hint) and issubclass(hint, PluginSpec)
    kind = "NAME" if is_plugin else _describe(hint).removesuffix(" (a tuple as 1,2,3)").removeprefix("one of ")
    kind = kind.replace("<class '", "").replace("'>", "")
    if isinstance(default, PluginSpec):
        default = default.class_path
    elif isinstance(default, tuple):
        default = ",".join(map(str, default))
    shown = "required" if empty else "no default" if default in (None, "") else f"default {plain(default)}"
    body = textwrap.fill(f"{about.strip()} [{kind}; {shown}]", 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return f"  {label}\n{body}"
