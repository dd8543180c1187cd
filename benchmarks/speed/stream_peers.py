"""The same volumes into batches by other packages, each set up for speed as its documentation says, with two threads.

All give ``[16, 1, D, H, W]`` uint8 in a shuffled order and read from files that lie in the page cache.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.speed.cold import Cold
from benchmarks.speed.stream_data import BATCH, VOLUMES, Order, batches, check_same, corners, raw_of

THREADS = 2
CACHED = 2 * BATCH  # volumes that would fit tensorstore's cache: with less, reads at once push the indices out
Batch = npt.NDArray[np.uint8]

TENSORSTORE = "buffer[k] = array[i].read().result(), a volume after the other; its defaults but for the threads"
TENSORSTORE_KEPT = (
    "a volume after the other, straight into the buffer; shard indices kept (cache_pool), no revalidation"
)
TENSORSTORE_BEST = "16 reads at once, straight into the buffer; shard indices kept (cache_pool), no revalidation"
ZARR = "buffer[k] = array[i] by two threads"
ZARRS = "buffer[k] = array[i] by two threads, codec pipeline zarrs"
MEMORY_MAP = "numpy.take of a memory map into the buffer, one thread"


class Reading:
    """An epoch of batches, each read into the next of the buffers.

    Args:
        folder: of the volumes, see :class:`benchmarks.speed.stream_data.Data`.
        volumes: a call reads.
    """

    def __init__(self, folder: str, volumes: int = VOLUMES, form: str = "none") -> None:
        self.folder, self.volumes_per_call = Path(folder), volumes
        self.raw = raw_of(self.folder, form)
        shape = np.load(self.raw, mmap_mode="r").shape[1:]
        self.buffers = [np.zeros((BATCH, *shape), np.uint8) for _ in range(4)]
        self.pool = ThreadPoolExecutor(THREADS)

    def read(self, numbers: Order, buffer: Batch) -> None:
        """Fill the buffer with the volumes of these numbers."""
        list(self.pool.map(lambda k: self.one(int(numbers[k]), buffer[k]), range(len(numbers))))

    def one(self, number: int, out: Batch) -> None:
        """Fill ``out`` with one volume."""
        raise TypeError(f"{type(self).__name__} reads no single volume")

    def checked(self) -> Any:
        """This, after a look at a batch of it."""
        check_same(self.read, self.raw)
        return self

    def __call__(self, epoch: int) -> None:
        for at, numbers in enumerate(batches(epoch, VOLUMES)):
            if at * BATCH < self.volumes_per_call:
                self.read(numbers, self.buffers[at % len(self.buffers)])


class MemoryMap(Reading):
    """numpy."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.volumes = np.load(self.raw, mmap_mode="r")

    def read(self, numbers: Order, buffer: Batch) -> None:
        np.take(self.volumes, numbers, axis=0, out=buffer, mode="clip")  # "raise" would go through a copy


def opened(place: Path, kept: bool) -> Any:
    """The image array of a corpus as tensorstore sees it; ``kept``: with a cache for the shards' indices."""
    import tensorstore

    limits: dict[str, Any] = {name: {"limit": THREADS} for name in ("data_copy_concurrency", "file_io_concurrency")}
    spec: dict[str, Any] = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(place / "image")}}
    if kept:
        size = int(np.prod(np.load(place.parent / "raw.npy", mmap_mode="r").shape[1:]))
        limits["cache_pool"] = {"total_bytes_limit": CACHED * size}
        spec |= {"recheck_cached_data": "open", "recheck_cached_metadata": "open"}
    return tensorstore.open(spec, context=tensorstore.Context(limits), read=True, open=True).result()


class TensorStore(Reading):
    """tensorstore; ``how`` it reads a batch: plain, kept or at once (see the rows' words)."""

    def __init__(self, folder: str, form: str, how: str) -> None:
        super().__init__(folder, form=form)
        self.array, self.how = opened(self.folder / f"{form}.zarr", kept=how != "plain"), how

    def read(self, numbers: Order, buffer: Batch) -> None:
        import tensorstore

        if self.how == "plain":
            for k, i in enumerate(numbers):
                buffer[k] = self.array[int(i)].read().result()
            return
        target, waiting = tensorstore.array(buffer), []
        for k, i in enumerate(numbers):
            waiting.append(target[k].write(self.array[int(i)]))
            if self.how == "kept":
                waiting.pop().result()
        for copied in waiting:
            copied.result()


class TensorStoreCrops(Reading):
    """tensorstore, random crops of a layout with blocks, all of a batch at once."""

    def __init__(self, folder: str, crop: int) -> None:
        super().__init__(folder)
        self.array, self.crop = opened(self.folder / "blocks.zarr", kept=True), crop
        self.crops = [np.zeros((BATCH, 1, crop, crop, crop), np.uint8) for _ in range(4)]

    def __call__(self, epoch: int) -> None:
        import tensorstore

        first = corners(epoch, VOLUMES, self.array.shape[-1], self.crop)
        for at, numbers in enumerate(batches(epoch, VOLUMES)):
            target = tensorstore.array(self.crops[at % 4])
            waiting = []
            for k, i in enumerate(numbers):
                box = tuple(slice(a, a + self.crop) for a in first[i].tolist())
                waiting.append(target[k].write(self.array[(int(i), slice(None), *box)].translate_to[0, 0, 0, 0]))
            for copied in waiting:
                copied.result()


class ZarrPython(Reading):
    """zarr-python, with its own codecs or with zarrs."""

    def __init__(self, folder: str, form: str, zarrs: bool) -> None:
        import zarr

        super().__init__(folder, form=form)
        if zarrs:
            import zarrs as _  # noqa: F401  (skips the row where it is not installed)

            zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
        zarr.config.set({"threading.max_workers": THREADS})
        self.array: Any = zarr.open_array(self.folder / f"{form}.zarr" / "image", mode="r")

    def one(self, number: int, out: Batch) -> None:
        out[...] = self.array[number]


def memory_map(folder: str) -> Any:
    """Maker."""
    return MemoryMap(folder).checked()


def tensorstore(folder: str, form: str, how: str) -> Any:
    """Maker."""
    return TensorStore(folder, form, how).checked()


def zarr_python(folder: str, form: str, zarrs: bool = False) -> Any:
    """Maker."""
    return ZarrPython(folder, form, zarrs).checked()


def tensorstore_cold(folder: str, form: str) -> Cold:
    """Maker: tensorstore, from the disk."""
    return Cold(lambda: TensorStore(folder, form, "at once"), Path(folder) / f"{form}.zarr" / "image")
