"""Samples out of shard files: indices and open files are kept, bytes go straight into the array that wants them."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.shard import Box, DamagedShard, Layout, decompress, parse_index
from synth.storage import Buffer, LocalStorage, Storage

MOST_OPEN = 256  # shard files


class _Open:
    """One shard file: its index and, where it is local, a descriptor that closes with it."""

    def __init__(self, storage: Storage, name: str, layout: Layout) -> None:
        self.storage, self.name = storage, name
        self.descriptor = -1
        if isinstance(storage, LocalStorage) and hasattr(os, "preadv"):  # Windows has none: whole reads there
            self.descriptor = os.open(storage.path(name), os.O_RDONLY)
            size = os.fstat(self.descriptor).st_size
        else:
            size = storage.size(name)
        start = max(0, size - layout.index_bytes)
        self.index = parse_index(layout, self.read(start, size - start), size)

    def read(self, start: int, length: int) -> bytes:
        """Bytes of the file."""
        if self.descriptor >= 0:
            return os.pread(self.descriptor, length, start)
        return self.storage.read_range(self.name, start, length)

    def read_into(self, start: int, out: npt.NDArray[np.uint8]) -> None:
        """Fill ``out`` from the file's bytes at ``start``."""
        if self.descriptor < 0:
            out[:] = np.frombuffer(self.read(start, len(out)), np.uint8)
            return
        whole: Any = out
        done = os.preadv(self.descriptor, [whole], start)
        while done < len(out):
            more = os.preadv(self.descriptor, [whole[done:]], start + done)
            if not more:
                raise DamagedShard(f"'{self.name}' ends too early")
            done += more

    def __del__(self) -> None:
        if getattr(self, "descriptor", -1) >= 0:
            os.close(self.descriptor)


class ShardReader:
    """Samples of one array of a corpus, by number. Safe to share between threads, not between processes."""

    def __init__(self, storage: Storage, array: str, layout: Layout) -> None:
        self.storage, self.array, self.layout = storage, array, layout
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._lock = threading.Lock()
        self._own = threading.local()
        self._whole = layout.chunk_shape == layout.sample_shape

    def file(self, shard: int) -> _Open:
        """The open file of a shard.

        Raises:
            DamagedShard: no such file, or an index that cannot be right.
        """
        with self._lock:
            found = self._open.get(shard)
            if found is not None:
                self._open.move_to_end(shard)
                return found
        name = self.layout.file(self.array, shard)
        try:
            found = _Open(self.storage, name, self.layout)
        except FileNotFoundError as error:
            raise DamagedShard(f"there is no file '{name}'") from error
        with self._lock:
            self._open[shard] = found
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        return found

    def forget(self, shard: int) -> None:
        """Open the shard's file anew next time."""
        with self._lock:
            self._open.pop(shard, None)

    def chunks(self, index: int) -> list[bytes | None]:
        """The encoded chunks of a sample; None for absent ones."""
        shard, place = divmod(index, self.layout.shard_size)
        file = self.file(shard)
        return [None if at < 0 else file.read(int(at), int(length)) for at, length in file.index[place]]

    def read(self, index: int) -> npt.NDArray[Any]:
        """A sample ``[sample_shape]`` in the stored dtype."""
        out = np.empty(self.layout.sample_shape, self.layout.numpy_dtype)
        self.read_into(index, out)
        return out

    def read_into(self, index: int, out: npt.NDArray[Any]) -> None:
        """Fill ``out [sample_shape]`` (C order, stored dtype) with a sample.

        Raises:
            DamagedShard: bytes that are not there or do not decode.
        """
        if not self._whole:
            self.layout.decode(self.chunks(index), out, self._scratch(self.layout.chunk_bytes))
            return
        shard, place = divmod(index, self.layout.shard_size)
        file = self.file(shard)
        at, length = (int(value) for value in file.index[place, 0])
        flat = out.reshape(-1).view(np.uint8)
        if at < 0:
            flat[:] = 0
        elif self.layout.codec == "none":
            if length != len(flat):
                raise DamagedShard(f"a chunk of shard {shard} has {length} bytes; expected {len(flat)}")
            file.read_into(at, flat)
        else:
            decompress(self._encoded(file, at, length), flat, self.layout.codec)

    def read_box_into(self, index: int, box: Box, out: npt.NDArray[Any]) -> None:
        """Fill ``out`` with a box of a sample. Only chunks that the box meets are read; of uncompressed whole volumes
        only the planes along the first spatial axis."""
        if self._whole and self.layout.codec != "none":
            whole = self._scratch(self.layout.sample_bytes).view(self.layout.numpy_dtype)
            whole = whole.reshape(self.layout.sample_shape)
            self.read_into(index, whole)
            out[...] = whole[box]
        elif self._whole:
            self._planes(index, box, out)
        else:
            self._blocks(index, box, out)

    def _planes(self, index: int, box: Box, out: npt.NDArray[Any]) -> None:
        """Per channel, the planes of an uncompressed volume between the box's first and last."""
        layout = self.layout
        shard, place = divmod(index, layout.shard_size)
        file = self.file(shard)
        start = int(file.index[place, 0, 0])
        if start < 0:
            out[...] = 0
            return
        lead, (planes, rows, columns) = layout.sample_shape[:-3], layout.sample_shape[-3:]
        plane = rows * columns * layout.numpy_dtype.itemsize
        first, last = box[-3].start, box[-3].stop
        block = self._scratch((last - first) * plane)
        for at, channel in enumerate(np.ndindex(*lead)):
            file.read_into(start + (at * planes + first) * plane, block)
            read = block.view(layout.numpy_dtype).reshape(last - first, rows, columns)
            out[channel] = read[(slice(None), *box[-2:])]

    def _blocks(self, index: int, box: Box, out: npt.NDArray[Any]) -> None:
        layout = self.layout
        shard, place = divmod(index, layout.shard_size)
        file = self.file(shard)
        block = self._scratch(layout.chunk_bytes)
        for number, own in enumerate(layout.boxes()):
            low = [max(a.start, b.start) for a, b in zip(own, box, strict=True)]
            high = [min(a.stop, b.stop) for a, b in zip(own, box, strict=True)]
            if any(a >= b for a, b in zip(low, high, strict=True)):
                continue
            at, length = (int(value) for value in file.index[place, number])
            decompress(None if at < 0 else self._encoded(file, at, length), block, layout.codec)
            chunk = block.view(layout.numpy_dtype).reshape(layout.chunk_shape)
            there = tuple(slice(a - b.start, c - b.start) for a, b, c in zip(low, box, high, strict=True))
            here = tuple(slice(a - b.start, c - b.start) for a, b, c in zip(low, own, high, strict=True))
            out[there] = chunk[here]

    def _encoded(self, file: _Open, at: int, length: int) -> npt.NDArray[np.uint8]:
        """Encoded bytes, in memory of this thread's own."""
        encoded = self._scratch(length, "encoded")
        file.read_into(at, encoded)
        return encoded

    def _scratch(self, size: int, use: str = "decoded") -> npt.NDArray[np.uint8]:
        """Bytes of this thread's own, kept for next time."""
        held: npt.NDArray[np.uint8] | None = getattr(self._own, use, None)
        if held is None or len(held) < size:
            held = np.empty(size, np.uint8)
            setattr(self._own, use, held)
        return held[:size]


def whole_file(storage: Storage, name: str) -> Buffer:
    """All bytes of a file, for checksums; a memory map where it is local."""
    if isinstance(storage, LocalStorage):
        path: Path = storage.path(name)
        mapped: Any = np.memmap(path, np.uint8, "r") if path.stat().st_size else b""
        return memoryview(mapped)
    return storage.read(name)
