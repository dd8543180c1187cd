"""Every damage is found, and mended to the same bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synth.corpus import GROUP, HEADER, SEAL, Corpus, record_path
from synth.engine import Job, generate, repair
from synth.generator import GeneratorSpec
from synth.pool import Workers
from synth.verify import differences, open_to_check, verify
from tests.conftest import PLUGIN, Run
from tests.synth.test_engine import bits, files

ONION = GeneratorSpec("onions.Onion", {"shape": (12, 10, 8), "shells": 4}, (str(PLUGIN),))
JOB = Job(ONION, 23, 3, Path(), 5, chunk=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished corpus of 23 onions in five shards of blocks of 8³."""
    out = tmp_path_factory.mktemp("made") / "onion.zarr"
    assert not generate(Job(ONION, 23, 3, out, 5, chunk=8)).failed
    return out


@pytest.fixture
def corpus(made: Path, tmp_path: Path) -> Path:
    """A copy of it to harm."""
    return Path(shutil.copytree(made, tmp_path / "onion.zarr", copy_function=shutil.copy2))


def problems(path: Path) -> list[str]:
    """Everything that verify says of a corpus."""
    opened, wrong = open_to_check(path)
    return wrong + [problem for _, found in verify(opened) for problem in found]


def some_file(path: Path, rng: np.random.Generator, pattern: str) -> Path:
    found = sorted(p for p in path.rglob(pattern) if p.is_file() and not p.name.startswith("."))
    return found[int(rng.integers(len(found)))]


def flip_a_byte(path: Path, rng: np.random.Generator) -> str:
    file = some_file(path, rng, "*")
    data = bytearray(file.read_bytes())
    at = int(rng.integers(len(data)))
    data[at] ^= int(rng.integers(1, 256))
    file.write_bytes(data)
    return f"byte {at} of {file.name}"


def truncate_a_shard(path: Path, rng: np.random.Generator) -> str:
    file = some_file(path, rng, "c.*")
    data = file.read_bytes()
    file.write_bytes(data[: int(rng.integers(len(data)))])
    return f"{file.name} cut"


def delete_a_file(path: Path, rng: np.random.Generator) -> str:
    file = some_file(path, rng, "*")
    file.unlink()
    return f"{file.name} deleted"


def swap_two_shards(path: Path, rng: np.random.Generator) -> str:
    array = ["image", "label"][int(rng.integers(2))]
    one, other = rng.choice(4, 2, replace=False)
    tail = ".0.0.0.0" if array == "image" else ".0.0.0"
    first, second = (path / array / f"c.{shard}{tail}" for shard in (one, other))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    return f"{first.name} and {second.name} swapped"


def swap_two_records(path: Path, rng: np.random.Generator) -> str:
    one, other = (record_path(path, int(shard)) for shard in rng.choice(5, 2, replace=False))
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    return f"{one.name} and {other.name} swapped"


def edit_an_attribute(path: Path, rng: np.random.Generator) -> str:
    file = [path / GROUP, path / "image" / GROUP, path / "volume_onion" / GROUP, path / HEADER][int(rng.integers(4))]
    content = json.loads(file.read_text())
    holder = content if file.name == HEADER else content["attributes"]
    holder = holder if rng.random() < 0.5 or file.parent != path or file.name == HEADER else holder["recipe"]
    names = [name for name in sorted(holder) if name != "sha256"] or ["new"]
    name = names[int(rng.integers(len(names)))]
    holder[name] = "edited" if holder.get(name) != "edited" else "again"
    file.write_text(json.dumps(content))
    return f"{name} of {file.relative_to(path)} edited"


DAMAGES = [
    flip_a_byte,
    flip_a_byte,
    truncate_a_shard,
    delete_a_file,
    swap_two_shards,
    swap_two_records,
    edit_an_attribute,
]


def test_of_two_hundred_random_damages_all_are_found(made: Path, tmp_path: Path) -> None:
    assert problems(made) == []
    missed = []
    for number in range(200):
        rng = np.random.default_rng(number)
        path = Path(shutil.copytree(made, tmp_path / "harmed.zarr"))
        done = DAMAGES[number % len(DAMAGES)](path, rng)
        try:
            found = problems(path)
        except ValueError as error:  # both copies of the header: it cannot even be opened
            found = [str(error)]
        if not found:
            missed.append(f"{number}: {done}")
        shutil.rmtree(path)
    assert missed == []


@pytest.mark.parametrize("number", range(14))
def test_repair_makes_again_what_is_damaged_and_touches_nothing_else(number: int, corpus: Path) -> None:
    before, expected = files(corpus), bits(corpus)
    metadata = {name for name in before if not name.startswith(("image/c", "label/c", "records/"))}
    DAMAGES[number % len(DAMAGES)](corpus, np.random.default_rng(number))
    harmed = files(corpus)
    assert not repair(corpus, ONION, Workers(0)).failed
    assert problems(corpus) == [] and bits(corpus) == expected
    after = files(corpus)
    assert set(after) == set(before)
    touched = {name for name in after if after[name] != harmed.get(name)} - metadata
    shards = {name.split("/")[1].split(".")[1].lstrip("0") or "0" for name in touched if "/c." in name}
    assert len(shards) <= 2, f"remade: {touched}"


def test_repair_of_a_sound_corpus_does_nothing(corpus: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PLUGIN)
    before = files(corpus)
    assert run("synth", "repair", corpus, "--workers", 0).code == 0
    assert files(corpus) == before


def test_repair_keeps_the_sound_samples_of_a_damaged_shard(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = corpus / "image" / "c.1.0.0.0.0"
    data = bytearray(file.read_bytes())
    data[10] ^= 255  # the first sample of the shard
    file.write_bytes(data)
    import onions

    rendered: list[int] = []
    render = onions.Onion.render
    monkeypatch.setattr(onions.Onion, "render", lambda self, p: rendered.append(p["noise_seed"]) or render(self, p))
    repair(corpus, ONION, Workers(0))
    assert rendered == [Corpus(corpus).entry(5)["params"]["noise_seed"]]


def test_two_corpora_are_the_same_whatever_their_shards_codec_and_chunks(made: Path, tmp_path: Path, run: Run) -> None:
    generate(Job(ONION, 23, 3, tmp_path / "other.zarr", 7, codec="none"))
    answer = run("synth", "verify", made, "--same-as", tmp_path / "other.zarr")
    assert answer.code == 0 and "same samples" in answer.out
    assert Corpus(made).identity() == Corpus(tmp_path / "other.zarr").identity()


@pytest.mark.parametrize(
    "change, says",
    [({"seed": 4}, "sample 0 differs in"), ({"count": 20}, "holds 23 samples"), ({"dtype": "float16"}, "voxels")],
)
def test_what_differs_between_two_corpora_is_told(
    change: dict[str, Any], says: str, made: Path, tmp_path: Path, run: Run
) -> None:
    generate(Job(**{**JOB.__dict__, "out": tmp_path / "other.zarr", **change}))
    answer = run("synth", "verify", made, "--same-as", tmp_path / "other.zarr")
    assert answer.code == 1 and says in answer.out
    assert list(differences(Corpus(made), Corpus(tmp_path / "other.zarr")))


def break_both_headers(path: Path) -> None:
    (path / GROUP).write_text("{")
    (path / HEADER).write_text("{")


def break_the_header(path: Path) -> None:
    (path / GROUP).write_text("{")


def break_the_seal(path: Path) -> None:
    (path / SEAL).write_text("[]")


@pytest.mark.parametrize("harm, code", [(break_both_headers, 2), (break_the_header, 1), (break_the_seal, 1)])
def test_damaged_metadata_is_told_without_a_traceback(
    harm: Callable[[Path], None], code: int, corpus: Path, run: Run
) -> None:
    harm(corpus)
    answer = run("synth", "verify", corpus)
    assert answer.code == code and "Traceback" not in answer.err + answer.out


def test_a_seal_that_names_files_elsewhere_reads_none_of_them(corpus: Path, run: Run) -> None:
    from synth.corpus import record_digest

    (corpus.parent / "secret.json").write_text("{}")
    seal = json.loads((corpus / SEAL).read_text())
    seal["files"]["../secret.json"] = "0" * 64
    seal["sha256"] = record_digest(seal)
    (corpus / SEAL).write_text(json.dumps(seal))
    answer = run("synth", "verify", corpus)
    assert answer.code == 1 and "is no file of a corpus" in answer.out and "Traceback" not in answer.err
