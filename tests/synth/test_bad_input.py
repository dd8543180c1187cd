"""Whatever is wrong with the input: exit code 2, one line that says so, nothing made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synth.engine import Job, generate
from synth.generator import GeneratorSpec
from tests.conftest import PLUGIN, Run, spheres_in_a_box
from tests.synth.test_engine import files

GENERATE = ("synth", "generate", "--workers", "0", "--out", "new.zarr")
SMALL = ("--generator", "LabelMap", "--generator.shape", "16,18,16", "--generator.spacing", "11", "--count", "2")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(run: Run, place: Path, *words: object, says: str) -> None:
    """The command line is refused in one line that holds ``says``, and leaves the folder as it was."""
    before = files(place), sorted(p for p in place.rglob("*"))
    answer = run(*words)
    assert answer.code == 2, answer.err
    assert answer.err.startswith("brainloom: error:") and len(answer.err.splitlines()) == 1, answer.err
    assert "Traceback" not in answer.err and not answer.out
    assert says in answer.err, answer.err
    assert (files(place), sorted(p for p in place.rglob("*"))) == before, "something was made or changed"


@pytest.mark.parametrize(
    "words, says",
    [
        (("--count", "0"), "--count is 0; expected 1 or more"),
        (("--count", "-3"), "--count is -3"),
        (("--count", "many"), "--count was given 'many'"),
        (("--count", "2.5"), "--count was given '2.5'"),
        (("--shard-size", "0"), "--shard-size is 0"),
        (("--seed", "-1"), "--seed is -1"),
        (("--workers", "-1"), "--workers is -1"),
        (("--dtype", "float64"), "float16, float32"),
        (("--generator.shape", "16,18"), "--generator.shape was given '16,18'"),
        (("--generator.shape", "16,18,0"), "shape is 16,18,0; expected three whole numbers from 8 to 1024"),
        (("--generator.shape", "-16,18,16"), "shape is -16,18,16"),
        (("--generator.shape", "16,18,sixteen"), "--generator.shape"),
        (("--generator.shape", "16.5,18,16"), "--generator.shape"),
        (("--generator.spacing", "0"), "spacing"),
        (("--generator.spacing", "-1,1,1"), "spacing"),
        (("--generator.ages", "80,60"), "ages is 80"),
        (("--generator.diagnoses", "CN,ALS"), "'ALS'"),
        (("--generator.contrast", "t2"), "t1w, t2w, flair, random"),
        (("--generator.flip", "perhaps"), "--generator.flip was given 'perhaps'; expected true or false"),
        (("--generator.noise", "loud"), "--generator.noise was given 'loud'; expected 3 numbers separated by commas"),
        (("--generator.noise", "0.1"), "--generator.noise was given '0.1'; expected 3 numbers separated by commas"),
        (("--generator.noise", "1,0.2,0.1"), "noise is 1,0.2,0.1: its low, 0.2, is above its high, 0.1"),
        (("--generator.noise", "1.5,0,0.1"), "expected a probability from 0 to 1"),
        (("--generator.gamma", "1,0,2"), "gamma is 1,0,2; expected low and high from 0.05 to 20"),
        (("--generator.strip", "2"), "strip is 2.0; expected a probability from 0 to 1"),
        (("--generator.shpae", "16,18,16"), "near: shape"),
        (("--generator", "LabelMpa"), "LabelMap"),
        (("--generator", "nomodule.Onion"), "nomodule"),
        (("--generator", "synth.labelmap.Labelmap"), "LabelMap"),
        (("--generator", "synth.sample.Sample"), "Generator"),
        (("--generator", "pathlib.Path"), "Generator"),
        (("--cuont", "3"), "near: --count"),
        (("--generator.anatomies", "nowhere"), "there is no folder 'nowhere'"),
        (("--config", "nowhere.yaml"), "nowhere.yaml"),
        (("--count",), "was given no value"),
        (("--out", "/proc/nowhere/x.zarr"), "/proc/nowhere/x.zarr"),
        (("extra",), "'extra'"),
    ],
)
def test_a_bad_option_is_refused(words: tuple[str, ...], says: str, place: Path, run: Run) -> None:
    refuse(run, place, *GENERATE, *SMALL, *words, says=says)


@pytest.mark.parametrize(
    "words, says",
    [
        (("synht", "generate"), "synth"),
        (("synth", "genrate"), "generate"),
        (("synth",), "generate"),
        (("synth", "generate", "--count", "2"), "--out"),
        (("synth", "generate", "--out", "new.zarr"), "--count"),
        (("synth", "verify"), "CORPUS"),
        (("synth", "explain", "x.zarr"), "INDEX"),
        (("synth", "export", "x.zarr"), "--out"),
    ],
)
def test_a_command_line_that_is_not_whole_is_refused(words: tuple[str, ...], says: str, place: Path, run: Run) -> None:
    refuse(run, place, *words, says=says)


COMMANDS = [("inspect",), ("verify",), ("explain", "0"), ("export", "--out", "bids")]


@pytest.mark.parametrize("command", COMMANDS, ids=[words[0] for words in COMMANDS])
@pytest.mark.parametrize(
    "kind", ["nothing", "empty folder", "file", "broken zarr.json", "foreign zarr group", "zarr array"]
)
def test_what_is_no_corpus_is_refused(kind: str, command: tuple[str, ...], place: Path, run: Run) -> None:
    import zarr

    path = place / "x.zarr"
    if kind == "file":
        path.write_text("hello")
    elif kind in ("empty folder", "broken zarr.json"):
        path.mkdir()
    if kind == "broken zarr.json":
        (path / "zarr.json").write_text("{")
    elif kind == "foreign zarr group":
        zarr.create_group(path, attributes={"format": "something else"})
    elif kind == "zarr array":
        zarr.create_array(path, shape=(3,), dtype="i4")
    refuse(run, place, "synth", command[0], "x.zarr", *command[1:], says="x.zarr")
    if kind != "nothing":
        refuse(run, place, *GENERATE, *SMALL, "--out", "x.zarr", says="x.zarr")


def test_a_corpus_of_a_newer_format_is_refused(place: Path, run: Run) -> None:
    import zarr

    generate(Job(GeneratorSpec("onions.Onion", {"shape": (8, 8, 8)}, (str(PLUGIN),)), 1, 0, place / "x.zarr"))
    zarr.open_group(place / "x.zarr", mode="r+", use_consolidated=False).attrs["format_version"] = 99
    refuse(run, place, "synth", "verify", "x.zarr", says="format version 99")


@pytest.mark.parametrize(
    "words, says",
    [
        (("explain", "x.zarr", "7"), "expected 0 to 1"),
        (("explain", "x.zarr", "-1"), "expected 0 to 1"),
        (("explain", "x.zarr", "first"), "'first'"),
        (("export", "x.zarr", "--out", "b", "--indices", "1-7"), "0-1"),
        (("export", "x.zarr", "--out", "b", "--indices", "1"), "FIRST-LAST"),
        (("export", "x.zarr", "--out", "x.zarr"), "exists"),
        (("export", "x.zarr", "--out", "b", "--format", "dicom"), "bids"),
        (("inspect", "x.zarr", "--png", "a.png", "--rows", "0"), "--rows is 0"),
        (("inspect", "x.zarr", "--png", "no/such/folder/a.png"), "no/such/folder"),
    ],
)
def test_a_bad_question_to_a_corpus_is_refused(words: tuple[str, ...], says: str, place: Path, run: Run) -> None:
    generate(Job(GeneratorSpec("onions.Onion", {"shape": (8, 8, 8)}, (str(PLUGIN),)), 2, 0, place / "x.zarr"))
    answer_before = files(place)
    run_ = run("synth", *words)
    assert run_.code == 2 and run_.err.startswith("brainloom: error:") and len(run_.err.splitlines()) == 1, run_.err
    assert says in run_.err and files(place) == answer_before


def test_an_output_with_another_recipe_is_refused(place: Path, run: Run) -> None:
    assert run(*GENERATE, *SMALL).code == 0
    refuse(run, place, *GENERATE, *SMALL, "--seed", "1", says="seed 0, asked for was 1")
    refuse(run, place, *GENERATE, *SMALL, "--generator.flip", "false", says="flip True, asked for was False")


def floats(value: float) -> np.ndarray:
    array = spheres_in_a_box().astype(np.float32)
    array[20, 20, 20] = value
    return array


def unknown() -> np.ndarray:
    array = spheres_in_a_box()
    array[20, 20, 20] = 9999
    return array


@pytest.mark.parametrize(
    "array, says",
    [
        (lambda: np.stack([spheres_in_a_box()] * 2, -1), "4 axes"),
        (lambda: spheres_in_a_box()[:, :, 20], "2 axes"),
        (lambda: floats(np.nan), "NaN"),
        (lambda: floats(np.inf), "infinity"),
        (lambda: floats(17.5), "non-integer"),
        (unknown, "9999"),
        (lambda: -spheres_in_a_box(), "-"),
        (lambda: np.zeros((20, 20, 20), np.int16), "brain"),
        (lambda: spheres_in_a_box().astype(np.float32) * 1e6, "label table"),
    ],
    ids=["4-D", "2-D", "NaN", "infinity", "non-integer", "unknown label", "negative", "empty", "huge"],
)
def test_a_bad_label_map_is_refused_by_name(
    array: Callable[[], np.ndarray], says: str, place: Path, run: Run, toy_label_map: Callable[..., Path]
) -> None:
    toy_label_map(name="fine_dseg.nii.gz")
    toy_label_map(array(), name="odd_dseg.nii.gz")
    refuse(run, place, *GENERATE, *SMALL, "--generator.anatomies", "anatomies", says="odd_dseg.nii.gz")
    refuse(run, place, *GENERATE, *SMALL, "--generator.anatomies", "anatomies", says=says)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98])
def test_a_truncated_label_map_is_refused_by_name(
    share: float, place: Path, run: Run, toy_label_map: Callable[..., Path]
) -> None:
    path = toy_label_map() / "toy_dseg.nii.gz"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refuse(run, place, *GENERATE, *SMALL, "--generator.anatomies", "anatomies", says="toy_dseg.nii.gz")


@pytest.mark.parametrize(
    "name, content",
    [
        ("a_dseg.nii.gz", b"this is no NIfTI"),
        ("a_dseg.nii", b""),
        ("a_dseg.mgz", b"\x00" * 999),
    ],
)
def test_a_file_that_only_has_the_name_of_a_label_map_is_refused(
    name: str, content: bytes, place: Path, run: Run
) -> None:
    (place / "anatomies").mkdir()
    (place / "anatomies" / name).write_bytes(content)
    refuse(run, place, *GENERATE, *SMALL, "--generator.anatomies", "anatomies", says=name)


def test_a_folder_without_label_maps_is_refused(place: Path, run: Run) -> None:
    (place / "anatomies").mkdir()
    (place / "anatomies" / "notes.txt").write_text("nothing")
    refuse(run, place, *GENERATE, *SMALL, "--generator.anatomies", "anatomies", says="holds no label map")
    refuse(run, place, *GENERATE, *SMALL, "--generator.anatomies", "anatomies/notes.txt", says="notes.txt")


def test_label_maps_stored_as_floats_or_with_a_last_axis_of_one_are_fine(
    place: Path, run: Run, toy_label_map: Callable[..., Path]
) -> None:
    toy_label_map(spheres_in_a_box().astype(np.float64), name="a_dseg.nii.gz")
    toy_label_map(spheres_in_a_box()[..., None], name="b_dseg.nii")
    answer: Any = run(*GENERATE, *SMALL, "--generator.anatomies", "anatomies")
    assert answer.code == 0, answer.err
