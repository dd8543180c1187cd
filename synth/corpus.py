"""Corpus: a Zarr v3 group of N samples in shards, with the birth certificate of every one. Format: docs/corpus.md."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from synth.errors import UserError
from synth.sample import Sample

if TYPE_CHECKING:
    import pandas as pd
    import zarr

FORMAT, FORMAT_VERSION = "brainloom-corpus", 1
RECORDS = "records"
SPATIAL = ("x", "y", "z")  # left→right, posterior→anterior, inferior→superior
DTYPES = {"float16": np.float16, "float32": np.float32}


@dataclass(frozen=True)
class Header:
    """What a corpus is, known before its first voxel: the group's attributes."""

    recipe: dict[str, Any]
    fingerprint: str
    seed: int
    count: int
    shard_size: int
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

    def attributes(self) -> dict[str, Any]:
        """The group's attributes as JSON values."""
        licences = sorted({str(parent["licence"]) for parent in self.parents if parent.get("licence")})
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **self.__dict__,
            "licences": licences,
            "orientation": "RAS+",
            "complete": False,
        }


def create(path: Path, header: Header, example: Sample, dtype: str) -> None:
    """Make an empty corpus of ``header.count`` samples shaped like ``example``; it appears whole or not at all."""
    import zarr

    _check_names(example)
    temporary = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        group = zarr.create_group(temporary, attributes=header.attributes())
        _array(group, "image", header, example.image.shape, DTYPES[dtype], ("sample", "channel", *SPATIAL))
        if example.label is not None:
            _array(group, "label", header, example.label.shape, np.int16, ("sample", *SPATIAL))
        (temporary / RECORDS).mkdir()
        temporary.rename(path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"cannot write corpus '{path}' ({error.strerror or error}); choose a folder you may write"
        ) from error


def _array(
    group: zarr.Group, name: str, header: Header, shape: tuple[int, ...], dtype: Any, names: tuple[str, ...]
) -> None:
    """One sharded array: a chunk is one whole volume, a shard ``shard_size`` of them."""
    group.create_array(
        name,
        shape=(header.count, *shape),
        dtype=dtype,
        chunks=(1, *shape),
        shards=(header.shard_size, *shape),
        dimension_names=names,
        fill_value=0,
    )


def checksum(*arrays: npt.NDArray[Any] | None) -> str:
    """sha256 of arrays' dtypes, shapes and little-endian bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        if array is not None:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def write_shard(
    path: Path, shard: int, params: Sequence[Mapping[str, Any]], samples: Sequence[Sample]
) -> dict[str, Any]:
    """Voxels first, then the record: from then on the shard exists. Returns the record.

    Raises:
        ValueError: a sample of another shape than the corpus, a label outside int16, an image outside its dtype.
    """
    import zarr

    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    header = header_of(group)
    image_array = group["image"]
    assert isinstance(image_array, zarr.Array)
    indices = header.indices(shard)
    image = np.empty((len(samples), *image_array.shape[1:]), image_array.dtype)
    label = np.empty((len(samples), *image.shape[2:]), np.int16) if "label" in group else None
    entries = []
    for at, (index, sample) in enumerate(zip(indices, samples, strict=True)):
        _fill(image, label, at, index, sample)
        entries.append(
            {
                "index": index,
                "params": params[at],
                "covariates": dict(sample.covariates),
                "affine": sample.affine.tolist(),
                "sha256": checksum(image[at], None if label is None else label[at]),
            }
        )
    for name in ("image", "label"):  # what a crash left is not read, it is replaced
        shutil.rmtree(path / name / "c" / str(shard), ignore_errors=True)
    image_array[indices.start : indices.stop] = image
    if label is not None:
        group["label"][indices.start : indices.stop] = label  # type: ignore[index]
    record: dict[str, Any] = {
        "shard": shard,
        "fingerprint": header.fingerprint,
        "seed": header.seed,
        "samples": entries,
    }
    record["sha256"] = _digest(record)
    write_atomically(record_path(path, shard), json.dumps(record, indent=0))
    return record


RESERVED = ("image", "label", "affine", RECORDS)


def _check_names(sample: Sample) -> None:
    for name in sample.covariates:
        if not name.isidentifier() or name in RESERVED:
            raise UserError(
                f"covariate '{name}' cannot be an array of a corpus; expected letters, digits and _, and none of "
                + ", ".join(RESERVED)
            )


def _fill(image: npt.NDArray[Any], label: npt.NDArray[np.int16] | None, at: int, index: int, sample: Sample) -> None:
    if sample.image.shape != image.shape[1:]:
        raise ValueError(
            f"sample {index} has shape {sample.image.shape}, the corpus {image.shape[1:]}; all must be equal"
        )
    if (sample.label is None) != (label is None):
        raise ValueError(
            f"sample {index} {'lacks' if sample.label is None else 'has'} a label map, unlike the first sample"
        )
    _check_names(sample)
    with np.errstate(over="ignore"):
        image[at] = sample.image
    if not np.isfinite(image[at]).all():
        raise ValueError(
            f"sample {index} holds values outside {image.dtype}; scale the image or choose --dtype float32"
        )
    if label is not None and sample.label is not None:
        if sample.label.min() < -32768 or sample.label.max() > 32767:
            raise ValueError(f"sample {index} holds label {sample.label.max()}; labels must fit int16")
        label[at] = sample.label


def _digest(record: Mapping[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def record_path(path: Path, shard: int) -> Path:
    """Where the record of a shard lies."""
    return path / RECORDS / f"{shard:08d}.json"


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a crash leaves the old one or the new one, never a half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def header_of(group: zarr.Group) -> Header:
    """The header kept in a corpus's attributes."""
    attributes = group.attrs.asdict()
    return Header(**{name: attributes[name] for name in Header.__dataclass_fields__})  # type: ignore[arg-type]


def finish(path: Path) -> None:
    """When every shard has its record: covariates and affines as arrays, ``complete`` and consolidated metadata."""
    import zarr

    corpus = Corpus(path)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    entries = list(corpus.entries())
    for name in sorted({name for entry in entries for name in entry["covariates"]}):
        values = [entry["covariates"].get(name) for entry in entries]
        _write_covariate(group, name, values)
    affines = np.array([entry["affine"] for entry in entries])
    array = group.create_array("affine", data=affines, dimension_names=("sample", "row", "column"), overwrite=True)
    array.attrs["long_name"] = "voxel index to mm, RAS+"
    common = affines[0].tolist() if (affines == affines[0]).all() else None
    group.attrs.update({"affine": common, "complete": True})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata is not in the v3 text yet; xarray and zarr read it
        zarr.consolidate_metadata(group.store)


def _write_covariate(group: zarr.Group, name: str, values: Sequence[float | str | None]) -> None:
    """Numbers as float64 (missing: NaN); words as int16 codes with CF flag_values / flag_meanings (missing: -1)."""
    words = sorted({value for value in values if isinstance(value, str)})
    if words and any(isinstance(value, float) for value in values):
        raise UserError(
            f"covariate '{name}' is a word in some samples and a number in others; expected always one of them"
        )
    if words:
        data: npt.NDArray[Any] = np.array([words.index(str(v)) if v is not None else -1 for v in values], np.int16)
    else:
        data = np.array([np.nan if v is None else v for v in values], np.float64)
    array = group.create_array(f"{name}", data=data, chunks=data.shape, dimension_names=("sample",), overwrite=True)
    if words:
        array.attrs.update(
            {
                "categories": words,
                "flag_values": list(range(len(words))),
                "flag_meanings": " ".join(word.replace(" ", "_") for word in words),
            }
        )
    elif name.startswith("volume_"):
        array.attrs["units"] = "mm3"
    elif name == "age":
        array.attrs["units"] = "years"


class Corpus:
    """A corpus on disk, read-only.

    Raises:
        UserError: no such folder, not a corpus, or one of a newer format.
    """

    def __init__(self, path: Path | str) -> None:
        import zarr

        self.path = Path(path)
        if not self.path.is_dir():
            raise UserError(f"there is no corpus '{path}'; expected a folder made by brainloom synth generate")
        try:
            self.group = zarr.open_group(self.path, mode="r", use_consolidated=False)
            self.header = header_of(self.group)
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise UserError(
                f"'{path}' is not a brainloom corpus; expected a folder made by brainloom synth generate"
            ) from error
        version = self.group.attrs["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(
                f"corpus '{path}' has format version {version}; this brainloom reads version {FORMAT_VERSION}"
            )

    def __len__(self) -> int:
        return self.header.count

    @cached_property
    def _image(self) -> Any:
        return self.group["image"]

    @cached_property
    def _label(self) -> Any:
        return self.group.get("label")

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """[C, D, H, W] of every image."""
        c, d, h, w = self._image.shape[1:]
        return c, d, h, w

    @property
    def has_labels(self) -> bool:
        """Whether samples carry label maps."""
        return self._label is not None

    def image(self, index: int) -> npt.NDArray[Any]:
        """Image ``[C, D, H, W]`` of one sample in the stored dtype."""
        return np.asarray(self._image[index])

    def label(self, index: int) -> npt.NDArray[np.int16] | None:
        """Label map ``[D, H, W]`` of one sample, or None."""
        return None if self._label is None else np.asarray(self._label[index])

    def record(self, shard: int) -> dict[str, Any] | None:
        """The record of one shard, or None while the shard is not made."""
        path = record_path(self.path, shard)
        if not path.exists():
            return None
        try:
            record: dict[str, Any] = json.loads(path.read_text())
            if len(record["samples"]) == len(self.header.indices(shard)):
                return record
        except (ValueError, UnicodeDecodeError, TypeError, KeyError):
            pass
        return {"shard": shard, "sha256": "damaged", "samples": []}

    def _sound(self, shard: int) -> dict[str, Any]:
        record = self.record(shard)
        if record is None:
            raise UserError(f"corpus '{self.path}' lacks shard {shard}; run its generate command again to go on")
        if not record["samples"]:
            raise UserError(
                f"'{record_path(self.path, shard)}' is damaged; delete it and run the corpus's generate command again"
            )
        return record

    def missing(self) -> list[int]:
        """Shards that have no record yet."""
        return [shard for shard in range(self.header.shards) if not record_path(self.path, shard).exists()]

    @property
    def complete(self) -> bool:
        """Whether every shard is made and the covariates are gathered."""
        return bool(self.group.attrs.get("complete"))

    def entries(self) -> Iterator[dict[str, Any]]:
        """Birth certificate of every sample, in order: index, params, covariates, affine, sha256."""
        for shard in range(self.header.shards):
            yield from self._sound(shard)["samples"]

    def entry(self, index: int) -> dict[str, Any]:
        """Birth certificate of one sample. Raises UserError outside 0 … N-1."""
        if not 0 <= index < len(self):
            raise UserError(f"there is no sample {index} in '{self.path}'; expected 0 to {len(self) - 1}")
        found: dict[str, Any] = self._sound(index // self.header.shard_size)["samples"][index % self.header.shard_size]
        return found

    def covariates(self) -> pd.DataFrame:
        """One row per sample: numbers as float, words as str, missing as NaN."""
        import pandas as pd

        return pd.DataFrame([entry["covariates"] for entry in self.entries()])

    def sample(self, index: int) -> Sample:
        """One sample, read back as it was written."""
        entry = self.entry(index)
        return Sample(
            self.image(index).astype(np.float32), self.label(index), entry["covariates"], np.array(entry["affine"])
        )

    def identity(self) -> str:
        """sha256 of every record: two corpora with the same one hold the same voxels, params and covariates."""
        digest = hashlib.sha256()
        for entry in self.entries():
            digest.update(json.dumps(entry, sort_keys=True).encode())
        return digest.hexdigest()

    def parent(self) -> dict[str, Any]:
        """What weights write down about this corpus."""
        return {
            "kind": "corpus",
            "name": self.path.name,
            "identity": self.identity(),
            "count": len(self),
            "seed": self.header.seed,
            "fingerprint": self.header.fingerprint,
            "recipe": self.header.recipe,
            "parents": self.header.parents,
            "licences": self.group.attrs.get("licences", []),
        }


def verify(corpus: Corpus) -> Iterator[tuple[int, list[str]]]:
    """Check shard after shard; yields (shard, problems), no problems meaning that every bit is as recorded."""
    for shard in range(corpus.header.shards):
        yield shard, _verify_shard(corpus, shard)
    if corpus.complete:
        yield corpus.header.shards, _verify_covariates(corpus)
    else:
        yield corpus.header.shards, ["the corpus is not complete; run its generate command again to go on"]


def _verify_shard(corpus: Corpus, shard: int) -> list[str]:
    record = corpus.record(shard)
    if record is None:
        return [f"shard {shard} has no record"]
    if record.get("sha256") != _digest(record):
        return [f"the record of shard {shard} was changed"]
    problems = []
    if (record["fingerprint"], record["seed"]) != (corpus.header.fingerprint, corpus.header.seed):
        problems.append(f"the record of shard {shard} belongs to another corpus")
    if [entry["index"] for entry in record["samples"]] != list(corpus.header.indices(shard)):
        problems.append(f"the record of shard {shard} lists other samples than its own")
    for entry in record["samples"]:
        try:
            found = checksum(corpus.image(entry["index"]), corpus.label(entry["index"]))
        except Exception as error:
            found = f"unreadable: {' '.join(str(error).split())[:80]}"
        if found != entry["sha256"]:
            problems.append(f"sample {entry['index']}: voxels are not as recorded ({found[:60]})")
    return problems


def _verify_covariates(corpus: Corpus) -> list[str]:
    problems: list[str] = []
    try:
        entries = list(corpus.entries())
    except UserError:
        return problems  # the shard's own problem, told with the shard
    affines = np.array([entry["affine"] for entry in entries])
    try:
        if not np.array_equal(np.asarray(corpus.group["affine"]), affines):
            problems.append("the array 'affine' is not as recorded")
    except Exception:
        problems.append("the array 'affine' cannot be read")
    for name in sorted({name for entry in entries for name in entry["covariates"]}):
        recorded = [entry["covariates"].get(name) for entry in entries]
        try:
            array: Any = corpus.group[name]
            words = array.attrs.get("categories")
            stored = [words[int(v)] if v >= 0 else None for v in array[:]] if words else list(array[:])
        except Exception:
            problems.append(f"covariate '{name}' cannot be read")
            continue
        same = all(a == b or (a is None and (b is None or b != b)) for a, b in zip(recorded, stored, strict=True))
        if not same:
            problems.append(f"covariate '{name}' is not as recorded")
    return problems
