"""The front door answers at once, leads where it says, and says what is wrong in one line."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import pytest

import brainloom
from tests.conftest import Run

EVERY = [(room, command) for room, commands in brainloom.COMMANDS.items() for command in commands]
HEAVY = (
    "torch",
    "monai",
    "ray",
    "zarr",
    "numba",
    "nibabel",
    "numpy",
    "scipy",
    "pandas",
    "lightning",
    "matplotlib",
    "jsonargparse",
    "rich",
    "synth",
    "pretrain",
    "finetune",
    "benchmarks",
)


def test_help_answers_within_half_a_second(
    brainloom_command: list[str], in_subprocess: Callable[..., dict[str, str]]
) -> None:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run(
            [*brainloom_command, "--help"], env=in_subprocess(), capture_output=True, text=True, check=False
        )
        seconds.append(time.perf_counter() - started)
        assert done.returncode == 0 and "brainloom synth generate" in done.stdout and not done.stderr
    assert min(seconds) < 0.5


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["synth", "--help"], ["synht", "generate"], ["synth", "x"]]
)
def test_the_front_door_itself_imports_no_heavy_module(
    words: list[str], brainloom_command: list[str], in_subprocess: Callable[..., dict[str, str]]
) -> None:
    code = (
        "import sys; before = set(sys.modules); import brainloom; brainloom.main(sys.argv[1:]); "
        "print('MODULES', *sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run(
        [brainloom_command[0], "-c", code, *words], env=in_subprocess(), capture_output=True, text=True, check=True
    )
    loaded = done.stdout.splitlines()[-1].split()[1:]
    assert "brainloom" in loaded
    assert not set(loaded) & set(HEAVY)


def test_the_installed_command_is_the_front_door(in_subprocess: Callable[..., dict[str, str]]) -> None:
    from importlib.metadata import entry_points

    found = [point.value for point in entry_points(group="console_scripts") if point.name == "brainloom"]
    assert found == ["brainloom:main"]


@pytest.mark.parametrize("room, command", EVERY, ids=[f"{room} {command}".strip() for room, command in EVERY])
def test_every_listed_command_answers_help(room: str, command: str, run: Run) -> None:
    answer = run(*f"{room} {command}".split(), "--help")
    assert answer.code == 0
    assert answer.out.startswith(f"usage: brainloom {room} {command}".strip())
    assert "--config" in answer.out and not answer.err


@pytest.mark.parametrize("room, command", EVERY, ids=[f"{room} {command}".strip() for room, command in EVERY])
def test_help_of_every_command_explains_every_option(room: str, command: str, run: Run) -> None:
    lines = run(*f"{room} {command}".split(), "--help").out.splitlines()
    options = [at for at, line in enumerate(lines) if line.startswith("  --")]
    assert options
    for at in options:
        explained = lines[at + 1].strip()
        assert explained and not explained.startswith("["), f"{lines[at].strip()} is not explained in the docstring"


@pytest.mark.parametrize("room", [room for room in brainloom.COMMANDS if room != "demo"])
def test_help_of_a_room_lists_its_commands_and_no_others(room: str, run: Run) -> None:
    answer = run(room, "--help")
    listed = [line.split()[1:3] for line in answer.out.splitlines() if line.startswith("  brainloom ")]
    assert answer.code == 0
    assert listed == [[room, command] for command in brainloom.COMMANDS[room]]


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(words: list[str], run: Run) -> None:
    answer = run(*words)
    assert answer.code == 0
    for room, command in EVERY:
        assert f"brainloom {room} {command}".strip() in answer.out


def test_version_is_the_installed_one(run: Run) -> None:
    from importlib.metadata import version

    assert run("--version").out == f"brainloom {version('brainloom')}\n"


@pytest.mark.parametrize(
    "words, says",
    [
        (["synht", "generate"], "synth"),
        (["synth", "genrate"], "generate"),
        (["synth"], "generate"),
        (["synth", "--count", "3"], "generate"),
        (["nonsense"], "--help"),
        (["pretrain", "rnu"], "run"),
    ],
)
def test_a_misspelt_room_or_command_gets_the_near_names(words: list[str], says: str, run: Run) -> None:
    answer = run(*words)
    assert answer.code == 2 and not answer.out
    assert answer.err.startswith("brainloom: error:") and len(answer.err.splitlines()) == 1
    assert says in answer.err


def test_an_interrupted_command_says_that_what_is_finished_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("synth.options.call", interrupted)
    answer = run("synth", "verify", "x")
    assert answer.code == 130 and len(answer.err.splitlines()) == 1 and "kept" in answer.err
