"""The benchmark of the stream: its rows read what was written, and its ratios are what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.speed import cold, stream, stream_data
from benchmarks.speed.stream_data import VOLUMES, Data
from benchmarks.speed.stream_loaders import nibabel_gz, webdataset
from benchmarks.speed.stream_ours import Limit, Ours, Step
from benchmarks.speed.stream_peers import MemoryMap, memory_map, tensorstore, zarr_python
from benchmarks.speed.timing import Skip
from synth.corpus import Corpus
from tests.conftest import Run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The volumes at 16³, in every form."""
    made = Data(tmp_path_factory.mktemp("volumes"), None, 16)
    for form in ("raw", "zstd", stream_data.SEVEN, "blocks"):
        made.make(form)
    return made


def measured(name: str, *ms: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "ms_all": list(ms), "ms_median": float(np.median(ms)), **more}


ROWS = [
    measured("limit", 1.0, 10.0, 1.0),
    measured("brainloom, none", 1.25, 12.5, 1.25, stored_share=1.0),
    measured("brainloom, zstd", 2.0, 2.0, 2.0, stored_share=0.6),
    measured("brainloom, none, window", 1.0, neighbours=[0.2, 0.08]),
    measured("tensorstore, none, one by one", 5.0, 50.0, 5.0),
    measured("tensorstore, none, 16 at once", 3.75, 37.5, 3.75),
    measured("tensorstore, zstd, one by one", 3.0, 3.0, 3.0),
    {"name": "tensorstore, zstd, 16 at once", "skipped": "failed"},
    measured("training step fed by the stream", 9.0, cached_by_stream=0.99, cached_by_stream_quartiles=[0.98, 1.0]),
]


def test_ratios_take_rows_of_one_form() -> None:
    found = stream.ratios(ROWS)
    assert found["none_by_limit"] == pytest.approx(0.8)
    assert found["none_by_tensorstore"] == pytest.approx(4.0)
    assert found["none_by_tensorstore_best"] == pytest.approx(3.0)
    assert (found["zstd_by_tensorstore"], found["zstd_by_tensorstore_best"]) == (1.5, 1.5)
    assert (found["zstd_stored_share"], found["step"], found["neighbours"]) == (0.6, 0.99, [0.2, 0.08])
    assert found["none_by_limit_cold"] is None and found["crops_by_tensorstore"] is None


def test_ratios_are_said_in_sentences_and_what_is_missing_is_not() -> None:
    said = "\n".join(stream.sentences(stream.ratios(ROWS)))
    assert "gives 0.80 of the volumes" in said and "3.00 times as many as tensorstore at its best" in said
    assert "1.50 times as many as tensorstore at its best; stored bytes by raw bytes 0.60." in said
    assert "0.990 [0.980, 1.000]" in said and "20.0 % of neighbours" in said
    assert "disk" not in said and "Crops" not in said
    assert stream.sentences(stream.ratios([])) == []


def test_all_rows_of_a_comparison_are_measured_in_one_group() -> None:
    rows = {row.name: row for row in stream.rows(Path("volumes"), 128)}
    assert len(rows) == len(stream.rows(Path("volumes"), 128))
    groups = [row.group for row in rows.values()]
    assert len(set(groups)) == len([g for g, before in zip(groups, ["", *groups], strict=False) if g != before])
    for form in ("none", "zstd"):
        names = [f"brainloom, {form}", f"tensorstore, {form}, one by one", f"tensorstore, {form}, 16 at once", "limit"]
        assert len({rows[name].group for name in names}) == 1
    assert all(row.includes for row in rows.values())


def test_only_the_forms_that_rows_read_are_made() -> None:
    rows = {row.name: row for row in stream.rows(Path("volumes"), 128)}
    assert stream.forms_of([rows["limit"]]) == ["raw"]
    assert stream.forms_of([rows["tensorstore, crops of zstd blocks"]]) == ["raw", "blocks"]
    assert stream.forms_of([rows["training step fed by the stream"], rows["brainloom, none"]]) == [
        "raw",
        "zstd",
        "none",
    ]


def test_every_form_holds_the_same_volumes(data: Data) -> None:
    raw = np.load(data.folder / "raw.npy")
    assert raw.shape == (VOLUMES, 1, 16, 16, 16) and raw.dtype == np.uint8
    seven = np.load(data.folder / "raw7.npy")
    assert seven.max() == 127 and np.abs(seven.astype(float) / 127 - raw / 255).max() < 0.007
    for form in ("none", "zstd", "blocks"):
        corpus = Corpus(data.corpus(form))
        assert corpus.has_labels
        assert all((corpus.stored(index) == raw[index]).all() for index in (0, 9, VOLUMES - 1))
    assert len({volume.tobytes() for volume in raw}) == stream_data.DIFFERENT
    assert Corpus(data.corpus("blocks")).header.recipe["chunk"] == 8


def test_an_epoch_has_every_volume_once_in_an_order_of_its_own() -> None:
    epochs = [np.concatenate(list(stream_data.batches(epoch, VOLUMES))) for epoch in (0, 1)]
    assert all(sorted(epoch.tolist()) == list(range(VOLUMES)) for epoch in epochs)
    assert not np.array_equal(*epochs)


def test_the_limit_copies_an_epoch(data: Data) -> None:
    limit = Limit(str(data.folder))
    limit(5)
    raw, numbers = np.load(data.folder / "raw.npy"), stream_data.order(5, VOLUMES)
    assert all(
        (limit.buffers[k % len(limit.buffers)] == raw[numbers[k]]).all()
        for k in range(VOLUMES - len(limit.buffers), VOLUMES)
    )


@pytest.mark.parametrize("form", ["none", "zstd", "zstd, 7 bits"])
def test_ours_tells_what_the_codec_saves(data: Data, form: str) -> None:
    ours = Ours(str(data.folder), form)
    ours(0)
    assert ours.volumes_per_call == VOLUMES
    epoch, position = ours.stream.epoch, ours.stream.position
    ours.begin()
    taken = (ours.stream.epoch - epoch) * VOLUMES + ours.stream.position - position
    assert taken == 16 * (ours.stream.prefetch + ours.stream.threads)  # nothing read ahead counts for the next turn
    share = ours.extras({})["stored_share"]
    assert share == pytest.approx(1, abs=0.02) if form == "none" else share < 0.99


def test_a_step_from_the_stream_is_compared_with_one_from_memory(data: Data) -> None:
    import torch

    threads = torch.get_num_threads()
    try:
        step = Step(str(data.folder), threads=1)
        taken = [step(number) for number in range(3)]
    finally:
        torch.set_num_threads(threads)
    told = step.extras({})
    assert told["cached_by_stream"] == pytest.approx(np.median(np.array(step.cached_s) / taken))
    assert step.stream.epoch == 4 and step.stream.position == 0  # whole epochs: nothing is read beside the cached steps


@pytest.mark.parametrize(
    "make, package, options",
    [
        (memory_map, "numpy", {}),
        (nibabel_gz, "nibabel", {}),
        (zarr_python, "zarr", {"form": "zstd"}),
        (zarr_python, "zarrs", {"form": "zstd", "zarrs": True}),
        (tensorstore, "tensorstore", {"form": "zstd", "how": "at once"}),
        (tensorstore, "tensorstore", {"form": "none", "how": "plain"}),
        (tensorstore, "tensorstore", {"form": "none", "how": "kept"}),
        (webdataset, "webdataset", {}),
    ],
)
def test_peers_read_the_volumes(data: Data, make: Any, package: str, options: dict[str, Any]) -> None:
    pytest.importorskip(package)
    import zarr

    with zarr.config.set({"codec_pipeline.path": zarr.config.get("codec_pipeline.path")}):  # zarrs is put back
        make(str(data.folder), **options)(0)


def test_a_peer_that_reads_other_bytes_is_found_out(data: Data) -> None:
    class Wrong(MemoryMap):
        def read(self, numbers: Any, buffer: Any) -> None:
            super().read(numbers[::-1], buffer)

    with pytest.raises(ValueError, match="other bytes"):
        Wrong(str(data.folder)).checked()


def test_files_that_stay_in_memory_are_no_cold_row(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "read_from_disk", lambda: 0)
    with pytest.raises(Skip, match="cannot be dropped"):
        cold.Cold(lambda: Limit(str(data.folder)), data.folder / "raw.npy")


def test_one_run_writes_machine_versions_rows_and_a_chart(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "speed"
    answer = run("benchmark", "speed", "stream", "--out", out, "--size", 16, "--repeats", 7, "--only", "float32,limit")
    assert answer.code == 0, answer.err
    results = json.loads((out / "results.json").read_text())
    assert results["benchmark"] == "speed stream" and results["label_map"]["built_in"]
    assert results["machine"]["versions"]["zarr"] and "none_by_limit" in results["ratios"]
    names = [row["name"] for row in results["rows"]]
    assert names == ["limit", "brainloom, none, float32", "limit, cold"]
    assert all(row["threads"]["torch"] == 1 for row in results["rows"] if "float32" in row["name"])
    assert (out / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert "brainloom, none, float32" in answer.out
