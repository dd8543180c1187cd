"""Makers of the benchmark ``corpus``'s rows."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.timing import Skip

SEED = 1
ENDLESS = 10**7  # samples of a corpus of which a row makes shard after shard
TINY = 8  # voxels along each axis of volumes that cost nothing
TINY_SHARDS = 200
RECORDED = 10_000_000  # samples of the corpus that is planned
PLANNED_SHARD = 16
ABSENT_EACH = 1000  # of its shards one in so many has no record


def spec_of(size: int, anatomies: str | None, options: dict[str, Any]) -> Any:
    """LabelMap on a grid that spans 128 mm, as a corpus's recipe holds it."""
    from synth.generator import GeneratorSpec

    given = {"shape": (size, size, size), "spacing": 128.0 / size, **options}
    return GeneratorSpec("LabelMap", {**given, **({"anatomies": Path(anatomies)} if anatomies else {})})


class Rendered:
    """Draws and renders the volumes of shard ``i``, and writes nothing."""

    turn_s = 0.0

    def __init__(self, size: int, anatomies: str | None, options: dict[str, Any], shard_size: int) -> None:
        self.generator = spec_of(size, anatomies, options).build()
        self.volumes_per_call = shard_size

    def __call__(self, shard: int) -> None:
        from synth.keys import rng_for

        for index in range(shard * self.volumes_per_call, (shard + 1) * self.volumes_per_call):
            self.generator.render(self.generator.draw_at(index, rng_for(SEED, index)))


class Written:
    """Makes shard ``i`` as ``generate`` in one process does: draws, renders, encodes, commits."""

    turn_s = 0.0

    def __init__(self, folder: str, size: int, anatomies: str | None, options: dict[str, Any], shard_size: int) -> None:
        from synth.engine import Job, prepare, spec_json

        spec = spec_of(size, anatomies, options)
        self.place = str(Path(tempfile.mkdtemp(dir=folder)) / "written.zarr")
        prepare(Job(spec, ENDLESS, SEED, self.place, shard_size))
        self.spec_json, self.volumes_per_call = spec_json(spec), shard_size

    def __call__(self, shard: int) -> None:
        from synth.shards import make_shard

        report = make_shard(self.place, shard, self.spec_json)
        if report.lost or report.failed:
            raise RuntimeError(report.lost or str(report.failed))


def filling_seconds(job: Any, workers: int) -> float:
    """Seconds from the plan to the last shard of a corpus: without the first look at its generator and its finish."""
    from synth.engine import generate

    seen: list[float] = []
    outcome = generate(job, workers, progress=lambda *_: seen.append(time.perf_counter()))
    if outcome.failed:
        raise RuntimeError(next(iter(outcome.failed.values())))
    return seen[-1] - seen[0]


class Generated:
    """Makes a whole corpus with so many Ray workers, in one Ray that lives as long as the row; 0: in this process.

    The call's time is that of filling the corpus. The warm-up makes corpora too, so the workers have built the generator
    and compiled what it compiles before anything is timed.

    Args:
        folder: for the corpora.
        workers: Ray workers.
        spec: class_path and init_args of the generator.
        count, shard_size: of each corpus.
    """

    turn_s = 0.0

    def __init__(self, folder: str, workers: int, spec: dict[str, Any], count: int, shard_size: int) -> None:
        from synth.generator import GeneratorSpec, find_generator, restore_types
        from synth.pool import Workers, ray_session

        cls = find_generator(spec["class_path"])
        self.spec = GeneratorSpec(spec["class_path"], restore_types(cls, spec["init_args"]))
        self.place = Path(tempfile.mkdtemp(dir=folder))
        self.workers, self.volumes_per_call, self.shard_size = workers, count, shard_size
        self.session = contextlib.ExitStack()
        if workers:
            self.session.enter_context(ray_session(Workers(workers), (str(Path(__file__).resolve().parents[2]),)))

    def __call__(self, number: int) -> float:
        from synth.engine import Job

        out = self.place / f"{number}.zarr"
        return filling_seconds(Job(self.spec, self.volumes_per_call, number, out, self.shard_size), self.workers)

    def extras(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Ends the Ray."""
        self.session.close()
        return {"workers": self.workers}


def generated(
    folder: str, size: int, anatomies: str | None, options: dict[str, Any], workers: int, count: int, shard_size: int
) -> Generated:
    """Maker: LabelMap corpora."""
    spec = spec_of(size, anatomies, options).recipe()
    return Generated(folder, workers, spec, count, shard_size)


def tiny(folder: str, workers: int) -> Generated:
    """Maker: corpora of volumes that cost nothing, one a shard."""
    source = Path(tempfile.mkdtemp(dir=folder))
    np.save(source / "images.npy", np.random.default_rng(0).random((1, 1, TINY, TINY, TINY)).astype(np.float32))
    spec = {"class_path": "benchmarks.speed.repeated.Repeated", "init_args": {"folder": str(source)}}
    return Generated(folder, workers, spec, TINY_SHARDS, 1)


class Format:
    """Volumes of one array in one layout: encoded and written once, then decoded again and again.

    Args:
        folder: for the corpus.
        dtype: of the image; ``label`` for label maps.
        codec, chunk: of the image; label maps always are zstd.
    """

    def __init__(
        self, folder: str, size: int, anatomies: str | None, options: dict[str, Any], dtype: str, codec: str, chunk: int
    ) -> None:
        from synth.corpus import Corpus
        from synth.engine import Job, generate
        from synth.keys import rng_for

        self.array, self.size = ("label" if dtype == "label" else "image"), size
        generator = spec_of(size, anatomies, options).build()
        self.samples = [generator.render(generator.draw_at(i, rng_for(SEED, i))) for i in range(4)]
        kept = "uint8" if dtype == "label" else dtype
        out = Path(tempfile.mkdtemp(dir=folder)) / "format.zarr"
        job = Job(spec_of(size, anatomies, options), 4, SEED, out, 4, kept, codec, chunk)
        generate(job)
        self.corpus = Corpus(out)
        self.layout = self.corpus.header.layouts[self.array]
        self.reader = self.corpus.readers[self.array]
        self.out = np.empty(self.layout.sample_shape, self.layout.numpy_dtype)

    def __call__(self, number: int) -> None:
        self.reader.read_into(number % len(self.samples), self.out)

    def _encode(self, number: int) -> None:
        from synth.corpus import as_stored

        sample = self.samples[number % len(self.samples)]
        if self.array == "label":
            self.layout.encode(np.asarray(sample.label, np.int16))
        else:
            self.layout.encode(as_stored(sample.image, str(self.layout.numpy_dtype))[0])

    def _crop(self, number: int) -> None:
        from synth.keys import rng_for

        edge = self.size // 2
        corner = rng_for(SEED, number, "corners").integers(0, self.size - edge + 1, 3).tolist()
        lead = [slice(0, n) for n in self.layout.sample_shape[:-3]]
        box = (*lead, *(slice(a, a + edge) for a in corner))
        shape = (*self.layout.sample_shape[:-3], edge, edge, edge)
        self.reader.read_box_into(number % len(self.samples), box, np.empty(shape, self.layout.numpy_dtype))

    def extras(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Bytes a volume, milliseconds to encode it and to read a crop of half the edge."""
        size = sum(
            len(chunk or b"") for place in range(len(self.samples)) for chunk in self.reader.chunks(place)
        ) / len(self.samples)
        encode, crop = median_ms(self._encode), median_ms(self._crop)
        share = size / self.layout.sample_bytes
        note = f"{size / 1e6:.2f} MB ({100 * share:.0f} %), encode {encode:.3g} ms, crop {crop:.3g} ms"
        return {"note": note, "bytes_per_volume": size, "share": share, "encode_ms": encode, "crop_ms": crop}


def median_ms(call: Callable[[int], Any], repeats: int = 25) -> float:
    """Median milliseconds of a call."""
    call(0)
    taken = []
    for number in range(repeats):
        started = time.perf_counter()
        call(number)
        taken.append(time.perf_counter() - started)
    return 1000 * float(np.median(taken))


class Commit:
    """Commits shards whose volumes are encoded already: files written, flushed, renamed; then the record."""

    def __init__(self, folder: str, size: int, anatomies: str | None, options: dict[str, Any], shard_size: int) -> None:
        from synth.corpus import Corpus
        from synth.engine import Job, prepare
        from synth.keys import rng_for
        from synth.writing import ShardWriter

        spec = spec_of(size, anatomies, options)
        out = Path(tempfile.mkdtemp(dir=folder)) / "commit.zarr"
        prepare(Job(spec, ENDLESS, SEED, out, shard_size))
        corpus, generator = Corpus(out), spec.build()
        self.storage, self.header, self.volumes_per_call = corpus.storage, corpus.header, shard_size
        held = ShardWriter(self.storage, self.header, 0)
        held.add(0, params := generator.draw_at(0, rng_for(SEED, 0)), generator.render(params))
        entry, chunks = held.entries[0], {name: places[0] for name, places in held.chunks.items()}
        self.chunks = {name: dict.fromkeys(range(shard_size), encoded) for name, encoded in chunks.items()}
        self.entries = {place: {**entry, "index": place} for place in range(shard_size)}
        self.versions: dict[str, str] = {}

    turn_s = 0.25

    def __call__(self, shard: int) -> None:
        from synth.writing import ShardWriter

        writer = ShardWriter(self.storage, self.header, shard, self.entries, self.chunks)
        writer.commit(self.versions)
        for name in self.chunks:  # the disk of whoever measures is not filled
            self.storage.delete(self.header.layouts[name].file(name, shard))

    def extras(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Files for a thousand volumes."""
        files = 1000 * (len(self.chunks) + 1) / self.volumes_per_call
        return {"note": f"{files:.0f} files for 1,000 volumes", "files_per_1000": files}


class Plan:
    """What is missing of a corpus of ten million samples, and how many there are: what a resumed run asks first."""

    turn_s = 0.0

    def __init__(self, folder: str, count: int = RECORDED) -> None:
        from synth.corpus import RECORDS, record_name
        from synth.engine import Job, prepare
        from synth.generator import GeneratorSpec

        source = Path(tempfile.mkdtemp(dir=folder))
        np.save(source / "images.npy", np.zeros((1, 1, TINY, TINY, TINY), np.float32))
        spec = GeneratorSpec("benchmarks.speed.repeated.Repeated", {"folder": source})
        self.place, self.count, self.volumes_per_call = source / "plan.zarr", count, count
        prepare(Job(spec, count, SEED, self.place, PLANNED_SHARD))
        self.shards = -(-count // PLANNED_SHARD)
        if not (self.place / RECORDS).is_dir():
            raise Skip(f"there is no folder '{RECORDS}'")
        for shard in range(self.shards):
            if shard % ABSENT_EACH:
                (self.place / record_name(shard)).touch()
        self.seconds: list[float] = []

    def __call__(self, number: int) -> float:
        from synth.corpus import Corpus

        started = time.perf_counter()
        corpus = Corpus(self.place)
        todo = corpus.missing()
        done = corpus.header.count - sum(len(corpus.header.indices(shard)) for shard in todo)
        self.seconds.append(time.perf_counter() - started)
        if len(todo) != -(-self.shards // ABSENT_EACH) or not 0 <= done < self.count:
            raise ValueError(f"{len(todo)} shards were found missing")
        return self.seconds[-1]

    def extras(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Seconds for all of it."""
        seconds = float(np.median(self.seconds))
        return {"note": f"{seconds:.2f} s for {self.shards:,} records", "seconds": seconds, "records": self.shards}
