"""Corpus: a Zarr v3 group of N samples in shards, with the birth certificate of every one. Format: docs/corpus.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from synth.errors import UserError
from synth.reader import ShardReader
from synth.sample import Sample
from synth.shard import DamagedShard, Layout
from synth.storage import Storage, open_storage

if TYPE_CHECKING:
    import pandas as pd
    import zarr

FORMAT, FORMAT_VERSION = "brainloom-corpus", 2
RECORDS = "records"
GROUP = "zarr.json"
HEADER = "header.json"  # a copy of the header, from which damaged attributes are mended
SEAL = "seal.json"  # checksums of everything that is neither shard nor record; written last
LOCK = ".lock"
SPATIAL = ("x", "y", "z")  # left→right, posterior→anterior, inferior→superior
LEVELS = {"uint8": 255, "uint7": 127}  # highest stored value; both are kept as bytes
DTYPES = (*LEVELS, "float16", "float32")
LABEL_DTYPE = "int16"


class NewerFormat(UserError):  # noqa: N818  (it says what it is)
    """A corpus that a later brainloom wrote."""


@dataclass(frozen=True)
class Header:
    """What a corpus is, known before its first voxel: the group's attributes.

    Attributes:
        recipe: ``generator`` (class_path, init_args), ``dtype``, ``codec`` and ``chunk`` of the voxels.
        fingerprint: of generator, arguments and parents.
        seed, count: samples 0 to count - 1 under this seed.
        shard_size: samples a shard.
        image_shape: [C, D, H, W] of every image.
        has_label: whether every sample has a label map [D, H, W].
        labels: label number → name.
        parents: what the volumes derive from.
        versions: of the packages that the first shards were made with.
    """

    recipe: dict[str, Any]
    fingerprint: str
    seed: int
    count: int
    shard_size: int
    image_shape: tuple[int, int, int, int]
    has_label: bool
    labels: dict[str, str]
    parents: list[dict[str, Any]]
    versions: dict[str, str]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.count // self.shard_size)

    def indices(self, shard: int) -> range:
        """Sample numbers of one shard."""
        return range(shard * self.shard_size, min(self.count, (shard + 1) * self.shard_size))

    @property
    def has_levels(self) -> bool:
        """Whether voxels are whole levels that a scale and an offset make intensities of."""
        return self.recipe["dtype"] in LEVELS

    @cached_property
    def layouts(self) -> dict[str, Layout]:
        """Array → how its samples lie in shard files."""
        chunk, codec = self.recipe["chunk"], self.recipe["codec"]
        kept = "uint8" if self.has_levels else self.recipe["dtype"]
        found = {"image": Layout(self.image_shape, kept, self.shard_size, chunk, codec)}
        if self.has_label:  # label maps compress to a tenth: always worth it
            found["label"] = Layout(self.image_shape[1:], LABEL_DTYPE, self.shard_size, chunk, "zstd")
        return found

    @cached_property
    def digest(self) -> str:
        """sha256 of everything here but ``count``, which may grow; every record names it."""
        content = {key: value for key, value in asdict(self).items() if key != "count"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def checksum(self) -> str:
        """sha256 of the digest and the count."""
        return hashlib.sha256(f"{self.digest} {self.count}".encode()).hexdigest()

    def attributes(self) -> dict[str, Any]:
        """The group's attributes as JSON values, before the first shard."""
        licences = sorted({str(parent["licence"]) for parent in self.parents if parent.get("licence")})
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **asdict(self),
            "image_shape": list(self.image_shape),
            "licences": licences,
            "orientation": "RAS+",
            "complete": False,
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Header:
        """The header in a group's attributes. Raises KeyError, TypeError or ValueError when they hold none."""
        values = {field.name: attributes[field.name] for field in fields(cls)}
        c, d, h, w = (int(n) for n in values["image_shape"])
        header = cls(**{**values, "image_shape": (c, d, h, w)})
        if header.count < 1 or header.shard_size < 1 or min(header.image_shape) < 1:
            raise ValueError("count, shard_size and image_shape must be positive")
        if header.recipe["dtype"] not in DTYPES:
            raise ValueError(f"dtype {header.recipe['dtype']}")
        return header


def checksum(*arrays: npt.NDArray[Any] | None) -> str:
    """sha256 of arrays' dtypes, shapes and little-endian bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        if array is not None:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def as_stored(image: npt.NDArray[np.float32], dtype: str) -> tuple[npt.NDArray[Any], list[list[float]] | None]:
    """An image ``[C, D, H, W]`` as the corpus keeps it, and for uint8 (uint7) the [scale, offset] of every channel:
    intensity = stored × scale + offset, from the channel's lowest value (0) to its highest (255 or 127).

    Raises:
        ValueError: values outside float16.
    """
    if dtype not in LEVELS:
        with np.errstate(over="ignore"):
            stored = image.astype(dtype)
        if not np.isfinite(stored).all():
            raise ValueError(f"holds values outside {dtype}; scale the image or choose --dtype float32")
        return stored, None
    eight, intensities = np.empty(image.shape, np.uint8), []
    for channel, values in enumerate(image):
        low, high = float(values.min()), float(values.max())
        scale = float(np.float32((high - low) / LEVELS[dtype])) or 1.0
        levels = np.multiply(values, np.float32(1 / scale))
        levels += np.float32(0.5 - low / scale)
        np.copyto(eight[channel], np.clip(levels, 0, LEVELS[dtype], out=levels), casting="unsafe")
        intensities.append([scale, low])
    return eight, intensities


def as_intensities(stored: npt.NDArray[Any], entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    """The inverse of :func:`as_stored`: float32 for uint8, else the stored array itself."""
    if stored.dtype != np.uint8:
        return stored
    scale = np.array(entry["intensity"], np.float32)[:, :, None, None, None]
    image: npt.NDArray[Any] = stored * scale[:, 0] + scale[:, 1]
    return image


def record_name(shard: int) -> str:
    """Name of a shard's record in the corpus."""
    return f"{RECORDS}/{shard:08d}.json"


def part_name(shard: int) -> str:
    """Name of the record of a shard that lacks samples: some failed, or the corpus has grown."""
    return f"{RECORDS}/{shard:08d}.part.json"


def record_path(path: Path, shard: int) -> Path:
    """Where the record of a shard of a local corpus lies."""
    return path / record_name(shard)


def record_digest(record: Mapping[str, Any]) -> str:
    """sha256 of a record's content."""
    content = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def record_text(record: Mapping[str, Any]) -> str:
    """A record as JSON, one line a sample."""
    head = {key: value for key, value in record.items() if key != "samples"}
    lines = ",\n".join(json.dumps(entry) for entry in record["samples"])
    return json.dumps(head)[:-1] + f', "samples": [\n{lines}\n]}}\n'


class Corpus:
    """A corpus on disk or in an object store, read-only.

    Args:
        path: its folder or URL.
        header: taken in place of the one in its attributes, to check or mend a corpus whose attributes are damaged.

    Raises:
        UserError: no such place, not a corpus, or one of another format version.
    """

    def __init__(self, path: Path | str, header: Header | None = None) -> None:
        self.path = Path(path)
        self.storage: Storage = open_storage(path)
        self.attributes: dict[str, Any] = {}
        self.header = self._read_header() if header is None else header
        if header is not None:
            self.attributes = header.attributes()

    def _read_header(self) -> Header:
        path = self.path
        try:
            attributes = json.loads(self.storage.read(GROUP))["attributes"]
            if attributes["format"] != FORMAT:
                raise ValueError(attributes["format"])
        except FileNotFoundError as error:
            raise UserError(
                f"there is no corpus '{path}'; expected a folder made by brainloom synth generate"
            ) from error
        except (KeyError, TypeError, ValueError, NotADirectoryError) as error:
            raise UserError(
                f"'{path}' is not a brainloom corpus; expected a folder made by brainloom synth generate"
            ) from error
        version = attributes.get("format_version")
        if version != FORMAT_VERSION:
            newer = isinstance(version, int) and version > FORMAT_VERSION
            raise (NewerFormat if newer else UserError)(
                f"corpus '{path}' has format version {version}; this brainloom reads version {FORMAT_VERSION}"
            )
        self.attributes = attributes
        try:
            return Header.from_attributes(attributes)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the attributes of corpus '{path}' are damaged ({error}); brainloom synth repair mends them"
            ) from error

    def __len__(self) -> int:
        return self.header.count

    @property
    def name(self) -> str:
        """Last part of its place."""
        return self.storage.name

    @cached_property
    def group(self) -> zarr.Group:
        """The corpus as zarr sees it."""
        import zarr

        return zarr.open_group(self.storage.zarr_store(), mode="r", use_consolidated=False)

    @cached_property
    def readers(self) -> dict[str, ShardReader]:
        """Array (image, label) → what reads its samples."""
        return {name: ShardReader(self.storage, name, layout) for name, layout in self.header.layouts.items()}

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """[C, D, H, W] of every image."""
        return self.header.image_shape

    @property
    def has_labels(self) -> bool:
        """Whether samples carry label maps."""
        return self.header.has_label

    def stored(self, index: int) -> npt.NDArray[Any]:
        """Image ``[C, D, H, W]`` of one sample as it is kept: see :func:`as_intensities`."""
        return self._read("image", index)

    def image(self, index: int) -> npt.NDArray[Any]:
        """Image ``[C, D, H, W]`` of one sample: float32, or the stored dtype where that is float."""
        return as_intensities(self.stored(index), self.entry(index))

    def label(self, index: int) -> npt.NDArray[np.int16] | None:
        """Label map ``[D, H, W]`` of one sample, or None."""
        return self._read("label", index) if self.has_labels else None

    def _read(self, array: str, index: int) -> npt.NDArray[Any]:
        if not 0 <= index < len(self):
            raise UserError(f"there is no sample {index} in '{self.path}'; expected 0 to {len(self) - 1}")
        try:
            return self.readers[array].read(index)
        except DamagedShard as error:
            raise UserError(
                f"sample {index} of '{self.path}' cannot be read ({error}); brainloom synth verify tells, repair mends"
            ) from error

    def record(self, shard: int) -> dict[str, Any] | None:
        """The record of one shard, or None while the shard is not made; ``samples`` is empty in a damaged one."""
        for name in (record_name(shard), part_name(shard)):
            try:
                record: dict[str, Any] = json.loads(self.storage.read(name))
                if name == part_name(shard) or len(record["samples"]) == len(self.header.indices(shard)):
                    record["samples"][0]["index"]
                    return record
            except FileNotFoundError:
                continue
            except (ValueError, UnicodeDecodeError, TypeError, KeyError, IndexError):
                pass
            return {"shard": shard, "sha256": "damaged", "samples": []}
        return None

    def _sound(self, shard: int) -> dict[str, Any]:
        record = self.record(shard)
        if record is None:
            raise UserError(f"corpus '{self.path}' lacks shard {shard}; run its generate command again to go on")
        if not record["samples"]:
            raise UserError(f"'{record_name(shard)}' of '{self.path}' is damaged; brainloom synth repair mends it")
        return record

    def missing(self) -> list[int]:
        """Shards that have no whole record yet."""
        there = bytearray(self.header.shards)
        for name in self.storage.names(RECORDS):
            number, _, rest = name.partition(".")
            if rest == "json" and number.isdigit() and int(number) < len(there):
                there[int(number)] = 1
        return [shard for shard, made in enumerate(there) if not made]

    @property
    def complete(self) -> bool:
        """Whether every shard is made and the covariates are gathered."""
        return bool(self.attributes.get("complete"))

    def entries(self) -> Iterator[dict[str, Any]]:
        """Birth certificate of every sample, in order: index, params, covariates, affine, intensity, sha256."""
        for shard in range(self.header.shards):
            yield from self._sound(shard)["samples"]

    def entry(self, index: int) -> dict[str, Any]:
        """Birth certificate of one sample. Raises UserError outside 0 … N-1."""
        if not 0 <= index < len(self):
            raise UserError(f"there is no sample {index} in '{self.path}'; expected 0 to {len(self) - 1}")
        shard, place = divmod(index, self.header.shard_size)
        for found in self._cached_record(shard)["samples"][: place + 1][::-1]:
            if found["index"] == index:
                return dict(found)
        raise UserError(f"sample {index} of '{self.path}' was not made; run its generate command again")

    def versions(self, index: int) -> dict[str, str]:
        """Package → version that one sample was made with."""
        record = self._cached_record(index // self.header.shard_size)
        return dict(record.get("versions") or self.header.versions)

    def _cached_record(self, shard: int) -> dict[str, Any]:
        """The last record asked for is kept: samples are often read in a row."""
        held: tuple[int, dict[str, Any]] | None = self.__dict__.get("_last_record")
        if held is None or held[0] != shard:
            held = self.__dict__["_last_record"] = (shard, self._sound(shard))
        return held[1]

    def covariates(self) -> pd.DataFrame:
        """One row per sample: numbers as float, words as str, missing as NaN."""
        import pandas as pd

        return pd.DataFrame([entry["covariates"] for entry in self.entries()])

    def intensities(self) -> npt.NDArray[np.float32]:
        """``[N, C, 2]`` scale and offset of every sample's channels; 1 and 0 where images are stored as floats."""
        if not self.header.has_levels:
            return np.tile(np.array([1, 0], np.float32), (len(self), self.image_shape[0], 1))
        if self.complete:
            stored: Any = self.group["intensity"]
            return np.asarray(stored, np.float32)
        return np.array([entry["intensity"] for entry in self.entries()], np.float32)

    def sample(self, index: int) -> Sample:
        """One sample, read back as it was written."""
        entry = self.entry(index)
        image = as_intensities(self.stored(index), entry).astype(np.float32)
        return Sample(image, self.label(index), entry["covariates"], np.array(entry["affine"]))

    def identity(self) -> str:
        """sha256 of every sample's certificate: corpora with the same one hold the same voxels, params and
        covariates, whatever their shards, codec and history."""
        sealed = self._seal().get("identity") if self.complete else None
        return str(sealed) if sealed else identity_of(self.entries())

    def _seal(self) -> dict[str, Any]:
        try:
            seal: dict[str, Any] = json.loads(self.storage.read(SEAL))
        except (FileNotFoundError, ValueError):
            return {}
        return seal if seal.get("sha256") == record_digest(seal) else {}

    def parent(self) -> dict[str, Any]:
        """What weights write down about this corpus."""
        return {
            "kind": "corpus",
            "name": self.name,
            "identity": self.identity(),
            "count": len(self),
            "seed": self.header.seed,
            "fingerprint": self.header.fingerprint,
            "recipe": self.header.recipe,
            "parents": self.header.parents,
            "licences": self.attributes.get("licences", []),
        }


class Identity:
    """The running sum behind :meth:`Corpus.identity`."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, entry: Mapping[str, Any]) -> None:
        """The next sample's certificate."""
        self._digest.update(json.dumps(entry, sort_keys=True).encode())

    def hexdigest(self) -> str:
        """The identity of the samples added."""
        return self._digest.hexdigest()


def identity_of(entries: Iterator[Mapping[str, Any]]) -> str:
    """The identity of the samples with these certificates."""
    running = Identity()
    for entry in entries:
        running.add(entry)
    return running.hexdigest()
