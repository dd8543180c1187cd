"""What goes wrong from outside: full disks, places that may not be written, two runs at once, samples that fail, growth."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from synth.corpus import Corpus, part_name, record_path
from synth.engine import Job, generate
from synth.errors import UserError
from synth.generator import GeneratorSpec
from synth.lock import writing
from synth.pool import Workers
from synth.sample import Sample
from synth.storage import LocalStorage, open_storage
from synth.verify import verify
from tests.conftest import PLUGIN, Run
from tests.synth.test_engine import bits, files
from tests.synth.test_plugin import Plain

ONION = GeneratorSpec("onions.Onion", {"shape": (8, 10, 8), "shells": 4}, (str(PLUGIN),))


class Fragile(Plain):
    """Fails on every volume whose level is above ``limit``, and in draw on number ``undrawn``."""

    def __init__(self, limit: float = 0.8, undrawn: int = -1) -> None:
        super().__init__()
        self.limit, self.undrawn = limit, undrawn

    def draw_at(self, index: int, rng: Any) -> dict[str, Any]:
        if index == self.undrawn:
            raise KeyError("no such scan")
        return self.draw(rng)

    def render(self, params: dict[str, Any]) -> Sample:
        if params["level"] > float(os.environ.get("FRAGILE_LIMIT", self.limit)):
            raise ValueError(f"level {params['level']} is too high")
        return super().render(params)


def fragile(**options: Any) -> GeneratorSpec:
    return GeneratorSpec("tests.synth.test_interruptions.Fragile", options)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_fails_is_named_with_its_params_and_the_others_are_made(
    workers: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if workers:
        request.getfixturevalue("ray_of_two")
    job = Job(fragile(undrawn=5), 12, 1, tmp_path / "plain.zarr", 4)
    outcome = generate(job, workers=workers)
    corpus = Corpus(job.out)
    assert 5 in outcome.failed and "no such scan" in outcome.failed[5]
    high = {i: text for i, text in outcome.failed.items() if i != 5}
    assert high, "the seed gives volumes that fail"
    for index, text in high.items():
        level = json.loads(text[text.index("{") : text.rindex("}") + 1])["level"]
        assert f"sample {index}" in text and level > 0.8
    for index in range(12):
        if index in outcome.failed:
            with pytest.raises(UserError, match="was not made"):
                corpus.entry(index)
        else:
            assert corpus.sample(index).image.shape == corpus.image_shape
    assert not corpus.complete and any("was not made" in p for _, found in verify(corpus) for p in found)


def test_samples_that_failed_are_made_by_the_next_run_and_the_others_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(fragile(), 12, 1, tmp_path / "plain.zarr", 4)
    failed = generate(job).failed
    whole = [shard for shard in range(3) if record_path(tmp_path / "plain.zarr", shard).exists()]
    before = files(tmp_path / "plain.zarr")
    monkeypatch.setenv("FRAGILE_LIMIT", "2")
    rendered: list[float] = []
    render = Fragile.render
    monkeypatch.setattr(Fragile, "render", lambda self, p: rendered.append(p["level"]) or render(self, p))
    assert not generate(job).failed and len(rendered) == len(failed)
    after = files(tmp_path / "plain.zarr")
    assert all(after[f"image/c.{shard}.0.0.0.0"] == before[f"image/c.{shard}.0.0.0.0"] for shard in whole)
    assert Corpus(job.out).complete and not any((tmp_path / "plain.zarr").glob("records/*.part.json"))
    undisturbed = replace(job, out=tmp_path / "undisturbed.zarr")
    generate(undisturbed)
    assert bits(tmp_path / "plain.zarr") == bits(tmp_path / "undisturbed.zarr")


def test_a_failed_sample_gives_exit_code_1(tmp_path: Path, run: Run) -> None:
    words = ("--generator", "tests.synth.test_interruptions.Fragile", "--count", 12, "--seed", 1, "--workers", 0)
    answer = run("synth", "generate", *words, "--out", tmp_path / "plain.zarr")
    assert answer.code == 1 and "Traceback" not in answer.err
    assert "brainloom: failed: sample" in answer.err and "level" in answer.err


def test_a_second_run_on_the_same_output_is_refused(tmp_path: Path, run: Run) -> None:
    job = Job(ONION, 6, 3, tmp_path / "onion.zarr", 4)
    generate(job)
    record_path(tmp_path / "onion.zarr", 1).unlink()
    before = files(tmp_path / "onion.zarr")
    with writing(open_storage(job.out)), pytest.raises(UserError, match=f"another run .*process {os.getpid()}"):
        generate(job)
    assert files(tmp_path / "onion.zarr") == before
    assert generate(job).made == 1, "the hold ended with the run"


def test_a_run_that_was_killed_leaves_no_hold(tmp_path: Path, in_subprocess: Callable[[str], dict[str, str]]) -> None:
    generate(Job(ONION, 6, 3, tmp_path / "onion.zarr", 4))
    record_path(tmp_path / "onion.zarr", 1).unlink()
    code = (
        "import sys, time; from synth.lock import writing; from synth.storage import open_storage\n"
        "with writing(open_storage(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        ["python", "-c", code, str(tmp_path / "onion.zarr")], stdout=subprocess.PIPE, env=in_subprocess("")
    )
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="another run"):
        generate(Job(ONION, 6, 3, tmp_path / "onion.zarr", 4))
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert generate(Job(ONION, 6, 3, tmp_path / "onion.zarr", 4)).made == 1


def test_two_runs_that_begin_together_make_one_corpus(
    tmp_path: Path, in_subprocess: Callable[[str], dict[str, str]], brainloom_command: list[str]
) -> None:
    words = ["synth", "generate", "--generator", "onions.Onion", "--generator.shape", "24,24,24", "--count", "60"]
    words += ["--out", str(tmp_path / "onion.zarr"), "--workers", "0", "--shard-size", "4"]
    runs = [
        subprocess.Popen(
            [*brainloom_command, *words], env=in_subprocess(str(PLUGIN)), stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    ended = sorted((run.communicate()[1], run.returncode) for run in runs)
    codes = sorted(code for _, code in ended)
    assert codes in ([0, 2], [0, 0]), ended
    assert [p for _, found in verify(Corpus(tmp_path / "onion.zarr")) for p in found] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 300 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    if not mounted or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place]).returncode:
        pytest.skip("a file system of 300 kB cannot be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_stops_the_run_in_one_sentence_and_the_next_one_goes_on(small_disk: Path, run: Run) -> None:
    words = ["synth", "generate", "--generator", "tests.synth.test_interruptions.Fragile", "--count", 400]
    words += ["--generator.limit", 2, "--workers", 0, "--shard-size", 16, "--codec", "none", "--dtype", "float32"]
    answer = run(*words, "--out", small_disk / "plain.zarr")
    assert answer.code == 1 and "there is no space left" in answer.err and "Traceback" not in answer.err
    assert answer.err.count("failed: shard") == 1, "it does not try every shard"
    corpus = Corpus(small_disk / "plain.zarr")
    made = 25 - len(corpus.missing())
    assert 0 < made < 25 and not list(corpus.path.rglob(".c.*")), "whole shards only, no debris"
    subprocess.run(["mount", "-o", "remount,size=9m", small_disk], check=True)
    assert run(*words, "--out", small_disk / "plain.zarr").code == 0
    assert run("synth", "verify", small_disk / "plain.zarr").code == 0


def test_a_full_disk_under_ray_stops_the_run_too(
    tmp_path: Path, ray_of_two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: LocalStorage, name: str, parts: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    job = Job(ONION, 6, 3, tmp_path / "onion.zarr", 1)
    generate(job)
    for shard in range(6):
        record_path(tmp_path / "onion.zarr", shard).unlink()
    monkeypatch.setattr(LocalStorage, "write", full)
    assert "there is no space left" in generate(job).stopped


def test_a_place_that_may_not_be_written_is_refused_before_anything_is_made(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path, *arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.setattr(Path, "mkdir", denied)
    words = ("--generator", "onions.Onion", "--count", 1, "--workers", 0)
    answer = run("synth", "generate", *words, "--out", tmp_path / "a.zarr")
    assert answer.code == 2 and "Permission denied" in answer.err and len(answer.err.splitlines()) == 1


def test_a_corpus_that_became_read_only_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(ONION, 6, 3, tmp_path / "onion.zarr", 4)
    generate(job)
    record_path(tmp_path / "onion.zarr", 1).unlink()

    def read_only(*arguments: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched, pytest.raises(UserError, match="Read-only file system"):
        patched.setattr(os, "open", read_only)
        generate(job)
    assert generate(job).made == 1


def test_a_corpus_grows_without_its_samples_being_touched(tmp_path: Path) -> None:
    small, large = Job(ONION, 10, 3, tmp_path / "a.zarr", 4), Job(ONION, 19, 3, tmp_path / "b.zarr", 4)
    generate(small), generate(large)
    before = files(tmp_path / "a.zarr")
    with pytest.raises(UserError, match="--append"):
        generate(replace(small, count=19))
    outcome = generate(replace(small, count=19, append=True))
    assert outcome.made == 3 and bits(tmp_path / "a.zarr") == bits(tmp_path / "b.zarr")
    after = files(tmp_path / "a.zarr")
    for shard in (0, 1):
        for name in (f"image/c.{shard}.0.0.0.0", f"label/c.{shard}.0.0.0", f"records/{shard:08d}.json"):
            assert after[name] == before[name]
    assert [p for _, found in verify(Corpus(tmp_path / "a.zarr")) for p in found] == []
    assert Corpus(tmp_path / "a.zarr").covariates().shape[0] == 19


@pytest.mark.parametrize("moment", ["metadata", "part", "first shard"])
def test_growth_that_is_interrupted_goes_on(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = Job(ONION, 10, 3, tmp_path / "a.zarr", 4), Job(ONION, 19, 3, tmp_path / "b.zarr", 4)
    generate(small), generate(large)
    write = LocalStorage.write
    stop_at = {"metadata": "zarr.json", "part": part_name(2), "first shard": "image/c.3.0.0.0.0"}[moment]

    def interrupted(self: LocalStorage, name: str, parts: Any) -> None:
        if name == stop_at:
            raise KeyboardInterrupt
        write(self, name, parts)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(LocalStorage, "write", interrupted)
        generate(replace(small, count=19, append=True))
    assert not generate(replace(small, count=19, append=True)).failed
    assert bits(tmp_path / "a.zarr") == bits(tmp_path / "b.zarr")
    assert [p for _, found in verify(Corpus(tmp_path / "a.zarr")) for p in found] == []


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_no_name_leads_out_of_a_corpus(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("kept")
    storage = LocalStorage(tmp_path / "corpus.zarr")
    for call in (storage.read, storage.delete, storage.exists, lambda n: storage.write(n, [b"x"])):
        with pytest.raises(ValueError, match="leads out"):
            call(name)
    assert (tmp_path / "outside").read_text() == "kept"


@pytest.mark.timeout(90)
def test_ctrl_c_stops_ray_and_keeps_what_was_finished(
    tmp_path: Path, in_subprocess: Callable[[str], dict[str, str]], brainloom_command: list[str]
) -> None:
    words = ["synth", "generate", "--generator", "onions.Onion", "--generator.shape", "96,96,96", "--count", "4000"]
    words += ["--out", str(tmp_path / "onion.zarr"), "--workers", "2", "--shard-size", "4"]
    run = subprocess.Popen(
        [*brainloom_command, *words], env=in_subprocess(str(PLUGIN)), stderr=subprocess.PIPE, text=True, cwd=PLUGIN
    )
    until = time.monotonic() + 60
    while time.monotonic() < until and not list(tmp_path.glob("onion.zarr/records/*.json")):
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    told = run.communicate(timeout=30)[1]
    assert run.returncode == 130 and "the same command goes on" in told and "Traceback" not in told
    assert list(tmp_path.glob("onion.zarr/records/*.json"))


def test_a_cluster_that_is_not_there_is_told_at_once_and_nothing_is_written(tmp_path: Path, run: Run) -> None:
    words = ("--generator", "tests.synth.test_interruptions.Fragile", "--count", 4, "--address", "127.0.0.1:9")
    answer = run("synth", "generate", *words, "--out", tmp_path / "plain.zarr")
    assert answer.code == 2 and "nothing answers there" in answer.err and not (tmp_path / "plain.zarr").exists()


def test_workers_with_graphics_cards_are_actors(
    tmp_path: Path, ray_of_two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synth import pool

    asked: list[float] = []
    actors = pool._actors
    monkeypatch.setattr(pool, "_actors", lambda ray, w, n: asked.append(w.gpus) or actors(ray, replace(w, gpus=0), n))
    out = tmp_path / "onion.zarr"
    assert not generate(Job(ONION, 6, 3, out, 2), Workers(2, gpus=0.5)).failed
    assert asked == [0.5] and bits(out)
    generate(Job(ONION, 6, 3, tmp_path / "alone.zarr", 2))
    assert bits(out) == bits(tmp_path / "alone.zarr")
