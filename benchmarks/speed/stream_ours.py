"""Rows of the benchmark ``stream`` that are brainloom's own, and the limit that memory sets."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.cold import Cold
from benchmarks.speed.stream_data import BATCH, SHARD_SIZE, Data, check_same, folder_bytes, order, raw_of
from benchmarks.speed.turns import settle

BUFFERS = 4  # batches that are filled in turn
STEPS = 6  # of a training step's turn, from the cached batch and from the stream each


class Limit:
    """Two threads copy volumes out of a memory map into batch buffers that are used again and again."""

    def __init__(self, folder: str, threads: int = 2) -> None:
        self.raw = np.load(f"{folder}/raw.npy", mmap_mode="r")
        self.volumes_per_call = len(self.raw)
        self.buffers = np.zeros((BUFFERS * BATCH, *self.raw.shape[1:]), np.uint8)
        self.threads, self.pool = threads, ThreadPoolExecutor(threads)

    def __call__(self, epoch: int) -> None:
        numbers = order(epoch, len(self.raw))
        for done in [self.pool.submit(self._copy, numbers, first) for first in range(self.threads)]:
            done.result()

    def _copy(self, numbers: Any, first: int) -> None:
        for place in range(first, len(numbers), self.threads):
            np.copyto(self.buffers[place % len(self.buffers)], self.raw[numbers[place]])


class Ours:
    """An epoch of a Stream; batches are taken as they come and let go.

    A turn begins by taking those that were read ahead, untimed: what it takes afterwards is read in its own time.
    """

    def __init__(self, folder: str, form: str, as_stored: bool = True, check: bool = True, **options: Any) -> None:
        from synth.corpus import Corpus
        from synth.stream import Stream

        self.place = Data(Path(folder), None, 0).corpus(form)
        corpus = Corpus(self.place)
        self.stream = Stream(corpus, batch_size=BATCH, seed=0, as_stored=as_stored, threads=2, **options)
        self.batches = self._endless()
        self.volumes_per_call = len(self.stream) * BATCH
        self.sample_bytes = int(np.prod(corpus.image_shape))
        if check and as_stored and not options:
            check_same(self._epoch_as, raw_of(Path(folder), form))

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self.stream

    def begin(self) -> None:
        """Take what was read ahead."""
        for _ in range(self.stream.prefetch + self.stream.threads):
            next(self.batches)

    def __call__(self, epoch: int) -> None:
        for _ in range(len(self.stream)):
            next(self.batches)

    def _epoch_as(self, numbers: Any, buffer: Any) -> None:
        """Volumes of an epoch, put as ``numbers`` order them."""
        places = {int(number): place for place, number in enumerate(numbers)}
        for batch in self.stream:
            for number, image in zip(batch.index.tolist(), batch.image.numpy(), strict=True):
                if number in places:
                    buffer[places[number]] = image

    def extras(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Stored bytes by raw bytes; neighbours from one shard: their share in an epoch's order, and in a uniform one."""
        from synth.stream.order import neighbours

        share = folder_bytes(self.place / "image") / (len(self.stream.indices) * self.sample_bytes)
        told = {"note": f"{100 * share:.0f} % of the raw bytes"} if share < 0.99 else {}
        return {**told, "stored_share": round(share, 4), "neighbours": neighbours(self.stream.order(0), SHARD_SIZE)}


class Step:
    """A small network's training step, fed by the stream and, in alternation, by one batch that stays in memory.

    A turn is so many steps of the one and then of the other. The stream has its batches ready when its steps begin, as it
    has while a network trains, reads one more in every step, and is idle again before the other is timed. The time of
    the call is that of the steps fed by the stream.
    """

    turn_s = 0.0

    def __init__(self, folder: str, batch: int = 2, threads: int = 2) -> None:
        import torch

        from pretrain.backbones import make_backbone
        from synth.corpus import Corpus
        from synth.stream import Stream

        torch.set_num_threads(threads)
        corpus = Corpus(Data(Path(folder), None, 0).corpus("zstd"))
        _, d, h, w = corpus.image_shape
        used = np.arange(batch * STEPS)
        self.stream = Stream(corpus, batch_size=batch, seed=0, indices=used, threads=2)
        backbone = make_backbone("sfcn_s", (d, h, w))
        self.network = torch.nn.Sequential(backbone, torch.nn.LazyLinear(1))
        self.cached = list(self.stream)[0].image  # noqa: RUF015  (the epoch is read to its end)
        self.network(self.cached)
        self.optimiser = torch.optim.SGD(self.network.parameters(), 1e-4)
        self.volumes_per_call = batch * STEPS
        self.cached_s: list[float] = []
        self.ratios: list[float] = []

    def _step(self, image: Any) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.network(image).square().mean()
        loss.backward()
        self.optimiser.step()

    def _from_cache(self) -> float:
        started = time.perf_counter()
        for _ in range(STEPS):
            self._step(self.cached)
        return time.perf_counter() - started

    def _from_stream(self) -> float:
        started, steps = time.perf_counter(), 0
        for batch in self.stream:
            self._step(batch.image)
            steps += 1
        assert steps == STEPS
        return time.perf_counter() - started

    def __call__(self, number: int) -> float:
        first = self._from_cache()
        streamed = self._from_stream()
        settle()
        cached = (first + self._from_cache()) / 2
        self.cached_s.append(cached)
        self.ratios.append(cached / streamed)
        return streamed

    def extras(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Milliseconds a volume from the cached batch, and by how much the stream slows the step."""
        low, median, high = np.percentile(self.ratios, [25, 50, 75])
        return {
            "cached_ms_median": 1000 * statistics.median(self.cached_s) / self.volumes_per_call,
            "cached_by_stream": float(median),
            "cached_by_stream_quartiles": [float(low), float(high)],
            "note": f"{median:.3f} of it from one cached batch",
        }


def cold_limit(folder: str) -> Cold:
    """Maker: the limit, from the disk."""
    return Cold(lambda: Limit(folder), Path(folder) / "raw.npy")


def cold_ours(folder: str, form: str) -> Cold:
    """Maker: ours, from the disk."""
    return Cold(lambda: Ours(folder, form, check=False), Data(Path(folder), None, 0).corpus(form) / "image")
