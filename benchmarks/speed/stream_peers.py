"""The same volumes into batches by other packages, each set up for speed as its documentation says, with two threads.

All give ``[16, 1, D, H, W]`` uint8 in a shuffled order and read from files that lie in the page cache.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.speed.cold import Cold
from benchmarks.speed.stream_data import BATCH, VOLUMES, Order, batches, check_same, corners

THREADS = 2
INDEX_CACHE = 2**20  # bytes: holds the shards' indices, no volume
SLOW = 2 * BATCH  # volumes a call of rows that take long
Batch = npt.NDArray[np.uint8]

TENSORSTORE = "buffer[k] = array[i].read().result(), a volume after the other; its defaults but for the threads"
TENSORSTORE_BEST = "16 reads at once, straight into the buffer; shard indices kept (cache_pool 1 MiB), no revalidation"
ZARR = "buffer[k] = array[i] by two threads"
ZARRS = "buffer[k] = array[i] by two threads, codec pipeline zarrs"
MEMORY_MAP = "numpy.take of a memory map into the buffer, one thread"
NIBABEL = "numpy.asarray(image.dataobj) of .nii.gz by two threads"
MONAI_CACHE = "CacheDataset, everything in memory, uint8; its DataLoader, num_workers=0 (its process has the volumes twice otherwise)"
MONAI_PERSISTENT = "PersistentDataset (a .pt file a volume), uint8; ThreadDataLoader, num_workers=0"
WEBDATASET = "tar shards of 16 .npy, shuffled by shard and 32 volumes, in this process"
LITDATA = "chunks of 16 volumes, StreamingDataLoader, shuffled, num_workers=0"


class Reading:
    """An epoch of batches, each read into the next of the buffers.

    Args:
        folder: of the volumes, see :class:`benchmarks.speed.stream_data.Data`.
        volumes: a call reads.
    """

    def __init__(self, folder: str, volumes: int = VOLUMES) -> None:
        self.folder, self.volumes_per_call = Path(folder), volumes
        self.raw = self.folder / "raw.npy"
        shape = np.load(self.raw, mmap_mode="r").shape[1:]
        self.buffers = [np.zeros((BATCH, *shape), np.uint8) for _ in range(4)]
        self.pool = ThreadPoolExecutor(THREADS)

    def read(self, numbers: Order, buffer: Batch) -> None:
        """Fill the buffer with the volumes of these numbers."""
        list(self.pool.map(lambda k: self.one(int(numbers[k]), buffer[k]), range(len(numbers))))

    def one(self, number: int, out: Batch) -> None:
        """Fill ``out`` with one volume."""
        raise NotImplementedError

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


def opened(place: Path, best: bool) -> Any:
    """The image array of a corpus as tensorstore sees it."""
    import tensorstore

    limits: dict[str, Any] = {name: {"limit": THREADS} for name in ("data_copy_concurrency", "file_io_concurrency")}
    spec: dict[str, Any] = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(place / "image")}}
    if best:
        limits["cache_pool"] = {"total_bytes_limit": INDEX_CACHE}
        spec |= {"recheck_cached_data": "open", "recheck_cached_metadata": "open"}
    return tensorstore.open(spec, context=tensorstore.Context(limits), read=True, open=True).result()


class TensorStore(Reading):
    """tensorstore, one volume after the other or all of a batch at once."""

    def __init__(self, folder: str, form: str, best: bool) -> None:
        super().__init__(folder)
        self.array, self.best = opened(self.folder / f"{form}.zarr", best), best

    def read(self, numbers: Order, buffer: Batch) -> None:
        import tensorstore

        if not self.best:
            for k, i in enumerate(numbers):
                buffer[k] = self.array[int(i)].read().result()
            return
        target = tensorstore.array(buffer)
        for copied in [target[k].write(self.array[int(i)]) for k, i in enumerate(numbers)]:
            copied.result()


class TensorStoreCrops(Reading):
    """tensorstore, random crops of a layout with blocks, all of a batch at once."""

    def __init__(self, folder: str, crop: int) -> None:
        super().__init__(folder)
        self.array, self.crop = opened(self.folder / "blocks.zarr", best=True), crop
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

        super().__init__(folder)
        if zarrs:
            import zarrs as _  # noqa: F401  (skips the row where it is not installed)

            zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
        zarr.config.set({"threading.max_workers": THREADS})
        self.array: Any = zarr.open_array(self.folder / f"{form}.zarr" / "image", mode="r")

    def one(self, number: int, out: Batch) -> None:
        out[...] = self.array[number]


def write_nifti(folder: Path) -> list[Path]:
    """Every volume as .nii.gz, in a folder of their own; volumes that repeat are compressed once."""
    import nibabel

    place = folder / "nifti"
    place.mkdir(exist_ok=True)
    raw = np.load(folder / "raw.npy", mmap_mode="r")
    held: dict[bytes, bytes] = {}
    paths = []
    for number, volume in enumerate(raw):
        paths.append(place / f"{number:05d}.nii.gz")
        if paths[-1].exists():
            continue
        key = volume.tobytes()
        if key not in held:
            nibabel.save(nibabel.Nifti1Image(np.asarray(volume[0]), np.eye(4)), paths[-1])
            held[key] = paths[-1].read_bytes()
        paths[-1].write_bytes(held[key])
    return paths


class Nibabel(Reading):
    """nibabel on compressed NIfTI files."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder, SLOW)
        self.paths = write_nifti(self.folder)

    def one(self, number: int, out: Batch) -> None:
        import nibabel

        image: Any = nibabel.load(self.paths[number])
        out[0] = np.asarray(image.dataobj)


class Loader:
    """Batches of somebody's loader, which is asked for another epoch when one is over."""

    def __init__(self, loader: Any, volumes: int) -> None:
        self.loader, self.volumes_per_call = loader, volumes
        self.epoch: Iterator[Any] = iter(())
        first = self._next()
        if tuple(first.shape[:2]) != (BATCH, 1) or str(first.dtype) not in ("uint8", "torch.uint8"):
            raise ValueError(f"a batch is {first.dtype} {tuple(first.shape)}; expected uint8 [{BATCH}, 1, …]")

    def _next(self) -> Any:
        found = next(self.epoch, None)
        if found is None:
            self.epoch = iter(self.loader)
            found = next(self.epoch)
        return found[0] if isinstance(found, (tuple, list)) else found

    def __call__(self, epoch: int) -> None:
        for _ in range(self.volumes_per_call // BATCH):
            self._next()


def monai(folder: str, persistent: bool) -> Loader:
    """MONAI's cached data sets, on the .nii.gz files."""
    from monai.data import CacheDataset, DataLoader, PersistentDataset, ThreadDataLoader
    from monai.transforms import Compose, EnsureChannelFirst, EnsureType, LoadImage

    files = [str(path) for path in write_nifti(Path(folder))]
    load = Compose(
        [
            LoadImage(image_only=True, dtype=np.uint8, ensure_channel_first=False),
            EnsureChannelFirst(),
            EnsureType(dtype=np.uint8, track_meta=False),
        ]
    )
    options: dict[str, Any] = {"batch_size": BATCH, "shuffle": True, "num_workers": 0, "drop_last": True}
    if persistent:
        kept = PersistentDataset(files, load, cache_dir=Path(folder) / "persistent")
        for number in range(len(kept)):
            _ = kept[number]  # written once
        return Loader(ThreadDataLoader(kept, **options), VOLUMES)
    cached = CacheDataset(files, load, cache_rate=1.0, num_workers=THREADS, progress=False, copy_cache=False)
    return Loader(DataLoader(cached, **options), VOLUMES)


def webdataset(folder: str) -> Loader:
    """WebDataset: tar shards with .npy members."""
    import webdataset as wds

    place = Path(folder) / "tar"
    place.mkdir(exist_ok=True)
    raw = np.load(Path(folder) / "raw.npy", mmap_mode="r")
    for start in range(0, len(raw), BATCH):
        with tarfile.open(place / f"{start:05d}.tar", "w") as tar:
            for number in range(start, min(start + BATCH, len(raw))):
                with io.BytesIO() as held:
                    np.save(held, np.asarray(raw[number]))
                    about = tarfile.TarInfo(f"{number:05d}.npy")
                    about.size = held.tell()
                    held.seek(0)
                    tar.addfile(about, held)
    urls = sorted(str(path) for path in place.glob("*.tar"))
    found = wds.WebDataset(urls, shardshuffle=len(urls)).shuffle(2 * BATCH).decode().to_tuple("npy")
    return Loader(found.batched(BATCH, partial=False), VOLUMES)


def litdata(folder: str) -> Loader:
    """LitData: optimised chunks, streamed from this machine's disk."""
    import functools
    import os

    os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = str(Path(folder) / "lit-cache")
    os.environ["DATA_OPTIMIZER_DATA_CACHE_FOLDER"] = str(Path(folder) / "lit-data")
    import litdata as lit

    place = str(Path(folder) / "lit")
    one = functools.partial(lit_volume, str(Path(folder) / "raw.npy"))
    lit.optimize(one, list(range(VOLUMES)), place, chunk_size=BATCH, num_workers=1, mode="overwrite")
    found = lit.StreamingDataset(place, shuffle=True, drop_last=True)
    return Loader(lit.StreamingDataLoader(found, batch_size=BATCH, num_workers=0, drop_last=True), VOLUMES)


def lit_volume(raw: str, number: int) -> Any:
    """One volume as LitData stores it."""
    return np.array(np.load(raw, mmap_mode="r")[number])


def memory_map(folder: str) -> Any:
    """Maker."""
    return MemoryMap(folder).checked()


def tensorstore(folder: str, form: str, best: bool) -> Any:
    """Maker."""
    return TensorStore(folder, form, best).checked()


def zarr_python(folder: str, form: str, zarrs: bool = False) -> Any:
    """Maker."""
    return ZarrPython(folder, form, zarrs).checked()


def nibabel_gz(folder: str) -> Any:
    """Maker."""
    return Nibabel(folder).checked()


def tensorstore_cold(folder: str, form: str) -> Cold:
    """Maker: tensorstore, from the disk."""
    return Cold(lambda: TensorStore(folder, form, best=True), Path(folder) / f"{form}.zarr" / "image")
