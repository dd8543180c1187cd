"""Engine: plan → one task per shard (in this process, or on Ray) → committed shards → resume."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from synth.corpus import DTYPES, Corpus, Header, create, finish, write_shard
from synth.errors import UserError
from synth.generator import Generator, GeneratorSpec
from synth.keys import rng_for
from synth.sample import Sample
from synth.versions import versions

Progress = Callable[[int, int], None]
IN_FLIGHT_PER_WORKER = 2


@dataclass(frozen=True)
class Job:
    """One corpus to make. ``count`` volumes of ``spec`` under ``seed``, ``shard_size`` a shard, stored as ``dtype``."""

    spec: GeneratorSpec
    count: int
    seed: int
    out: Path
    shard_size: int = 16
    dtype: str = "float16"


@dataclass(frozen=True)
class Outcome:
    """What a run did: shards made now, shards that failed with their reason, seconds it took."""

    made: int
    failed: dict[int, str]
    seconds: float


def generate(job: Job, workers: int = 0, address: str | None = None, progress: Progress | None = None) -> Outcome:
    """Make the corpus, or what is missing of it.

    Args:
        job: what to make.
        workers: 0 works in this process; otherwise that many Ray workers.
        address: a Ray cluster to join instead of starting a local one.
        progress: called with (volumes done, volumes in all) after every shard.

    Raises:
        UserError: bad options, or an output that holds another recipe.
    """
    started = time.perf_counter()
    _check(job)
    prepare(job)
    corpus = Corpus(job.out)
    todo = corpus.missing()
    done = job.count - sum(len(corpus.header.indices(shard)) for shard in todo)
    if progress:
        progress(done, job.count)
    failed: dict[int, str] = {}
    for shard, problem in _results(job, todo, workers, address):
        if problem:
            failed[shard] = problem
        done += len(corpus.header.indices(shard))
        if progress:
            progress(done, job.count)
    if not failed and not corpus.complete:
        finish(job.out)
    return Outcome(len(todo) - len(failed), failed, time.perf_counter() - started)


def _check(job: Job) -> None:
    for name, value in (("count", job.count), ("shard-size", job.shard_size)):
        if value < 1:
            raise UserError(f"--{name} is {value}; expected 1 or more")
    if not 0 <= job.seed < 2**63:
        raise UserError(f"--seed is {job.seed}; expected 0 or more")
    if job.dtype not in DTYPES:
        raise UserError(f"--dtype is {job.dtype}; expected one of {', '.join(DTYPES)}")


def prepare(job: Job) -> None:
    """Create the corpus, or check that the one there is of the same recipe. Nothing is written when it is not."""
    generator = job.spec.build()
    parents = generator.parents()
    fingerprint = job.spec.fingerprint(parents)
    if job.out.exists():
        _check_same(Corpus(job.out).header, job, fingerprint)
        return
    header = Header(
        recipe={"generator": job.spec.recipe(), "dtype": job.dtype},
        fingerprint=fingerprint,
        seed=job.seed,
        count=job.count,
        shard_size=job.shard_size,
        parents=parents,
        versions=versions(("numpy", "scipy", "numba", "zarr")),
        labels={str(number): name for number, name in generator.labels().items()},
    )
    step = "draw"
    try:
        params = json.loads(json.dumps(generator.draw_at(0, rng_for(job.seed, 0))))
        step = "render"
        example = generator.render_batch([params])[0]
        if not isinstance(example, Sample):
            raise TypeError(f"it returned {type(example).__name__}; expected synth.sample.Sample")
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"generator {job.spec.class_path} failed on sample 0 in {step}: {type(error).__name__}: {error}"
        ) from error
    create(job.out, header, example, job.dtype)


def _check_same(header: Header, job: Job, fingerprint: str) -> None:
    asked = {"count": job.count, "seed": job.seed, "shard_size": job.shard_size, "dtype": job.dtype}
    found = {
        "count": header.count,
        "seed": header.seed,
        "shard_size": header.shard_size,
        "dtype": header.recipe["dtype"],
    }
    for name, value in found.items():
        if value != asked[name]:
            raise UserError(
                f"'{job.out}' holds a corpus with {name} {value}, asked for was {asked[name]}; choose another --out"
            )
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


@lru_cache(maxsize=2)
def _built(spec_json: str) -> Generator:
    """One generator per process and spec: weights and label maps are read once."""
    fields = json.loads(spec_json)
    return GeneratorSpec(fields["class_path"], fields["init_args"], tuple(fields["search_path"])).build()


def make_shard(out: str, shard: int, spec_json: str) -> tuple[int, str]:
    """Draw, render and commit one shard. Returns (shard, problem), problem empty when it is there."""
    path = Path(out)
    header = Corpus(path).header
    where = f"shard {shard}"
    try:
        generator = _built(spec_json)
        drawn = []
        for index in header.indices(shard):
            where = f"sample {index}"
            drawn.append(json.loads(json.dumps(generator.draw_at(index, rng_for(header.seed, index)))))
        where = f"shard {shard}"
        write_shard(path, shard, drawn, _rendered(generator, drawn, header.indices(shard)))
    except _SampleError as error:
        return shard, " ".join(str(error).split())
    except Exception as error:
        return shard, " ".join(f"{where}: {type(error).__name__}: {error}".split())
    return shard, ""


class _SampleError(Exception):
    """A generator failed on one sample; the message says which, with its params."""


def _rendered(generator: Generator, drawn: list[dict[str, Any]], indices: range) -> list[Sample]:
    """The samples of a shard; when the batch fails, the one to blame is found by rendering one at a time."""
    try:
        return generator.render_batch(drawn)
    except Exception:
        for index, params in zip(indices, drawn, strict=True):
            try:
                generator.render(params)
            except Exception as error:
                shown = json.dumps(params)[:400]
                raise _SampleError(f"sample {index}: {type(error).__name__}: {error} (params {shown})") from error
        raise


def _spec_json(spec: GeneratorSpec) -> str:
    """The spec with absolute paths, for processes that may run in another folder."""
    absolute = {k: v.resolve() if isinstance(v, Path) else v for k, v in spec.init_args.items()}
    recipe = replace(spec, init_args=absolute).recipe()
    return json.dumps({**recipe, "search_path": spec.search_path})


def _results(job: Job, todo: list[int], workers: int, address: str | None) -> Iterator[tuple[int, str]]:
    spec_json = _spec_json(job.spec)
    if not todo:
        return
    if workers == 0 and address is None:
        for shard in todo:
            yield make_shard(str(job.out), shard, spec_json)
        return
    with ray_session(workers, address, job.spec.search_path) as ray:
        task = ray.remote(num_cpus=1, max_retries=3)(make_shard)
        waiting = iter(todo)
        running = {
            task.remote(str(job.out.resolve()), shard, spec_json): shard
            for shard in itertools.islice(waiting, max(workers, 1) * IN_FLIGHT_PER_WORKER)
        }
        while running:
            ready, _ = ray.wait(list(running), num_returns=1)
            shard = running.pop(ready[0])
            with contextlib.suppress(StopIteration):
                following = next(waiting)
                running[task.remote(str(job.out.resolve()), following, spec_json)] = following
            try:
                yield ray.get(ready[0])
            except ray.exceptions.RayError as error:
                yield shard, f"shard {shard}: worker lost: {str(error).splitlines()[0]}"


@contextlib.contextmanager
def ray_session(workers: int, address: str | None = None, search_path: tuple[str, ...] = ()) -> Iterator[Any]:
    """A Ray of ``workers`` CPUs on the loopback interface without dashboard, or the cluster at ``address``.

    An already running Ray of this process is used as it is and left running.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    mine = not ray.is_initialized()
    if mine:
        paths = [*search_path, os.environ.get("PYTHONPATH", "")]
        environment = {"PYTHONPATH": os.pathsep.join(p for p in paths if p)} if search_path else {}
        local: dict[str, Any] = {
            "num_cpus": max(workers, 1),
            "include_dashboard": False,
            "object_store_memory": 80 * 2**20,
            "_node_ip_address": "127.0.0.1",
        }
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment} if environment else None,
            **({} if address else local),
        )
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()
