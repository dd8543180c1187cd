"""Writing a corpus: created whole, a shard at a time, grown, and sealed when every shard is there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.corpus import (
    GROUP,
    HEADER,
    RECORDS,
    SEAL,
    SPATIAL,
    Corpus,
    Header,
    Identity,
    as_stored,
    checksum,
    part_name,
    record_digest,
    record_name,
    record_text,
)
from synth.errors import UserError
from synth.sample import Sample
from synth.shard import Layout, crc32c, shard_parts
from synth.storage import LocalStorage, Storage, open_storage

RESERVED = ("image", "label", "affine", "intensity", RECORDS, GROUP, "sample", "channel", *SPATIAL, "row", "column")
COLUMN_BLOCK = 2**20  # samples a chunk of a covariate's array; so many are held in memory while they are gathered


def check_names(sample: Sample) -> None:
    """Raise UserError for a covariate that cannot be an array of a corpus."""
    for name in sample.covariates:
        if not name.isidentifier() or name in RESERVED:
            raise UserError(
                f"covariate '{name}' cannot be an array of a corpus; expected letters, digits and _, and none of "
                + ", ".join(RESERVED)
            )


def metadata(header: Header, attributes: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """File name → bytes of the metadata of the group and of its voxel arrays, and of the header's copy."""
    import zarr

    store = zarr.storage.MemoryStore()
    group = zarr.create_group(store, attributes=dict(attributes or header.attributes()))
    names = {"image": ("sample", "channel", *SPATIAL), "label": ("sample", *SPATIAL)}
    for array, layout in header.layouts.items():
        _voxels(group, array, header.count, layout, names[array])
    copy = json.dumps({**asdict(header), "sha256": header.checksum}, indent=0).encode()
    return {HEADER: copy, **_files(store)}


def _voxels(group: Any, name: str, count: int, layout: Layout, dimensions: tuple[str, ...]) -> None:
    from zarr.codecs import ZstdCodec

    group.create_array(
        name,
        shape=(count, *layout.sample_shape),
        dtype=layout.numpy_dtype,
        chunks=(1, *layout.chunk_shape),
        shards=layout.shard_shape,
        compressors=ZstdCodec(level=1) if layout.codec == "zstd" else None,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=dimensions,
        fill_value=0,
    )


def _files(store: Any) -> dict[str, bytes]:
    """What a zarr MemoryStore holds, the group's own metadata last."""
    held = {name: bytes(value.to_bytes()) for name, value in store._store_dict.items()}
    return {name: held[name] for name in sorted(held, key=lambda name: (name == GROUP, name))}


def create(place: Path | str, header: Header, example: Sample) -> None:
    """Make an empty corpus; a local one appears whole or not at all, of a remote one the group's metadata comes last.

    Raises:
        UserError: a place that cannot be written, or covariates with impossible names.
    """
    check_names(example)
    storage = open_storage(place)
    try:
        if not isinstance(storage, LocalStorage):
            _write_all(storage, metadata(header))
            return
        temporary = storage.root.with_name(f".{storage.root.name}.new-{os.getpid()}")
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            for array in (*header.layouts, RECORDS):
                (temporary / array).mkdir(parents=True)
            _write_all(LocalStorage(temporary), metadata(header))
            temporary.rename(storage.root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write corpus '{place}' ({error.strerror or error}); choose a place you may write"
        ) from error


def _write_all(storage: Storage, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        storage.write(name, [data])


@dataclass
class ShardWriter:
    """One shard on its way: samples are encoded as they come, then committed, voxels first.

    Attributes:
        entries: certificates of the samples there are, by place in the shard.
        chunks: array → place → encoded chunks.
    """

    storage: Storage
    header: Header
    shard: int
    entries: dict[int, dict[str, Any]] = field(default_factory=dict)
    chunks: dict[str, dict[int, list[bytes]]] = field(default_factory=dict)

    def keep(self, corpus: Corpus, record: Mapping[str, Any]) -> None:
        """Take over, as they are encoded, the samples that a record lists and whose bytes are as it says."""
        for entry in record["samples"]:
            with suppress(Exception):  # whatever is wrong with one, it is made again
                index = int(entry["index"])
                if index not in self.header.indices(self.shard):
                    continue
                arrays = [corpus.stored(index), corpus.label(index)]
                if checksum(*arrays) == entry["sha256"]:
                    place = index - self.shard * self.header.shard_size
                    encoded = {name: corpus.readers[name].chunks(index) for name in self.header.layouts}
                    self._take(
                        place, dict(entry), {name: [c or b"" for c in chunks] for name, chunks in encoded.items()}
                    )

    def add(self, index: int, params: Mapping[str, Any], sample: Sample) -> None:
        """Encode one sample.

        Raises:
            ValueError: a sample of another shape than the corpus, a label outside int16, an image outside its dtype.
        """
        _check_fits(self.header, sample)
        image, intensity = as_stored(sample.image, self.header.recipe["dtype"])
        label = None if sample.label is None else sample.label.astype(np.int16, copy=False)
        entry: dict[str, Any] = {
            "index": index,
            "params": dict(params),
            "covariates": dict(sample.covariates),
            "affine": sample.affine.tolist(),
            "sha256": checksum(image, label),
        }
        if intensity is not None:
            entry["intensity"] = intensity
        arrays = {"image": image, "label": label} if label is not None else {"image": image}
        chunks = {name: self.header.layouts[name].encode(array) for name, array in arrays.items()}
        self._take(index - self.shard * self.header.shard_size, entry, chunks)

    def _take(self, place: int, entry: dict[str, Any], chunks: Mapping[str, list[bytes]]) -> None:
        self.entries[place] = entry
        for name, encoded in chunks.items():
            self.chunks.setdefault(name, {})[place] = encoded

    def commit(self, versions: Mapping[str, str], failed: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """Voxels first, then the record: from then on the shard exists. Returns the record.

        With ``failed`` samples (index, params, error) the record is one of a part; a whole one is never replaced.
        """
        files = {}
        for name, layout in self.header.layouts.items():
            parts = shard_parts(layout, self.chunks.get(name, {}))
            self.storage.write(layout.file(name, self.shard), parts)
            files[name] = {"bytes": sum(map(len, parts)), "crc32c": f"{crc32c(*parts):08x}"}
        record: dict[str, Any] = {
            "shard": self.shard,
            "fingerprint": self.header.fingerprint,
            "seed": self.header.seed,
            "header": self.header.digest,
            "versions": dict(versions),
            "files": files,
            "samples": [self.entries[place] for place in sorted(self.entries)],
        }
        if failed:
            record["failed"] = failed
        record["sha256"] = record_digest(record)
        text = record_text(record).encode()
        if failed or len(self.entries) < len(self.header.indices(self.shard)):
            self.storage.write(part_name(self.shard), [text])
        else:
            self.storage.write_new(record_name(self.shard), [text])
            self.storage.delete(part_name(self.shard))
        return record


def _check_fits(header: Header, sample: Sample) -> None:
    if sample.image.shape != header.image_shape:
        raise ValueError(f"has shape {sample.image.shape}, the corpus {header.image_shape}; all must be equal")
    if (sample.label is not None) != header.has_label:
        raise ValueError(f"{'lacks' if sample.label is None else 'has'} a label map, unlike the first sample")
    check_names(sample)
    if sample.label is not None and (sample.label.min() < -32768 or sample.label.max() > 32767):
        raise ValueError(f"holds label {sample.label.max()}; labels must fit int16")


def grow(corpus: Corpus, count: int) -> None:
    """Make room for samples up to ``count``; those there are stay as they are. The shard at the end, when it is not
    full, becomes one of a part."""
    header, storage = corpus.header, corpus.storage
    last = header.shards - 1
    attributes = {**corpus.attributes, "count": count, "complete": False}
    if len(header.indices(last)) < header.shard_size and storage.exists(record_name(last)):
        storage.write(part_name(last), [storage.read(record_name(last))])
        storage.delete(record_name(last))
    storage.delete(SEAL)
    _write_all(storage, metadata(replace(header, count=count), attributes))


def finish(place: Path | str) -> None:
    """When every shard has its record: covariates, affines and intensities as arrays, ``complete``, consolidated
    metadata, card, and the seal."""
    import zarr

    corpus = Corpus(place)
    columns = _Columns(corpus)
    store = zarr.storage.MemoryStore()
    attributes = {**corpus.attributes, "affine": columns.common_affine, "complete": True}
    files = metadata(corpus.header, attributes)
    header = {HEADER: files.pop(HEADER)}
    for name, data in files.items():
        store._store_dict[name] = zarr.core.buffer.cpu.Buffer.from_bytes(data)
    header |= cards(corpus)
    columns.write(zarr.open_group(store, mode="r+"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata is not in the v3 text yet; xarray and zarr read it
        zarr.consolidate_metadata(store)
    _seal(corpus.storage, {**header, **_files(store)}, columns.identity.hexdigest())


def cards(corpus: Corpus) -> dict[str, bytes]:
    """File name → bytes of what says, to people and to programs, what the corpus is."""
    from synth.card import card_text, croissant

    found = json.dumps(croissant(corpus), indent=1, ensure_ascii=False)
    return {"README.md": card_text(corpus).encode(), "croissant.json": found.encode()}


def _seal(storage: Storage, files: Mapping[str, bytes], identity: str) -> None:
    seal: dict[str, Any] = {
        "identity": identity,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    seal["sha256"] = record_digest(seal)
    storage.write(SEAL, [json.dumps(seal, indent=0).encode()])
    _write_all(storage, files)  # the group's metadata, which says complete, last


class _Columns:
    """What the records say, sample by sample, as columns."""

    def __init__(self, corpus: Corpus) -> None:
        self.identity = Identity()
        self.count = len(corpus)
        self.numbers: dict[str, npt.NDArray[np.float64]] = {}
        self.words: dict[str, tuple[npt.NDArray[np.int16], dict[str, int]]] = {}
        self.affines = np.empty((self.count, 4, 4))
        channels = corpus.image_shape[0] if corpus.header.has_levels else 0
        self.intensities = np.empty((self.count, channels, 2), np.float64)
        for at, entry in enumerate(corpus.entries()):
            self.identity.add(entry)
            self.affines[at] = entry["affine"]
            if channels:
                self.intensities[at] = entry["intensity"]
            for name, value in entry["covariates"].items():
                self._set(at, name, value)
        same = bool((self.affines == self.affines[0]).all())
        self.common_affine = self.affines[0].tolist() if same else None

    def _set(self, at: int, name: str, value: float | str) -> None:
        if isinstance(value, str):
            if name not in self.words:
                self.words[name] = np.full(self.count, -1, np.int16), {}
            codes, known = self.words[name]
            codes[at] = known.setdefault(value, len(known))
        else:
            if name not in self.numbers:
                self.numbers[name] = np.full(self.count, np.nan)
            self.numbers[name][at] = value
        if name in self.words and name in self.numbers:
            raise UserError(
                f"covariate '{name}' is a word in some samples and a number in others; expected always one of them"
            )

    def write(self, group: Any) -> None:
        """Numbers as float64 (missing: NaN); words as int16 codes with CF flag_values / flag_meanings (missing: -1)."""
        array = _array(group, "affine", self.affines, ("sample", "row", "column"))
        array.attrs["long_name"] = "voxel index to mm, RAS+"
        if self.intensities.size:
            array = _array(group, "intensity", self.intensities, ("sample", "channel", "scale_offset"))
            array.attrs["long_name"] = "intensity = stored value * scale + offset"
        for name in sorted({*self.numbers, *self.words}):
            if name in self.numbers:
                array = _array(group, name, self.numbers[name], ("sample",))
                unit = "mm3" if name.startswith("volume_") else "years" if name == "age" else None
                if unit:
                    array.attrs["units"] = unit
                continue
            codes, known = self.words[name]
            words = sorted(known)
            place = np.array([words.index(word) for word in known], np.int16)
            array = _array(group, name, np.where(codes < 0, np.int16(-1), place[codes]), ("sample",))
            meanings = " ".join(word.replace(" ", "_") for word in words)
            array.attrs.update({"categories": words, "flag_values": list(range(len(words))), "flag_meanings": meanings})


def _array(group: Any, name: str, data: npt.NDArray[Any], dimensions: Iterable[str]) -> Any:
    chunks = (min(len(data), COLUMN_BLOCK), *data.shape[1:])
    return group.create_array(name, data=data, chunks=chunks, dimension_names=tuple(dimensions), fill_value=0)
