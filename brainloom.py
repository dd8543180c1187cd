"""The front door: ``brainloom ROOM COMMAND …``. A room is imported only when one of its commands is called."""

from __future__ import annotations

import importlib
import os
import sys

__version__ = "0.1.0"

# room -> command -> ("module:function", one line for --help)
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "synth": {
        "generate": ("synth.cli:generate", "make a corpus of synthetic volumes"),
        "import": ("synth.scans_cli:import_", "make a corpus of the real scans of a BIDS folder"),
        "plan": ("synth.cli:plan", "what generate with the same options will cost, before it runs"),
        "train": ("synth.cli:train", "train a generator that learns (Diffusion) on a corpus"),
        "inspect": ("synth.cli:inspect", "look at a corpus: summary and a mosaic picture"),
        "verify": ("synth.cli:verify", "check every bit of a corpus against its records, or compare two"),
        "repair": ("synth.cli:repair", "make again what is damaged in a corpus, and nothing else"),
        "explain": ("synth.cli:explain", "the birth certificate of one volume"),
        "export": ("synth.cli:export", "write a corpus as a BIDS folder"),
        "audit": (
            "synth.audit_cli:audit",
            "what a synthetic corpus is worth: fidelity, diversity, conditioning, copies",
        ),
        "labels": ("synth.label_cli:labels", "write a label table: the built-in one, or that of your label maps"),
    },
    "pretrain": {
        "run": ("pretrain.cli:run", "pre-train a backbone on a corpus"),
        "plan": ("pretrain.cli:plan", "what run with the same options will take, before it starts"),
        "probe": ("pretrain.cli:probe", "what a linear model reads from weights, beside an untrained backbone"),
        "backbones": ("pretrain.cli:backbones", "list the backbones: parameters, memory, sizes"),
        "export": ("pretrain.cli:export", "write weights as a MONAI bundle"),
    },
    "finetune": {
        "run": ("finetune.cli:run", "take weights through AD, PD or brain age on a cohort"),
    },
    "benchmark": {
        "speed": ("benchmarks.cli:speed", "time the generator beside other packages, on one thread"),
        "morphometry": (
            "benchmarks.cli:morphometry",
            "volumes asked against volumes realised, and groups' effect sizes",
        ),
        "realism": ("benchmarks.cli:realism", "image quality of simulated T1w volumes against real scans'"),
        "run": ("benchmarks.cli:run", "run the benchmark that a recipe describes"),
        "report": ("benchmarks.cli:report", "gather finished runs into one report.html"),
    },
    "demo": {
        "": ("benchmarks.demo:demo", "the whole line on the built-in anatomy, on a CPU, in minutes"),
    },
}


def usage(room: str | None = None) -> str:
    """The help text of the front door, or of one room."""
    lines = ["usage: brainloom ROOM COMMAND [options]   (each command has its own --help)", ""]
    if room is None:
        lines += ["Synthetic brain MRI at scale, backbones pre-trained on it, and what that was worth.", ""]
    for name, commands in COMMANDS.items():
        if room not in (None, name):
            continue
        for command, (_, line) in commands.items():
            lines.append(f"  brainloom {f'{name} {command}'.strip():<20} {line}")
    return "\n".join(lines)


def _near(word: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5) or known
    return ", ".join(close)


def _find(arguments: list[str]) -> tuple[str, str, list[str]] | str:
    """(target, program name, remaining arguments) of a command line, or the sentence that says what is wrong."""
    room, rest = arguments[0], arguments[1:]
    if room not in COMMANDS:
        return f"there is no room '{room}'; did you mean: {_near(room, list(COMMANDS))}? See brainloom --help"
    commands = COMMANDS[room]
    if "" in commands:
        return commands[""][0], f"brainloom {room}", rest
    if not rest or rest[0] not in commands:
        given = f"'{rest[0]}'" if rest else "none"
        near = _near(rest[0] if rest else "", list(commands))
        return f"'brainloom {room}' needs a command, was given {given}; did you mean: {near}?"
    return commands[rest[0]][0], f"brainloom {room} {rest[0]}", rest[1:]


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(f"brainloom {__version__}")
        return 0
    if len(arguments) == 2 and arguments[0] in COMMANDS and arguments[1] in ("-h", "--help") and arguments[0] != "demo":
        print(usage(arguments[0]))
        return 0
    found = _find(arguments)
    if isinstance(found, str):
        print(f"brainloom: error: {found}", file=sys.stderr)
        return 2
    target, program, rest = found
    from synth.errors import UserError
    from synth.options import call

    module, function = target.split(":")
    try:
        return call(getattr(importlib.import_module(module), function), rest, program)
    except UserError as error:
        print(f"brainloom: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, head for instance, has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        return 0
    except KeyboardInterrupt:
        print("brainloom: interrupted; what was finished is kept, the same command goes on from there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
