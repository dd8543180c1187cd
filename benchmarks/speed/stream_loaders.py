"""The same volumes through loaders that have files of their own: nibabel, MONAI, WebDataset, LitData."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.stream_data import BATCH, VOLUMES
from benchmarks.speed.stream_peers import THREADS, Batch, Reading

SLOW = 2 * BATCH  # volumes a call of rows that take long

NIBABEL = "numpy.asarray(image.dataobj) of .nii.gz by two threads"
MONAI_CACHE = "CacheDataset, everything in memory, uint8; its DataLoader, num_workers=0 (its process has the volumes twice otherwise)"
MONAI_PERSISTENT = "PersistentDataset (a .pt file a volume), uint8; ThreadDataLoader, num_workers=0"
WEBDATASET = "tar shards of 16 .npy, shuffled by shard and 32 volumes, in this process"
LITDATA = "chunks of 16 volumes, StreamingDataLoader, shuffled, num_workers=0"


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


def nibabel_gz(folder: str) -> Any:
    """Maker."""
    return Nibabel(folder).checked()
