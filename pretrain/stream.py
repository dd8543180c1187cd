"""Stream: corpus → batches, by this process's own threads (zarr in forked loader workers can hang).

The order of samples is a function of (seed, epoch, position), the same at any world size, and exact when resumed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from synth.corpus import Corpus
from synth.errors import UserError
from synth.keys import rng_for

if TYPE_CHECKING:
    import torch

CACHE_BYTES = 2 * 2**30
PREFETCH = 3


@dataclass(frozen=True)
class Batch:
    """``image [B, C, D, H, W]`` float32 as stored (not standardised) and ``index [B]``, the samples' numbers."""

    image: torch.Tensor
    index: torch.Tensor


class Reader:
    """Images of a corpus by number; corpora up to ``cache_bytes`` are kept in memory, whole shards read at once."""

    def __init__(self, corpus: Corpus, cache_bytes: int = CACHE_BYTES) -> None:
        self.corpus = corpus
        self._pid = os.getpid()

    def read(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Images ``[B, C, D, H, W]`` as float32. Raises RuntimeError in a forked process, where zarr could hang."""
        if os.getpid() != self._pid:
            raise RuntimeError("a Stream was carried into a forked process; make it there, or start workers with spawn")
        return np.stack([self.corpus.image(int(i)) for i in indices]).astype(np.float32)


class Stream:
    """Endless batches of a corpus, one epoch per ``iter``.

    Args:
        corpus: a complete corpus.
        batch_size: samples a batch on this rank.
        seed: of the order.
        indices: the samples to use; all if None.
        rank, world: this process among those that share every global batch.

    Raises:
        UserError: a corpus that is not complete, a batch larger than the samples there are.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch_size: int,
        seed: int = 0,
        indices: npt.NDArray[np.int64] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not corpus.complete:
            raise UserError(f"corpus '{corpus.path}' is not complete; run its generate command again to go on")
        self.indices = np.arange(len(corpus)) if indices is None else np.asarray(indices, np.int64)
        if not 1 <= batch_size * world <= len(self.indices):
            raise UserError(
                f"batch size {batch_size * world} was asked for of {len(self.indices)} samples; "
                f"expected 1 to {len(self.indices)}"
            )
        self.reader = Reader(corpus)
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.epoch, self.position = 0, 0

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Sample numbers of an epoch, in order, all ranks together."""
        return self.indices[rng_for(self.seed, epoch, "stream").permutation(len(self.indices))]

    def __len__(self) -> int:
        """Batches an epoch; what is left over after the last full one is skipped (it is another every epoch)."""
        return len(self.indices) // (self.batch_size * self.world)

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands: epoch and samples given out in it, all ranks together."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state, at this or another world size."""
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch."""
        order = self.order(self.epoch)
        step = self.batch_size * self.world
        starts = list(range(self.position, len(order) - step + 1, step))
        with ThreadPoolExecutor(1) as pool:
            waiting: list[Future[Batch]] = []
            for at, start in enumerate(starts):
                while len(waiting) < PREFETCH and at + len(waiting) < len(starts):
                    low = starts[at + len(waiting)] + self.rank * self.batch_size
                    waiting.append(pool.submit(self._batch, order[low : low + self.batch_size]))
                batch = waiting.pop(0).result()
                self.position = start + step
                if at == len(starts) - 1:
                    self.epoch, self.position = self.epoch + 1, 0
                yield batch

    def _batch(self, indices: npt.NDArray[np.int64]) -> Batch:
        import torch

        return Batch(torch.from_numpy(self.reader.read(indices)), torch.from_numpy(indices.copy()))
