"""Is every bit of a corpus as it was written? What differs from another corpus? Mending what is damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth.corpus import (
    GROUP,
    HEADER,
    SEAL,
    Corpus,
    Header,
    NewerFormat,
    checksum,
    identity_of,
    part_name,
    record_digest,
    record_name,
    record_text,
)
from synth.errors import UserError
from synth.reader import whole_file
from synth.shard import crc32c
from synth.storage import open_storage

MOST_NAMED = 12  # differing samples that a comparison lists


@dataclass(frozen=True)
class Damage:
    """What is wrong at one place. ``shard`` is -1 where it is not a shard: metadata, covariates, seal."""

    shard: int
    problem: str


def verify(corpus: Corpus) -> Iterator[tuple[int, list[str]]]:
    """Check shard after shard, then all that is no shard; yields (shard, problems), no problems meaning that every bit is
    as recorded. The last one has the number of shards for its own."""
    for shard in range(corpus.header.shards):
        yield shard, list(shard_problems(corpus, shard))
    yield corpus.header.shards, list(other_problems(corpus))


def shard_problems(corpus: Corpus, shard: int) -> Iterator[str]:
    """What is wrong with one shard: its record, its files, its samples."""
    record = corpus.record(shard)
    if record is None:
        yield f"shard {shard} has no record"
        return
    if record.get("sha256") != record_digest(record):
        yield f"the record of shard {shard} was changed"
        return
    if (record.get("header"), record["shard"]) != (corpus.header.digest, shard):
        yield f"the record of shard {shard} belongs to another corpus, or the corpus's attributes were changed"
    for failure in record.get("failed", []):
        yield f"sample {failure['index']} was not made ({failure['error']})"
    listed = [entry["index"] for entry in record["samples"]]
    failed = [failure["index"] for failure in record.get("failed", [])]
    if sorted(listed + failed) != list(corpus.header.indices(shard)):
        yield f"the record of shard {shard} lists other samples than its own"
    yield from _file_problems(corpus, shard, record)
    yield from _sample_problems(corpus, record)


def _file_problems(corpus: Corpus, shard: int, record: dict[str, Any]) -> Iterator[str]:
    for array, layout in corpus.header.layouts.items():
        name = layout.file(array, shard)
        try:
            data = whole_file(corpus.storage, name)
            same = len(data) == record["files"][array]["bytes"]
            same = same and f"{crc32c(data):08x}" == record["files"][array]["crc32c"]
        except FileNotFoundError:
            yield f"shard {shard}: there is no file '{name}'"
            continue
        if not same:
            yield f"shard {shard}: the file '{name}' is not as recorded"


def _sample_problems(corpus: Corpus, record: dict[str, Any]) -> Iterator[str]:
    for entry in record["samples"]:
        try:
            found = checksum(corpus.stored(entry["index"]), corpus.label(entry["index"]))
        except Exception as error:
            found = f"unreadable: {' '.join(str(error).split())[:80]}"
        if found != entry["sha256"]:
            yield f"sample {entry['index']}: voxels are not as recorded ({found[:60]})"


def other_problems(corpus: Corpus) -> Iterator[str]:
    """What is wrong outside shards: metadata, covariates, completeness, the seal's identity."""
    if not corpus.complete:
        yield "the corpus is not complete; run its generate command again to go on"
        return
    try:
        seal = json.loads(corpus.storage.read(SEAL))
        if seal["sha256"] != record_digest(seal):
            raise ValueError
    except FileNotFoundError:
        yield f"there is no '{SEAL}'"
        return
    except (ValueError, KeyError, TypeError):
        yield f"'{SEAL}' was changed"
        return
    for name, wanted in seal["files"].items():
        try:
            if hashlib.sha256(corpus.storage.read(name)).hexdigest() != wanted:
                yield f"'{name.split('/')[0]}' is not as it was sealed ({name})"
        except FileNotFoundError:
            yield f"'{name.split('/')[0]}' lacks a file ({name})"
        except ValueError:
            yield f"'{SEAL}' names '{name}', which is no file of a corpus"
    try:
        if identity_of(corpus.entries()) != seal["identity"]:
            yield "the records are not those that were sealed"
    except Exception as error:  # told with its shard
        yield f"the records cannot be gathered ({' '.join(str(error).split())[:120]})"


def differences(one: Corpus, other: Corpus) -> Iterator[str]:
    """In words, how two corpora differ in their samples; nothing when they hold the same ones, whatever their shards,
    codec and place."""
    if len(one) != len(other):
        yield f"{one.path} holds {len(one)} samples, {other.path} {len(other)}"
    named = 0
    for mine, theirs in zip(one.entries(), other.entries(), strict=False):
        if mine == theirs:
            continue
        named += 1
        if named <= MOST_NAMED:
            parts = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
            words = ["voxels" if part == "sha256" else part for part in parts]
            yield f"sample {mine['index']} differs in {', '.join(words)}"
    if named > MOST_NAMED:
        yield f"{named - MOST_NAMED} more samples differ"


def damaged_shards(corpus: Corpus) -> list[int]:
    """Shards that :func:`shard_problems` finds anything wrong with, those not made yet included."""
    return [shard for shard in range(corpus.header.shards) if any(True for _ in shard_problems(corpus, shard))]


def open_to_check(place: Path | str) -> tuple[Corpus, list[str]]:
    """A corpus to verify or mend, and what is wrong with its attributes: where they are damaged, its header is taken from
    the copy beside them.

    Raises:
        UserError: no corpus, or one whose attributes and copy are both damaged.
    """
    storage = open_storage(place)
    try:
        kept = Header.from_attributes(json.loads(storage.read(HEADER)))
        if json.loads(storage.read(HEADER))["sha256"] != kept.checksum:
            raise ValueError
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return Corpus(place), [f"'{HEADER}' is damaged or not there"]
    try:
        corpus = Corpus(place)
        if corpus.header == kept:
            return corpus, []
    except NewerFormat:
        raise
    except UserError:
        pass
    return Corpus(place, kept), [f"the attributes in '{GROUP}' were changed"]


def take_back(corpus: Corpus, shard: int) -> None:
    """Take back a shard's record, so that what is damaged in it is made again: a sound record becomes one of a part."""
    record = corpus.record(shard)
    own = (corpus.header.digest, shard)
    if record and record["sha256"] == record_digest(record) and (record["header"], record["shard"]) == own:
        corpus.storage.write(part_name(shard), [record_text(record).encode()])
    else:
        corpus.storage.delete(part_name(shard))
    corpus.storage.delete(record_name(shard))
