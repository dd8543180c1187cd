"""Signatures become options: types, commas, YAML, near names."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from synth.appearance.priors import PRIORS
from synth.errors import UserError
from synth.generator import GeneratorSpec
from synth.options import call, make_spec, parse_value
from tests.conftest import Run

SEEN: dict[str, Any] = {}
DEFAULT = GeneratorSpec("LabelMap")


def command(
    out: Path,
    count: int,
    generator: GeneratorSpec = DEFAULT,
    ages: tuple[float, float] = (20.0, 90.0),
    names: tuple[str, ...] = (),
    kind: Literal["a", "b"] = "a",
    dry_run: bool = False,
    word: str | None = None,
) -> int:
    """Remember what it was given.

    Args:
        out: folder.
        count: number.
        generator: which.
        ages: youngest and oldest.
        names: some names.
        kind: of two.
        dry_run: do nothing.
        word: any.
    """
    SEEN.clear()
    SEEN.update(
        out=out, count=count, generator=generator, ages=ages, names=names, kind=kind, dry_run=dry_run, word=word
    )
    return 0


def given_to(*words: str) -> dict[str, Any]:
    assert call(command, ["--out", "x.zarr", "--count", "3", *words], "brainloom test") == 0
    return dict(SEEN)


def refused(*words: str) -> str:
    with pytest.raises(UserError) as error:
        call(command, ["--out", "x.zarr", "--count", "3", *words], "brainloom test")
    return str(error.value)


@pytest.mark.parametrize(
    "text, hint, value",
    [
        ("1,2,3", tuple[int, int, int], (1, 2, 3)),
        ("2.0", float | tuple[float, float, float], 2.0),
        ("1,2,3", float | tuple[float, float, float], (1.0, 2.0, 3.0)),
        ("A,B", tuple[str, ...], ("A", "B")),
        ("A", tuple[str, ...], ("A",)),
        ("", tuple[str, ...], ()),
        ("1,2", tuple[str, ...], ("1", "2")),
        ("true,no,null", tuple[str, ...], ("true", "no", "null")),
        ("50,70", tuple[float, float], (50.0, 70.0)),
        ("3", str, "3"),
        ("[a,b]", str, "[a,b]"),
        ("null", Path | None, None),
        ("a b/c", Path | None, Path("a b/c")),
        ("1e3", float, 1000.0),
    ],
)
def test_text_becomes_the_type_that_the_hint_asks_for(text: str, hint: Any, value: Any) -> None:
    assert parse_value(text, hint, "--x") == value


@given(st.lists(st.integers(-999, 999), min_size=3, max_size=3))
def test_three_whole_numbers_by_commas_are_a_tuple(numbers: list[int]) -> None:
    assert parse_value(",".join(map(str, numbers)), tuple[int, int, int], "--x") == tuple(numbers)


def test_options_are_read_however_they_are_written() -> None:
    for words in (["--dry-run"], ["--dry_run"], ["--dry-run=true"]):
        assert given_to(*words)["dry_run"] is True
    assert given_to("--dry-run=false")["dry_run"] is False
    assert given_to("--ages", "50,70")["ages"] == given_to("--ages=50,70")["ages"] == (50.0, 70.0)
    assert given_to("--count", "4")["count"] == 4, "the last one wins"


def test_options_of_the_generator_come_from_its_own_signature() -> None:
    spec = given_to("--generator", "LabelMap", "--generator.shape", "24,28,24", "--generator.spacing", "8")["generator"]
    assert spec.class_path == "LabelMap" and spec.init_args == {"shape": (24, 28, 24), "spacing": 8.0}


@pytest.mark.parametrize(
    "words, says",
    [
        (["--cuont", "3"], "--count"),
        (["--generator.shpae", "1,2,3", "--generator", "LabelMap"], "shape"),
        (["--generator", "LabelMpa"], "LabelMap"),
        (["--generator", "synth.labelmap.LabelMpa"], "LabelMap"),
        (["--count", "three"], "--count was given 'three'; expected a whole number"),
        (["--count"], "'--count' was given no value"),
        (["--kind", "c"], "--kind was given 'c'; expected one of a, b"),
        (["--ages", "50"], "--ages"),
        (["--ages", "50,old"], "--ages was given '50,old'"),
        (["--dry-run=perhaps"], "--dry-run was given 'perhaps'; expected true or false"),
        (["--generator", "LabelMap", "--generator.shape", "8,8"], "--generator.shape was given '8,8'"),
        (["--generator", "LabelMap", "--generator.contrast", "pdw"], "t1w, t2w, flair, random"),
        (["stray"], "'stray'"),
        (["--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_what_cannot_be_read_is_named_with_what_was_expected(words: list[str], says: str) -> None:
    message = refused(*words)
    assert says in message and "\n" not in message


def test_what_is_needed_is_named() -> None:
    with pytest.raises(UserError, match=r"brainloom test needs --out; see brainloom test --help"):
        call(command, ["--count", "3"], "brainloom test")


def test_a_printed_config_gives_the_same_command_again(tmp_path: Path, run: Run) -> None:
    words = [
        "--generator.shape",
        "24,28,24",
        "--generator.spacing",
        "8.0",
        "--generator.ages",
        "50,70",
        "--generator.diagnoses",
        "CN,AD",
        "--generator.anatomies",
        "some where",
        "--generator",
        "LabelMap",
        "--count",
        "5",
        "--out",
        "x.zarr",
        "--dtype",
        "float32",
    ]
    printed = run("synth", "generate", *words, "--print_config")
    assert printed.code == 0
    (tmp_path / "c.yaml").write_text(printed.out)
    again = run("synth", "generate", "--config", tmp_path / "c.yaml", "--print_config")
    assert again.out == printed.out
    loaded = yaml.safe_load(printed.out)
    assert loaded["generator"]["init_args"]["ages"] == [50.0, 70.0]
    spec = make_spec("LabelMap", loaded["generator"]["init_args"])
    given = {word[12:]: value for word, value in pairwise(words) if word.startswith("--generator.")}
    direct = make_spec("LabelMap", given)
    assert spec.recipe() == direct.recipe() and spec.fingerprint([]) == direct.fingerprint([])


def test_the_command_line_wins_over_the_config(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "count: 7\nkind: b\ngenerator: {class_path: LabelMap, init_args: {noise: [1, 0, 0.1], warp_mm: 0.2}}\n"
    )
    seen = given_to("--config", str(path), "--generator.noise", "1,0,0.3")
    assert (seen["count"], seen["kind"]) == (3, "b")
    assert seen["generator"].init_args == {"noise": (1.0, 0.0, 0.3), "warp_mm": 0.2}


@pytest.mark.parametrize(
    "text, says",
    [
        ("seeed: 3", "unknown name 'seeed'"),
        ("- 1", "list"),
        ("a: [", "not YAML"),
        ("count: [1]", "--count"),
        ("kind: c", "a, b"),
        ("generator: {class_path: LabelMap, init_args: {shpae: [1, 2, 3]}}", "shape"),
        ("generator: {class_path: LabelMap, init_agrs: {shape: [24, 28, 24]}}", "init_args"),
    ],
)
def test_a_config_with_mistakes_is_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(says)) as error:
        call(
            command,
            ["--config", str(path), "--out", "x", *([] if "count" in text else ["--count", "3"])],
            "brainloom test",
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "option, one, other",
    [
        ("spacing", 2, 2.0),
        ("shape", [24, 28, 24], (24, 28, 24)),
        ("noise", [1, 0, 1], (1.0, 0.0, 1.0)),
        ("warp_mm", 0, 0.0),
    ],
)
def test_one_value_written_in_two_ways_is_one_recipe(option: str, one: Any, other: Any) -> None:
    first, second = (GeneratorSpec("LabelMap", {option: value}).fingerprint([]) for value in (one, other))
    assert first == second


def test_another_value_is_another_recipe() -> None:
    specs = [
        GeneratorSpec("LabelMap", arguments)
        for arguments in ({}, {"noise": (1.0, 0.0, 0.1)}, {"flip": False}, {"shape": (8, 8, 9)})
    ]
    assert len({spec.fingerprint([]) for spec in specs}) == len(specs)
    assert GeneratorSpec("LabelMap", {"noise": PRIORS["t1w"]["noise"], "flip": True}).fingerprint([]) == specs[
        0
    ].fingerprint([]), "a default, written out"
