"""The work of one task: one whole shard, drawn, rendered, encoded and committed. Only a report goes back."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from synth.corpus import Corpus, Header, record_name
from synth.errors import UserError
from synth.generator import Generator, GeneratorSpec, Params
from synth.keys import rng_for
from synth.sample import Sample
from synth.versions import versions
from synth.writing import ShardWriter

STOPPING = {  # of the output as a whole: no other shard would fare better
    errno.ENOSPC: "there is no space left",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "it is read-only",
    errno.EACCES: "it may not be written",
    errno.EPERM: "it may not be written",
}
PACKAGES = ("numpy", "scipy", "numba", "zarr")  # that bits may depend on
MOST_PARAMS = 2000  # characters of a failed sample's params in a report


@dataclass(frozen=True)
class ShardReport:
    """What became of a shard.

    Attributes:
        made: samples it holds now.
        failed: sample number → what its generator raised, with its params.
        lost: why the shard as a whole was not made, or empty.
        stop: why no other shard can be made either, or empty.
    """

    shard: int
    made: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    lost: str = ""
    stop: str = ""


@lru_cache(maxsize=2)
def built(spec_json: str) -> Generator:
    """One generator per process and spec: weights and label maps are read once."""
    fields = json.loads(spec_json)
    return GeneratorSpec(fields["class_path"], fields["init_args"], tuple(fields["search_path"])).build()


def make_shard(place: str, shard: int, spec_json: str) -> ShardReport:
    """Make what a shard lacks and commit it. A sample whose generator raises is left out and reported; the others are
    made. A shard that has its record is left as it is."""
    try:
        corpus = Corpus(place)
        header, storage = corpus.header, corpus.storage
        if storage.exists(record_name(shard)):
            return ShardReport(shard, len(header.indices(shard)))
        writer = ShardWriter(storage, header, shard)
        part = corpus.record(shard)
        if part is not None:
            writer.keep(corpus, part)
        lacking = [i for i in header.indices(shard) if i - shard * header.shard_size not in writer.entries]
        failures = list(draw_and_add(writer, built(spec_json), header, lacking))
        writer.commit(versions(PACKAGES), failures)
        failed = {f["index"]: _sentence(f) for f in failures}
        return ShardReport(shard, len(writer.entries), failed)
    except OSError as error:
        reason = " ".join(f"shard {shard}: {type(error).__name__}: {error}".split())
        if error.errno in STOPPING:
            return ShardReport(shard, lost=reason, stop=f"cannot write '{place}': {STOPPING[error.errno]}")
        return ShardReport(shard, lost=reason)
    except Exception as error:
        return ShardReport(shard, lost=" ".join(f"shard {shard}: {type(error).__name__}: {error}".split()))


def _sentence(failure: dict[str, Any]) -> str:
    shown = json.dumps(failure["params"])[:MOST_PARAMS]
    return " ".join(f"sample {failure['index']}: {failure['error']} (params {shown})".split())


def draw_and_add(
    writer: ShardWriter, generator: Generator, header: Header, indices: list[int], number: int | None = None
) -> Iterator[dict[str, Any]]:
    """Draw, render and encode samples into a shard; yields those that failed. One volume is drawn, rendered and held at a
    time, unless the generator renders batches. ``number``: what the sample is called in the shard, where not by its own
    number."""
    batched = type(generator).render_batch is not Generator.render_batch
    for together in [indices] if batched else [[index] for index in indices]:
        yield from _draw_and_add(writer, generator, header, together, number)


def _draw_and_add(
    writer: ShardWriter, generator: Generator, header: Header, indices: list[int], number: int | None
) -> Iterator[dict[str, Any]]:
    drawn: dict[int, Params] = {}
    for index in indices:
        try:
            drawn[index] = json.loads(json.dumps(generator.draw_at(index, rng_for(header.seed, index))))
        except Exception as error:
            yield _failure(index, None, error)
    for index, params, sample in _rendered(generator, drawn):
        try:
            if isinstance(sample, Exception):
                raise sample
            writer.add(index if number is None else number, params, sample)
        except OSError:
            raise
        except Exception as error:
            yield _failure(index, params, error)


def _failure(index: int, params: Params | None, error: Exception) -> dict[str, Any]:
    return {"index": index, "params": params, "error": " ".join(f"{type(error).__name__}: {error}".split())}


def _rendered(generator: Generator, drawn: dict[int, Params]) -> Iterator[tuple[int, Params, Sample | Exception]]:
    """Every sample, or what rendering it raised. When a batch fails, the one to blame is found one at a time."""
    batched = type(generator).render_batch is not Generator.render_batch
    if batched:
        try:
            samples = [_sample(found) for found in generator.render_batch(list(drawn.values()))]
            together = list(zip(drawn.items(), samples, strict=True))
        except Exception:
            together = []
        for (index, params), sample in together:
            yield index, params, sample
        if together:
            return
    for index, params in drawn.items():
        try:
            yield index, params, _sample(generator.render(params))
        except Exception as error:
            yield index, params, error


def _sample(found: object) -> Sample:
    if not isinstance(found, Sample):
        raise UserError(f"render returned {type(found).__name__}; expected synth.sample.Sample")
    return found
