"""Sample i is a function of (recipe, seed, i) and of nothing else; a shard exists when its record exists."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synth.corpus import Corpus, record_path
from synth.engine import Job, generate
from synth.errors import UserError
from synth.generator import GeneratorSpec
from synth.keys import rng_for
from synth.shards import ShardReport, make_shard
from synth.verify import verify
from tests.conftest import PLUGIN, spheres_in_a_box

ONION = GeneratorSpec("onions.Onion", {"shape": (8, 10, 8), "shells": 4}, (str(PLUGIN),))
HEAD = GeneratorSpec("LabelMap", {"shape": (16, 18, 16), "spacing": 11.0})


def bits(path: Path) -> tuple[list[str], list[bytes], list[bytes], list[Any]]:
    """Checksums, image bytes, label bytes and covariates of every sample."""
    corpus = Corpus(path)
    numbers = range(len(corpus))
    entries = list(corpus.entries())
    labels = [corpus.label(i) for i in numbers]
    return (
        [entry["sha256"] for entry in entries],
        [corpus.image(i).tobytes() for i in numbers],
        [b"" if label is None else label.tobytes() for label in labels],
        [entry["covariates"] for entry in entries],
    )


def files(path: Path) -> dict[str, tuple[int, int]]:
    """Every file of a corpus, with size and time of last change in ns."""
    return {
        str(p.relative_to(path)): (p.stat().st_size, p.stat().st_mtime_ns)
        for p in sorted(path.rglob("*"))
        if p.is_file() and not p.name.startswith(".")
    }


def shard_files(path: Path, shard: int) -> list[str]:
    """Files that hold one shard: its voxels and its record."""
    return [
        name
        for name in files(path)
        if name.startswith((f"image/c.{shard}.", f"label/c.{shard}."))
        or name == str(record_path(path, shard).relative_to(path))
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished corpus of 10 onions in shards of 4: two whole shards and a half one."""
    out = tmp_path_factory.mktemp("made") / "onion.zarr"
    assert not generate(Job(ONION, 10, 3, out, 4)).failed
    return out


@pytest.fixture
def corpus(made: Path, tmp_path: Path) -> Path:
    """A copy of it to harm."""
    return Path(shutil.copytree(made, tmp_path / "onion.zarr", copy_function=shutil.copy2))


@pytest.mark.parametrize("workers, shard_size", [(0, 3), (1, 4), (2, 4), (2, 3), (2, 1)])
def test_onions_do_not_depend_on_workers_or_shard_size(
    workers: int, shard_size: int, made: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if workers:
        request.getfixturevalue("ray_of_two")
    out = tmp_path / "onion.zarr"
    outcome = generate(Job(ONION, 10, 3, out, shard_size), workers=workers)
    assert not outcome.failed and outcome.made == -(-10 // shard_size)
    assert bits(out) == bits(made) and Corpus(out).identity() == Corpus(made).identity()


def test_heads_do_not_depend_on_workers_or_shard_size(tmp_path: Path, ray_of_two: Any) -> None:
    found = []
    for workers, shard_size in ((0, 2), (1, 2), (2, 3)):
        out = tmp_path / f"{workers}.zarr"
        assert not generate(Job(HEAD, 5, 1, out, shard_size), workers=workers).failed
        found.append(bits(out))
    assert found[0] == found[1] == found[2]
    assert len(set(found[0][0])) == 5, "five samples, five different ones"


def test_a_longer_corpus_begins_with_the_shorter_one(made: Path, tmp_path: Path) -> None:
    generate(Job(ONION, 13, 3, tmp_path / "longer.zarr", 5))
    for longer, shorter in zip(bits(tmp_path / "longer.zarr"), bits(made), strict=True):
        assert longer[:10] == shorter


def test_another_seed_is_another_corpus(made: Path, tmp_path: Path) -> None:
    generate(Job(ONION, 10, 4, tmp_path / "other.zarr", 4))
    assert not set(bits(tmp_path / "other.zarr")[0]) & set(bits(made)[0])


def test_a_sample_is_what_the_generator_alone_makes_of_its_key(made: Path) -> None:
    onion, corpus = ONION.build(), Corpus(made)
    for index in (0, 4, 9):
        params = onion.draw(rng_for(3, index))
        assert corpus.entry(index)["params"] == params
        image = onion.render(params).image
        assert np.abs(corpus.image(index) - image).max() <= (image.max() - image.min()) / 255 * 0.501


@pytest.mark.parametrize("shard", [0, 1, 2])
@pytest.mark.parametrize("lost", ["record", "record and voxels", "record, voxels torn", "record, voxels of zeros"])
def test_what_has_no_record_is_made_again_and_nothing_else_is_touched(shard: int, lost: str, corpus: Path) -> None:
    before, expected = files(corpus), bits(corpus)
    for name in shard_files(corpus, shard):
        path = corpus / name
        if name.startswith("records") or lost == "record and voxels":
            path.unlink()
        elif lost == "record, voxels torn":
            os.truncate(path, path.stat().st_size // 2)
        elif lost == "record, voxels of zeros":
            path.write_bytes(bytes(path.stat().st_size))
    assert Corpus(corpus).missing() == [shard]
    outcome = generate(Job(ONION, 10, 3, corpus, 4))
    assert (outcome.made, outcome.failed) == (1, {})
    assert bits(corpus) == expected
    after, own = files(corpus), shard_files(corpus, shard)
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} <= set(own)
    assert [problem for _, found in verify(Corpus(corpus)) for problem in found] == []


def test_an_interrupted_corpus_goes_on_where_it_stopped(made: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "onion.zarr", []

    def stop_after_one_shard(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(Job(ONION, 10, 3, out, 4), progress=stop_after_one_shard)
    assert Corpus(out).missing() == [1, 2] and not Corpus(out).complete
    first = files(out)[f"records/{0:08d}.json"]
    assert generate(Job(ONION, 10, 3, out, 4), progress=lambda done, total: seen.append((done, total))).made == 2
    assert seen == [(0, 10), (4, 10), (4, 10), (8, 10), (10, 10)]
    assert files(out)[f"records/{0:08d}.json"] == first
    assert bits(out) == bits(made) and Corpus(out).complete


def test_a_finished_corpus_is_not_touched(corpus: Path) -> None:
    before = files(corpus)
    assert generate(Job(ONION, 10, 3, corpus, 4)).made == 0
    assert files(corpus) == before


@pytest.mark.parametrize(
    "change, says",
    [
        ({"seed": 4}, "seed 3"),
        ({"count": 11}, "count 10, asked for was 11; add --append"),
        ({"count": 9}, "count 10, asked for was 9; choose another"),
        ({"shard_size": 5}, "shard_size 4"),
        ({"dtype": "float32"}, "dtype uint8"),
        ({"codec": "none"}, "codec zstd"),
        ({"chunk": 8}, "chunk 0"),
        ({"spec": replace(ONION, init_args={**ONION.init_args, "shells": 5})}, "shells 4, asked for was 5"),
        ({"spec": HEAD}, "onions.Onion, asked for was LabelMap"),
    ],
)
def test_another_recipe_is_refused_and_nothing_is_touched(change: dict[str, Any], says: str, corpus: Path) -> None:
    before = files(corpus)
    with pytest.raises(UserError, match=says):
        generate(replace(Job(ONION, 10, 3, corpus, 4), **change))
    assert files(corpus) == before


def test_a_corpus_of_a_copied_folder_of_label_maps_is_the_same_corpus(
    toy_label_map: Callable[..., Path], tmp_path: Path
) -> None:
    here = toy_label_map()
    there = shutil.copytree(here, tmp_path / "copied")
    one, other = (replace(HEAD, init_args={**HEAD.init_args, "anatomies": folder}) for folder in (here, there))
    out = tmp_path / "head.zarr"
    assert generate(Job(one, 2, 1, out, 1)).made == 2
    record_path(out, 1).unlink()
    assert generate(Job(other, 2, 1, out, 1)).made == 1


@pytest.mark.parametrize("change", ["another map", "names swapped"])
def test_other_label_maps_are_another_recipe(change: str, toy_label_map: Callable[..., Path], tmp_path: Path) -> None:
    second = spheres_in_a_box()
    second[8:11, 20:24, 26:29] = 17
    folder = toy_label_map(name="a_dseg.nii.gz")
    toy_label_map(second, name="b_dseg.nii.gz")
    spec = replace(HEAD, init_args={**HEAD.init_args, "anatomies": folder})
    out = tmp_path / "head.zarr"
    generate(Job(spec, 2, 1, out, 2))
    record_path(out, 0).unlink()
    if change == "another map":
        shutil.copy(folder / "a_dseg.nii.gz", folder / "b_dseg.nii.gz")
    else:  # sample 0 names its anatomy by position and by name: with the names swapped it would be another sample
        (folder / "a_dseg.nii.gz").rename(folder / "c")
        (folder / "b_dseg.nii.gz").rename(folder / "a_dseg.nii.gz")
        (folder / "c").rename(folder / "b_dseg.nii.gz")
    with pytest.raises(UserError, match="parents"):
        generate(Job(spec, 2, 1, out, 2))
    assert Corpus(out).missing() == [0]


def test_paths_of_label_maps_may_be_relative_on_ray_too(
    toy_label_map: Callable[..., Path], tmp_path: Path, ray_of_two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_label_map()
    monkeypatch.chdir(tmp_path)
    spec = replace(HEAD, init_args={**HEAD.init_args, "anatomies": Path("anatomies")})
    assert not generate(Job(spec, 2, 1, Path("head.zarr"), 1), workers=2).failed
    assert Corpus(tmp_path / "head.zarr").header.recipe["generator"]["init_args"]["anatomies"] == "anatomies"


def test_a_shard_can_be_made_twice_at_once_without_harm(corpus: Path) -> None:
    spec = json.dumps({**ONION.recipe(), "search_path": ONION.search_path})
    before = bits(corpus)
    record_path(corpus, 1).unlink()
    assert make_shard(str(corpus), 1, spec) == make_shard(str(corpus), 1, spec) == ShardReport(1, 4)
    assert bits(corpus) == before


def test_images_too_bright_for_the_stored_type_are_refused(tmp_path: Path) -> None:
    spec = GeneratorSpec("tests.synth.test_engine.Bright")
    outcome = generate(Job(spec, 2, 0, tmp_path / "half.zarr", dtype="float16"))
    assert "float32" in outcome.failed[0] and Corpus(tmp_path / "half.zarr").missing() == [0]
    assert not generate(Job(spec, 2, 0, tmp_path / "single.zarr", dtype="float32")).failed
    assert Corpus(tmp_path / "single.zarr").image(0).max() == np.float32(1e6)


from tests.synth.test_plugin import Plain  # noqa: E402 — the plainest generator there is


class Bright(Plain):
    """Values that float16 cannot hold."""

    def render(self, params: dict[str, Any]) -> Any:
        sample = super().render(params)
        return replace(sample, image=np.full_like(sample.image, 1e6))
