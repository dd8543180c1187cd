"""Engine: plan → one task per shard (in this process, or on Ray) → committed shards → resume."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from synth.corpus import DTYPES, Corpus, Header
from synth.errors import UserError
from synth.generator import Generator, GeneratorSpec, Params, find_generator
from synth.keys import rng_for
from synth.lock import writing
from synth.pool import Workers, reports
from synth.sample import Sample
from synth.shard import CODECS
from synth.shards import PACKAGES
from synth.storage import open_storage
from synth.verify import damaged_shards, open_to_check, other_problems, take_back
from synth.versions import versions
from synth.writing import create, finish, grow, metadata

Progress = Callable[..., None]


@dataclass(frozen=True)
class Job:
    """One corpus to make: ``count`` volumes of ``spec`` under ``seed``, ``shard_size`` a shard.

    Attributes:
        out: folder, or URL in an object store.
        dtype: stored image voxels: uint8 or uint7 (with a scale and an offset per sample), float16 or float32.
        codec: none or zstd, of images.
        chunk: voxels along every axis of an inner chunk, for crops; 0: a chunk is a whole volume.
        append: a smaller corpus of the same recipe may be there: it grows.
    """

    spec: GeneratorSpec
    count: int
    seed: int
    out: Path | str
    shard_size: int = 16
    dtype: str = "uint8"
    codec: str = "zstd"
    chunk: int = 0
    append: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        made: shards made now.
        failed: number of a sample that failed, or of the first one of a shard that was lost → what happened.
        seconds: it took.
        stopped: why the run could not go on, or empty.
    """

    made: int
    failed: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    stopped: str = ""


def generate(
    job: Job,
    workers: int | Workers | None = 0,
    address: str | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Make the corpus, or what is missing of it.

    Args:
        job: what to make.
        workers: 0 works in this process; otherwise that many Ray workers, or who exactly.
        address: a Ray cluster to join instead of starting a local one.
        progress: called with (volumes done, volumes in all, note) after every shard.

    Raises:
        UserError: bad options, an output that holds another recipe or that another run is writing.
    """
    started = time.perf_counter()
    check_options(job)
    team = workers if isinstance(workers, Workers) else Workers(workers, address)
    team.check()
    prepare(job)
    corpus = Corpus(job.out)
    if corpus.complete and len(corpus) == job.count and not corpus.missing():
        if progress:
            progress(job.count, job.count)
        return Outcome(0, seconds=time.perf_counter() - started)
    with writing(corpus.storage):
        corpus = Corpus(job.out)
        if job.append and job.count > len(corpus):
            grow(corpus, job.count)
            corpus = Corpus(job.out)
        outcome = fill(corpus, job.spec, team, progress)
    return replace(outcome, seconds=time.perf_counter() - started)


def fill(corpus: Corpus, spec: GeneratorSpec, team: Workers, progress: Progress | None) -> Outcome:
    """Make every shard of ``corpus`` that has no whole record, and finish it. The caller holds the lock."""
    header = corpus.header
    todo = corpus.missing()
    done = header.count - sum(len(header.indices(shard)) for shard in todo)
    show = progress or (lambda *_: None)
    show(done, header.count)
    failed: dict[int, str] = {}
    made, stopped = 0, ""
    actors = find_generator(spec.class_path, spec.search_path).needs_actor
    running = reports(team, todo, corpus.storage.url, spec_json(spec), actors, spec.search_path)
    for report in running:
        failed |= report.failed
        if report.lost:
            failed[header.indices(report.shard).start] = report.lost
        made += not report.lost and not report.failed
        done += report.made
        show(done, header.count, *([f"{len(failed)} failed"] if failed else []))
        if report.stop:
            stopped = report.stop
            running.close()  # type: ignore[attr-defined]
            break
    if not failed and not corpus.complete:
        finish(corpus.path)
    return Outcome(made, failed, stopped=stopped)


def repair(place: Path | str, spec: GeneratorSpec, team: Workers, progress: Progress | None = None) -> Outcome:
    """Make again what is damaged in a corpus, and nothing else; what its records vouch for is kept as it is.

    Args:
        spec: its recipe.

    Raises:
        UserError: no corpus, another run is writing it, or the recipe's parents are not what they were.
    """
    started = time.perf_counter()
    corpus, wrong = open_to_check(place)
    _check_parents(corpus.header, spec, str(place))
    with writing(corpus.storage):
        damaged = damaged_shards(corpus)
        if not damaged and not wrong and not list(other_problems(corpus)):
            return Outcome(0, seconds=time.perf_counter() - started)
        for name, data in metadata(corpus.header).items():  # not complete until it is finished again
            corpus.storage.write(name, [data])
        for shard in damaged:
            take_back(corpus, shard)
        outcome = fill(Corpus(place), spec, team, progress)
    return replace(outcome, seconds=time.perf_counter() - started)


def _check_parents(header: Header, spec: GeneratorSpec, place: str) -> None:
    if spec.fingerprint(spec.build().parents()) != header.fingerprint:
        raise UserError(
            f"what '{place}' was made from (label maps, weights, scans) is not there as it was; "
            "put it back before its volumes are made again"
        )


def check_options(job: Job) -> None:
    """Raise UserError for options out of range."""
    for name, value in (("count", job.count), ("shard-size", job.shard_size)):
        if value < 1:
            raise UserError(f"--{name} is {value}; expected 1 or more")
    if not 0 <= job.seed < 2**63:
        raise UserError(f"--seed is {job.seed}; expected 0 or more")
    for name, word, known in (("dtype", job.dtype, DTYPES), ("codec", job.codec, CODECS)):
        if word not in known:
            raise UserError(f"--{name} is {word}; expected one of {', '.join(known)}")
    if job.chunk < 0 or 0 < job.chunk < 8:
        raise UserError(f"--chunk is {job.chunk}; expected 0, a chunk for a whole volume, or 8 or more voxels")


def prepare(job: Job) -> None:
    """Create the corpus, or check that the one there is of the same recipe. Nothing is written when it is not."""
    generator = job.spec.build()
    parents = generator.parents()
    fingerprint = job.spec.fingerprint(parents)
    there = open_storage(job.out)
    if Path(str(job.out)).exists() if there.is_local else there.exists("zarr.json"):
        _check_same(Corpus(job.out).header, job, fingerprint)
        return
    _check_last(generator, job)
    example = first_sample(generator, job)
    create(job.out, new_header(job, generator, parents, fingerprint, example), example)


def _check_last(generator: Generator, job: Job) -> None:
    """Raise UserError when the generator says that it has fewer samples: scans of a folder, for instance."""
    try:
        generator.draw_at(job.count - 1, rng_for(job.seed, job.count - 1))
    except UserError:
        raise
    except Exception:
        pass


def new_header(
    job: Job, generator: Generator, parents: list[dict[str, Any]], fingerprint: str, example: Sample
) -> Header:
    """The header of a corpus of samples like ``example``."""
    c, d, h, w = example.image.shape
    return Header(
        recipe={"generator": job.spec.recipe(), "dtype": job.dtype, "codec": job.codec, "chunk": job.chunk},
        fingerprint=fingerprint,
        seed=job.seed,
        count=job.count,
        shard_size=job.shard_size,
        image_shape=(c, d, h, w),
        has_label=example.label is not None,
        labels={str(number): name for number, name in generator.labels().items()},
        parents=parents,
        versions=versions(PACKAGES),
    )


def first_sample(generator: Generator, job: Job) -> Sample:
    """A sample that shows what the others look like: the first one that does not fail, of three.

    Raises:
        UserError: all of them failed.
    """
    reasons: list[str] = []
    for index in range(min(3, job.count)):
        step = "draw"
        try:
            params: Params = json.loads(json.dumps(generator.draw_at(index, rng_for(job.seed, index))))
            step = "render"
            example = generator.render_batch([params])[0]
            if not isinstance(example, Sample):
                raise TypeError(f"it returned {type(example).__name__}; expected synth.sample.Sample")
            return example
        except UserError:
            raise
        except Exception as error:
            reasons.append(
                f"generator {job.spec.class_path} failed on sample {index} in {step}: {type(error).__name__}: {error}"
            )
    raise UserError(reasons[0])


def _check_same(header: Header, job: Job, fingerprint: str) -> None:
    recipe = header.recipe
    asked = {"seed": job.seed, "shard_size": job.shard_size, "dtype": job.dtype, "codec": job.codec, "chunk": job.chunk}
    found = {
        "seed": header.seed,
        "shard_size": header.shard_size,
        "dtype": recipe["dtype"],
        "codec": recipe["codec"],
        "chunk": recipe["chunk"],
    }
    for name, value in found.items():
        if value != asked[name]:
            raise UserError(
                f"'{job.out}' holds a corpus with {name} {value}, asked for was {asked[name]}; choose another --out"
            )
    if header.count != job.count and not (job.append and job.count > header.count):
        mend = "add --append to let it grow" if job.count > header.count else "choose another --out"
        raise UserError(f"'{job.out}' holds a corpus with count {header.count}, asked for was {job.count}; {mend}")
    if header.fingerprint != fingerprint:
        raise UserError(
            f"'{job.out}' holds a corpus of another recipe ({_difference(header, job)}); choose another --out"
        )


def _difference(header: Header, job: Job) -> str:
    old, new = header.recipe["generator"], job.spec.recipe()
    if old["class_path"] != new["class_path"]:
        return f"generator {old['class_path']}, asked for was {new['class_path']}"
    for name, value in new["init_args"].items():
        if old["init_args"].get(name) != value:
            return f"{name} {old['init_args'].get(name)}, asked for was {value}"
    return "its parents, the files it was made from, differ"


def spec_json(spec: GeneratorSpec) -> str:
    """The spec with absolute paths, for processes that may run in another folder; one of nothing here (an id of the hub)
    stays as it is."""
    absolute = {k: v.resolve() if isinstance(v, Path) and v.exists() else v for k, v in spec.init_args.items()}
    recipe = replace(spec, init_args=absolute).recipe()
    return json.dumps({**recipe, "search_path": spec.search_path})
