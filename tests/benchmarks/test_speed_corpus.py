"""The benchmark of writing: rows that are compared do the same work, and its ratios are what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.speed import corpus as benchmark
from benchmarks.speed.corpus_rows import SEED, Commit, Format, Plan, Rendered, Written, filling_seconds, spec_of
from synth.corpus import Corpus
from synth.engine import Job
from synth.keys import rng_for
from tests.conftest import Run

STRONG = {"contrast": "random", "deformation": "strong"}
VOLUME: dict[str, Any] = {"size": 16, "anatomies": None, "options": STRONG}


def measured(name: str, *ms: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "ms_all": list(ms), "ms_median": float(np.median(ms)), **more}


ROWS = [
    measured("rendered, random, strong", 9.0, 90.0, 9.0),
    measured("written, random, strong", 10.0, 100.0, 10.0),
    measured("1 Ray worker", 38.0, 38.0),
    measured("2 Ray workers", 20.0, 20.0),
    measured("tiny shards, this process", 5.0, 4.0, 6.0),
    measured("tiny shards, 1 Ray worker", 8.0),
    measured("scale: plan of 10 million volumes", 0.001, seconds=3.0, peak_mb=90.0),
]


def test_ratios_compare_rows_of_the_same_volumes() -> None:
    found = benchmark.ratios(ROWS)
    assert found["rendered_by_written"] == {"random, strong": pytest.approx(0.9), "t1w, mild": None}
    assert found["two_by_one_worker"] == pytest.approx(1.9)
    assert found["ray_ms_per_shard"] == 3.0
    assert (found["plan_s"], found["plan_peak_mb"]) == (3.0, 90.0)


def test_ratios_are_said_in_sentences_and_what_is_missing_is_not() -> None:
    said = "\n".join(benchmark.sentences(benchmark.ratios(ROWS)))
    assert "random, strong: making volumes takes 0.900" in said and "mild" not in said
    assert "1.90 times" in said and "3.0 ms more" in said and "3.0 s and 90 MB" in said
    nothing = [{"name": row["name"], "skipped": "failed"} for row in ROWS]
    assert benchmark.sentences(benchmark.ratios(nothing)) == []


def test_rows_of_a_comparison_stand_in_one_group() -> None:
    rows = {row.name: row for row in benchmark.rows(Path("out"), None, 128)}
    for pair in (("rendered, t1w, mild", "written, t1w, mild"), ("1 Ray worker", "2 Ray workers")):
        assert rows[pair[0]].group == rows[pair[1]].group
    formats = [name for name, row in rows.items() if row.group == benchmark.FORMATS]
    assert (
        len(formats) == 10
        and "float16, zstd, blocks of 64³" in formats
        and "int16 label, zstd, whole volumes" in formats
    )


def test_what_is_rendered_is_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(str(tmp_path), **VOLUME, shard_size=2)
    written(3)
    rendered = Rendered(**VOLUME, shard_size=2)
    drawn: list[dict[str, Any]] = []
    render = type(rendered.generator).render
    monkeypatch.setattr(
        type(rendered.generator), "render", lambda self, params: (drawn.append(params), render(self, params))[1]
    )
    rendered(3)
    record = Corpus(written.place).record(3)
    assert record is not None
    assert [entry["params"] for entry in record["samples"]] == json.loads(json.dumps(drawn))
    assert [entry["index"] for entry in record["samples"]] == [6, 7]


def test_filling_is_timed_without_what_comes_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("benchmarks.speed.corpus_rows.time.perf_counter", lambda: next(clock))
    job = Job(spec_of(16, None, STRONG), 4, 0, tmp_path / "c.zarr", 1)
    assert 4 <= filling_seconds(job, 0) < 20  # every look at this clock is a second later than the last
    assert Corpus(tmp_path / "c.zarr").complete


@pytest.mark.parametrize("dtype, codec, chunk", [("uint8", "none", 0), ("float16", "zstd", 8), ("label", "zstd", 0)])
def test_a_format_is_decoded_to_what_was_rendered(tmp_path: Path, dtype: str, codec: str, chunk: int) -> None:
    row = Format(str(tmp_path), **VOLUME, dtype=dtype, codec=codec, chunk=chunk)
    row(1)
    generator = spec_of(16, None, STRONG).build()
    sample = generator.render(generator.draw(rng_for(SEED, 1)))
    if dtype == "label":
        assert np.array_equal(row.out, sample.label)
    if dtype == "float16":
        assert np.array_equal(row.out, sample.image.astype(np.float16))
    told = row.extras({})
    assert told["share"] == 1 if codec == "none" else told["share"] < 1
    assert told["bytes_per_volume"] == pytest.approx(told["share"] * row.layout.sample_bytes)


def test_a_committed_shard_counts_as_made_and_its_voxels_do_not_pile_up(tmp_path: Path) -> None:
    row = Commit(str(tmp_path), **VOLUME, shard_size=4)
    row(0)
    row(5)
    (place,) = tmp_path.glob("*/commit.zarr")
    corpus = Corpus(place)
    assert corpus.missing()[:5] == [1, 2, 3, 4, 6]
    assert list((place / "image").iterdir()) == [place / "image" / "zarr.json"]
    assert row.extras({})["files_per_1000"] == 750


def test_a_plan_finds_what_is_missing(tmp_path: Path) -> None:
    row = Plan(str(tmp_path), count=48_000)
    assert row(0) > 0
    assert row.extras({})["records"] == 3000
    for path in list((row.place / "records").iterdir())[:1]:
        path.unlink()
    with pytest.raises(ValueError, match="4 shards were found missing"):
        row(1)


def test_one_run_writes_machine_versions_rows_and_a_chart(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "speed"
    answer = run("benchmark", "speed", "corpus", "--out", out, "--size", 16, "--repeats", 7, "--only", "of 4")
    assert answer.code == 0, answer.err
    results = json.loads((out / "results.json").read_text())
    assert results["benchmark"] == "speed corpus" and results["machine"]["versions"]["ray"]
    (row,) = results["rows"]
    assert row["name"] == "commit shards of 4" and row["repeats"] == 7 and row["files_per_1000"] == 750
    assert results["ratios"]["two_by_one_worker"] is None
    assert "commit shards of 4" in answer.out and (out / "speed.png").exists()
