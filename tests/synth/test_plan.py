"""What a run will cost is told before it runs, within a factor of two; ten million volumes are planned in no time."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from synth.corpus import Corpus, record_name
from synth.engine import Job, generate
from synth.generator import GeneratorSpec
from synth.plan import plan
from synth.pool import Workers
from synth.writing import create
from tests.conftest import PLUGIN, Run

SLOW = GeneratorSpec("slow_onions.SlowOnion", {"shape": (32, 40, 32), "seconds": 0.05}, (str(PLUGIN),))
PEAK = """
import sys
from pathlib import Path
from synth.engine import Job, generate
from synth.generator import GeneratorSpec
spec = GeneratorSpec("slow_onions.SlowOnion", {"shape": (32, 40, 32), "seconds": 0.05}, (sys.argv[2],))
generate(Job(spec, 30, 3, Path(sys.argv[1]), 8))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads peak memory in /proc")
def test_disk_memory_and_time_are_within_a_factor_of_two_of_what_then_happens(
    tmp_path: Path, in_subprocess: Callable[[str], dict[str, str]]
) -> None:
    out = tmp_path / "onion.zarr"
    told = plan(Job(SLOW, 30, 3, out, 8), Workers(0))
    assert not out.exists() and told.shards == 4 and told.left == 30
    ended = subprocess.run(
        [sys.executable, "-c", PEAK, str(out), str(PLUGIN)], env=in_subprocess(""), capture_output=True, text=True
    )
    peak_mb = int(ended.stdout) * 1024 / 1e6
    voxels_and_records = sum(
        path.stat().st_size for pattern in ("image/c.*", "label/c.*", "records/*") for path in out.glob(pattern)
    )
    assert 0.5 < told.disk / voxels_and_records < 2
    assert 0.5 < told.timing.peak_mb / peak_mb < 2
    started = time.perf_counter()
    generate(replace(Job(SLOW, 30, 3, out, 8), out=tmp_path / "again.zarr"))
    assert 0.5 < told.core_hours * 3600 / (time.perf_counter() - started) < 2


def test_the_command_prints_it_and_writes_nothing(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--generator", "LabelMap", "--generator.shape", "16,18,16", "--generator.spacing", 11, "--workers", 0)
    answer = run("synth", "plan", *words, "--count", 1000, "--shard-size", 16, "--out", "heads.zarr")
    assert answer.code == 0, answer.err
    assert "1,000 of [1, 16, 18, 16] in 63 shards of 16" in answer.out
    for line in ("disk", "memory", "time", "GPU"):
        assert re.search(rf"^{line} +\S", answer.out, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_of_a_corpus_that_is_begun_what_is_left_is_planned(tmp_path: Path) -> None:
    spec = replace(SLOW, init_args={**SLOW.init_args, "seconds": 0.0})
    job = Job(spec, 30, 3, tmp_path / "onion.zarr", 8)
    generate(job)
    (tmp_path / "onion.zarr" / record_name(1)).unlink()
    told = plan(job, Workers(0))
    assert told.left == 8 and "22 of them made already" in str(told)


def test_a_generator_that_fails_is_told(tmp_path: Path, run: Run) -> None:
    words = ("--generator", "tests.synth.test_interruptions.Fragile", "--generator.limit", "-1", "--count", 5)
    answer = run("synth", "plan", *words, "--out", tmp_path / "a.zarr")
    assert answer.code == 2 and "too high" in answer.err and len(answer.err.splitlines()) == 1


def test_what_is_missing_of_three_million_volumes_is_found_fast_and_in_little_memory(tmp_path: Path) -> None:
    from synth.engine import first_sample, new_header

    job = Job(GeneratorSpec("onions.Onion", {"shape": (8, 8, 8)}, (str(PLUGIN),)), 3_200_000, 0, tmp_path / "big.zarr")
    generator = job.spec.build()
    example = first_sample(generator, job)
    create(job.out, new_header(job, generator, [], "", example), example)
    for shard in range(0, 4000):
        (tmp_path / "big.zarr" / record_name(shard)).touch()
    tracemalloc.start()
    started = time.perf_counter()
    missing = Corpus(job.out).missing()
    assert time.perf_counter() - started < 10
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert missing[0] == 4000 and len(missing) == 196_000 and peak < 50e6
