"""The volumes of the benchmark ``stream``: one set, as corpora and as the files that peers read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

VOLUMES = 192
SEVEN = "zstd, 7 bits"
DIFFERENT = 8  # of them: label-map volumes of random contrast and strong deformation; the others repeat them
BATCH = 16
SHARD_SIZE = 16
Order = npt.NDArray[np.int64]


def raw_of(folder: Path, form: str) -> Path:
    """The bytes that reading a form must give."""
    return folder / ("raw7.npy" if "7 bits" in form else "raw.npy")


class Data:
    """A folder in which each form of the volumes is made when it is first asked for.

    Args:
        folder: an empty one.
        anatomies: label map; the built-in one if None.
        size: voxels along each axis.
    """

    def __init__(self, folder: Path, anatomies: Path | None, size: int) -> None:
        self.folder, self.anatomies, self.size = folder, anatomies, size

    def make(self, form: str) -> None:
        """``none``, ``zstd`` or ``blocks`` (crops' chunks): that corpus; ``raw``: raw.npy ``[N, 1, D, H, W]``, uint8."""
        if (self.folder / "raw.npy" if form == "raw" else self.corpus(form)).exists():
            return
        if form == "raw":
            self.make("none")
            self._raw("none")
            return
        if form == SEVEN:
            self.make_corpus("none, 7 bits", "none", 0, "uint7")
            self._raw("none, 7 bits")
            self.make_corpus(SEVEN, "zstd", 0, "uint7")
            return
        codec, chunk = ("zstd", self.size // 2) if form == "blocks" else (form, 0)
        self.make_corpus(form, codec, chunk, "uint8")

    def make_corpus(self, form: str, codec: str, chunk: int, dtype: str) -> None:
        """A corpus of the volumes."""
        from synth.engine import Job, generate
        from synth.generator import GeneratorSpec

        source = self._source()
        spec = GeneratorSpec("benchmarks.speed.repeated.Repeated", {"folder": source})
        generate(Job(spec, VOLUMES, 0, self.corpus(form), SHARD_SIZE, dtype, codec=codec, chunk=chunk))

    def corpus(self, form: str) -> Path:
        """Where a corpus is."""
        return self.folder / f"{form}.zarr"

    def _source(self) -> Path:
        """The volumes that differ, as :class:`benchmarks.speed.repeated.Repeated` takes them."""
        from synth.keys import rng_for
        from synth.labelmap import LabelMap

        place = self.folder / "source"
        if not place.exists():
            grid = (self.size, self.size, self.size)
            generator = LabelMap(grid, 128.0 / self.size, self.anatomies, contrast="random", deformation="strong")
            samples = [generator.render(generator.draw(rng_for(1, i))) for i in range(DIFFERENT)]
            place.mkdir()
            np.save(place / "labels.npy", np.stack([np.asarray(sample.label, np.int16) for sample in samples]))
            np.save(place / "images.npy", np.stack([sample.image for sample in samples]))
        return place

    def _raw(self, form: str) -> None:
        """What a corpus holds, in one file that every row of these volumes is checked against."""
        from synth.corpus import Corpus

        corpus = Corpus(self.corpus(form))
        raw = np.lib.format.open_memmap(
            raw_of(self.folder, form), "w+", np.dtype(np.uint8), (len(corpus), *corpus.image_shape)
        )
        for index in range(len(corpus)):
            raw[index] = corpus.stored(index)
        raw.flush()


def order(epoch: int, count: int) -> Order:
    """Every volume's number, shuffled anew every epoch."""
    from synth.keys import rng_for

    return rng_for(0, epoch, "stream").permutation(count)


def batches(epoch: int, count: int) -> Iterator[Order]:
    """The numbers of each batch of an epoch."""
    numbers = order(epoch, count)
    for start in range(0, count - BATCH + 1, BATCH):
        yield numbers[start : start + BATCH]


def corners(epoch: int, count: int, size: int, crop: int) -> npt.NDArray[np.int64]:
    """``[count, 3]`` first voxel of a random crop of each volume."""
    from synth.keys import rng_for

    return rng_for(0, epoch, "corners").integers(0, size - crop + 1, (count, 3))


def check_same(read: Callable[[Order, npt.NDArray[np.uint8]], Any], raw: Path) -> None:
    """Raise ValueError when a batch read is not what the volumes are: the speed of wrong bytes means nothing."""
    truth = np.load(raw, mmap_mode="r")
    numbers = next(batches(0, len(truth)))
    buffer = np.empty((BATCH, *truth.shape[1:]), np.uint8)
    read(numbers, buffer)
    if not (buffer == truth[numbers]).all():
        raise ValueError("it read other bytes than were written")


def folder_bytes(place: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files)
