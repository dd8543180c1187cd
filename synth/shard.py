"""One shard of one array as bytes: Zarr v3's ``sharding_indexed`` layout, written and read whole or in parts.

https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html: encoded chunks, then an index of
(offset, length) as little-endian uint64 a chunk in C order, then the index's CRC-32C. Any Zarr v3 reader reads it; this
one knows that a sample's chunks lie together, and puts their bytes straight where they are wanted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.storage import Buffer

CODECS = ("none", "zstd")
ZSTD_LEVEL = 1
ABSENT = 2**64 - 1  # offset and length of a chunk that was not written: all zeros
Bytes = npt.NDArray[np.uint8]
Box = tuple[slice, ...]


class DamagedShard(ValueError):  # noqa: N818  (it says what it is)
    """A shard file whose bytes cannot be what was written."""


@dataclass(frozen=True)
class Layout:
    """How the samples of one array lie in shard files.

    Attributes:
        sample_shape: of one sample.
        dtype: stored, little-endian.
        shard_size: samples a shard.
        chunk: voxels along every spatial axis (the last three) of an inner chunk; 0: the whole volume.
        codec: none or zstd.
    """

    sample_shape: tuple[int, ...]
    dtype: str
    shard_size: int
    chunk: int = 0
    codec: str = "zstd"

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The stored dtype."""
        return np.dtype(self.dtype).newbyteorder("<")

    @cached_property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of an inner chunk, without the sample axis."""
        if self.chunk == 0:
            return self.sample_shape
        lead = len(self.sample_shape) - 3
        return (*self.sample_shape[:lead], *(min(self.chunk, n) for n in self.sample_shape[lead:]))

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """Chunks along every axis of a sample."""
        return tuple(-(-n // c) for n, c in zip(self.sample_shape, self.chunk_shape, strict=True))

    @cached_property
    def chunks_per_sample(self) -> int:
        """Chunks of one sample."""
        return int(np.prod(self.grid))

    @cached_property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk before the codec."""
        return int(np.prod(self.chunk_shape)) * self.numpy_dtype.itemsize

    @cached_property
    def sample_bytes(self) -> int:
        """Bytes of a sample before the codec."""
        return int(np.prod(self.sample_shape)) * self.numpy_dtype.itemsize

    @property
    def index_bytes(self) -> int:
        """Bytes of the index at the end of a shard file."""
        return 16 * self.chunks_per_sample * self.shard_size + 4

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """Zarr's shard shape: whole chunks that cover ``shard_size`` samples."""
        return (self.shard_size, *(n * c for n, c in zip(self.grid, self.chunk_shape, strict=True)))

    def file(self, array: str, shard: int) -> str:
        """Name of a shard's file in the corpus (chunk keys are separated by dots)."""
        return f"{array}/c.{shard}" + ".0" * len(self.sample_shape)

    def boxes(self) -> Iterator[Box]:
        """Where every chunk of a sample lies in it, in the order of the index."""
        for place in itertools.product(*(range(n) for n in self.grid)):
            yield tuple(
                slice(p * c, min((p + 1) * c, n))
                for p, c, n in zip(place, self.chunk_shape, self.sample_shape, strict=True)
            )

    def encode(self, sample: npt.NDArray[Any]) -> list[bytes]:
        """The encoded chunks of one sample; what reaches over its edge is zero."""
        sample = np.ascontiguousarray(sample, self.numpy_dtype)
        if self.chunks_per_sample == 1 and self.chunk_shape == self.sample_shape:
            return [compressed(sample, self.codec)]
        encoded = []
        for box in self.boxes():
            part = sample[box]
            if part.shape != self.chunk_shape:
                padded = np.zeros(self.chunk_shape, self.numpy_dtype)
                padded[tuple(slice(n) for n in part.shape)] = part
                part = padded
            encoded.append(compressed(np.ascontiguousarray(part), self.codec))
        return encoded

    def decode(self, chunks: Sequence[Buffer | None], out: npt.NDArray[Any], scratch: Bytes | None = None) -> None:
        """Fill ``out [sample_shape]`` (C order) from a sample's encoded chunks; absent ones are zeros.

        Raises:
            DamagedShard: bytes that do not decode to a chunk.
        """
        if self.chunks_per_sample == 1 and self.chunk_shape == self.sample_shape:
            decompress(chunks[0], out.reshape(-1).view(np.uint8), self.codec)
            return
        block = np.empty(self.chunk_bytes, np.uint8) if scratch is None else scratch[: self.chunk_bytes]
        for box, chunk in zip(self.boxes(), chunks, strict=True):
            decompress(chunk, block, self.codec)
            whole = block.view(self.numpy_dtype).reshape(self.chunk_shape)
            out[box] = whole[tuple(slice(s.stop - s.start) for s in box)]


def compressed(array: npt.NDArray[Any], codec: str) -> bytes:
    """The bytes of a contiguous array through the codec."""
    if codec == "none":
        return array.tobytes()
    from numcodecs.zstd import compress

    return bytes(compress(array.reshape(-1).view(np.uint8), ZSTD_LEVEL))


def decompress(chunk: Buffer | None, out: Bytes, codec: str) -> None:
    """Decode a chunk into ``out``, of exactly its size; zeros for an absent one. Other threads run meanwhile."""
    if chunk is None:
        out[:] = 0
        return
    if codec == "none":
        if len(chunk) != len(out):
            raise DamagedShard(f"a chunk has {len(chunk)} bytes; expected {len(out)}")
        out[:] = np.frombuffer(chunk, np.uint8)
        return
    from numcodecs.zstd import decompress as unpack

    try:
        unpack(chunk, out)
    except (RuntimeError, ValueError) as error:
        raise DamagedShard(f"a chunk does not decompress ({error})") from error


def crc32c(*parts: Buffer) -> int:
    """CRC-32C (Castagnoli) of the parts, one after the other."""
    import google_crc32c

    value = 0
    for part in parts:
        value = google_crc32c.extend(value, bytes(part) if isinstance(part, memoryview | bytearray) else part)
    return int(value)


def shard_parts(layout: Layout, samples: Mapping[int, Sequence[bytes]]) -> list[bytes]:
    """The parts of a shard file: encoded chunks of the samples by their place in the shard, then the index."""
    index = np.full((layout.shard_size, layout.chunks_per_sample, 2), ABSENT, "<u8")
    parts, at = [], 0
    for place in sorted(samples):
        for number, chunk in enumerate(samples[place]):
            index[place, number] = at, len(chunk)
            parts.append(chunk)
            at += len(chunk)
    table = index.tobytes()
    return [*parts, table, crc32c(table).to_bytes(4, "little")]


def parse_index(layout: Layout, tail: bytes, size: int) -> npt.NDArray[np.int64]:
    """``[shard_size, chunks, 2]`` offset and length of every chunk, -1 where it is absent.

    Args:
        tail: the last ``layout.index_bytes`` of the file.
        size: bytes of the file.

    Raises:
        DamagedShard: too short, a checksum that does not fit, or chunks outside the file.
    """
    if len(tail) != layout.index_bytes:
        raise DamagedShard(f"the file has {size} bytes; its index alone takes {layout.index_bytes}")
    table, checksum = tail[:-4], int.from_bytes(tail[-4:], "little")
    if crc32c(table) != checksum:
        raise DamagedShard("the index does not fit its checksum")
    index = np.frombuffer(table, "<u8").reshape(layout.shard_size, layout.chunks_per_sample, 2)
    absent = index[..., 0] == ABSENT
    places = np.where(absent[..., None], 0, index)
    if (places[..., 0] > size).any() or (places.sum(-1) > size - layout.index_bytes).any():
        raise DamagedShard("the index points outside the file")
    return np.where(absent[..., None], -1, places.astype(np.int64))
