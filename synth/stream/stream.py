"""Stream: corpus → batches, read by this process's own threads (a forked loader worker could hang in them).

The order of samples is a function of (seed, epoch, position), the same at any world size, and exact when resumed.
Batches are read, decoded, scaled and augmented ahead, while the last one is trained on.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from synth.corpus import RECORDS, Corpus, record_name
from synth.errors import UserError
from synth.keys import rng_for
from synth.shard import Box
from synth.stream import order as orders
from synth.stream.ahead import Ahead
from synth.stream.buffers import Buffers
from synth.stream.merged import Merged
from synth.stream.scaling import scale_into

if TYPE_CHECKING:
    import torch

Transform = Callable[["torch.Tensor", "torch.Generator"], "torch.Tensor"]
FOLLOW_WINDOW = 4  # shards shuffled together while a corpus is still being made
PATIENCE_S = 900.0  # without a new shard
POLL_S = 0.5


@dataclass(frozen=True)
class Batch:
    """Samples on the device.

    Attributes:
        image: ``[B, C, D, H, W]`` float32 intensities, not standardised; as stored where that was asked for.
        index: ``[B]`` int64, the samples' numbers, on the CPU.
        label: ``[B, D, H, W]`` int16, or None.
        intensity: ``[B, C, 2]`` float32 scale and offset where images are as stored, else None.
    """

    image: torch.Tensor
    index: torch.Tensor
    label: torch.Tensor | None = None
    intensity: torch.Tensor | None = None


class Samples:
    """Samples of one or several corpora by number, read straight into batch arrays. Safe among threads."""

    def __init__(self, view: Merged) -> None:
        self.view = view
        self._pid = os.getpid()
        self._own = threading.local()
        self._scales = [corpus.intensities() if corpus.complete else None for corpus in view.corpora]

    def check_process(self) -> None:
        """Raise RuntimeError in a forked process, where threads are gone and waiting for them would never end."""
        if os.getpid() != self._pid:
            raise RuntimeError(
                "a Stream was carried into a forked process; make it there, or start workers with spawn "
                "(a Stream needs none: it has threads of its own, use DataLoader(stream, batch_size=None, num_workers=0))"
            )

    def intensities(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """``[B, C, 2]`` scale and offset of samples' channels."""
        if len(self._scales) == 1 and self._scales[0] is not None:
            return self._scales[0][indices]
        return np.stack([self.intensity(int(index)) for index in indices])

    def intensity(self, index: int) -> npt.NDArray[np.float32]:
        """``[C, 2]`` scale and offset of a sample's channels."""
        number = self.view.source(index)
        known, own = self._scales[number], index - int(self.view.offsets[number])
        if known is not None:
            return known[own]
        corpus = self.view.corpora[number]
        if not corpus.header.has_levels:
            return np.tile(np.array([1, 0], np.float32), (corpus.image_shape[0], 1))
        return _recorded_intensity(corpus, own)

    def image_into(self, index: int, out: npt.NDArray[Any], box: Box | None = None) -> None:
        """Fill ``out [C, d, h, w]``: in the stored dtype with what is stored, in float32 with intensities."""
        corpus, own = self.view.place(index)
        reader = corpus.readers["image"]
        if out.dtype == reader.layout.numpy_dtype:
            reader.read_into(own, out) if box is None else reader.read_box_into(own, box, out)
            return
        held = self._held(out.shape, reader.layout.numpy_dtype)
        reader.read_into(own, held) if box is None else reader.read_box_into(own, box, held)
        if held.dtype == np.uint8:
            channels = len(held)
            scale_into(held.reshape(channels, -1), self.intensity(index), out.reshape(channels, -1))
        else:
            np.copyto(out, held)

    def _held(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """An array of this thread's own, kept for next time."""
        held: npt.NDArray[Any] | None = getattr(self._own, "held", None)
        if held is None or held.shape != shape or held.dtype != dtype:
            held = self._own.held = np.empty(shape, dtype)
        return held

    def label_into(self, index: int, out: npt.NDArray[np.int16], box: Box | None = None) -> None:
        """Fill ``out [d, h, w]`` with a label map."""
        corpus, own = self.view.place(index)
        reader = corpus.readers["label"]
        reader.read_into(own, out) if box is None else reader.read_box_into(own, box[1:], out)


@lru_cache(maxsize=64)
def _shard_intensities(corpus: Corpus, shard: int) -> dict[int, npt.NDArray[np.float32]]:
    record = corpus.record(shard) or {"samples": []}
    return {entry["index"]: np.array(entry["intensity"], np.float32) for entry in record["samples"]}


def _recorded_intensity(corpus: Corpus, index: int) -> npt.NDArray[np.float32]:
    return _shard_intensities(corpus, index // corpus.header.shard_size)[index]


class Reader:
    """Images of a corpus by number, as float32: for evaluation, where no stream is needed."""

    def __init__(self, corpus: Corpus | Merged) -> None:
        self.samples = Samples(_view(corpus))

    def read(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Images ``[B, C, D, H, W]``. Raises RuntimeError in a forked process, where it could hang."""
        self.samples.check_process()
        images = np.empty((len(indices), *self.samples.view.image_shape), np.float32)
        for image, index in zip(images, indices, strict=True):
            self.samples.image_into(int(index), image)
        return images


def _view(source: Corpus | Merged) -> Merged:
    return source if isinstance(source, Merged) else Merged([source])


class Stream:
    """Endless batches of a corpus, one epoch per ``iter``.

    Args:
        source: a corpus, or several with mixing ratios.
        batch_size: samples a batch on this rank.
        seed: of order, crops and transform.
        indices: the samples to use; all if None.
        rank, world: this process among those that share every global batch.
        crop: size ``(d, h, w)`` of a random crop of every sample; of a layout with blocks only those it meets are read.
        labels: also give label maps.
        as_stored: images in the stored dtype, with their scale and offset.
        device: where batches are wanted. To a GPU they are copied from pinned memory while the last one is used.
        transform: (image ``[B, C, d, h, w]``, generator on the same device) → image, done ahead; its randomness is a
            function of (seed, epoch, position).
        threads: that read and decode.
        prefetch: batches held ready.
        window: shards shuffled together; 0 shuffles all samples together, which reads every one by itself.
        follow: begin while the corpus is still being made: the first epoch takes shards by number as they appear,
            ``window`` (or 4) at a time.
        patience: seconds to wait for the next shard when following.

    Raises:
        UserError: a corpus that is not complete (unless followed), a batch larger than the samples there are, a crop
            larger than the volumes, label maps that are not there.
    """

    def __init__(
        self,
        source: Corpus | Merged,
        batch_size: int,
        seed: int = 0,
        indices: npt.NDArray[np.int64] | None = None,
        rank: int = 0,
        world: int = 1,
        *,
        crop: tuple[int, int, int] | None = None,
        labels: bool = False,
        as_stored: bool = False,
        device: str | torch.device = "cpu",
        transform: Transform | None = None,
        threads: int = 2,
        prefetch: int = 3,
        window: int = 0,
        follow: bool = False,
        patience: float = PATIENCE_S,
    ) -> None:
        self.view = _view(source)
        if not self.view.complete and not follow:
            raise UserError(f"corpus '{self.view.path}' is not complete; run its generate command again to go on")
        self.indices = np.arange(len(self.view)) if indices is None else np.asarray(indices, np.int64)
        if not 1 <= batch_size * world <= len(self.indices):
            raise UserError(
                f"batch size {batch_size * world} was asked for of {len(self.indices)} samples; "
                f"expected 1 to {len(self.indices)}"
            )
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.crop, self.labels, self.as_stored = crop, labels, as_stored
        self.device, self.transform = str(device), transform
        self.threads, self.prefetch, self.window = threads, prefetch, window
        self.follow, self.patience = follow and not self.view.complete, patience
        self.samples = Samples(self.view)
        self.epoch, self.position = 0, 0
        self._ahead: Ahead | None = None
        self._orders: dict[int, npt.NDArray[np.int64]] = {}
        self._lock = threading.Lock()
        self._there: set[int] = set()  # shards seen, when following
        self._check_what()
        self._image_buffers, self._label_buffers = self._make_buffers()

    def _check_what(self) -> None:
        shape = self.view.image_shape[1:]
        if self.crop is not None and not all(1 <= c <= n for c, n in zip(self.crop, shape, strict=True)):
            raise UserError(f"a crop of {self.crop} voxels was asked for of volumes {shape}; expected at most these")
        if self.labels and not self.view.has_labels:
            raise UserError(f"corpus '{self.view.path}' holds no label maps; leave them out")
        if min(self.threads, self.prefetch) < 1 or self.window < 0:
            raise UserError(
                f"threads {self.threads}, prefetch {self.prefetch}, window {self.window}; expected 1, 1 and 0 or more"
            )
        if self.follow and len(self.view.corpora) > 1:
            raise UserError("several corpora cannot be followed while they are made; finish them first")

    def _make_buffers(self) -> tuple[Buffers, Buffers]:
        dtypes = {corpus.header.layouts["image"].dtype for corpus in self.view.corpora}
        if self.as_stored and len(dtypes) > 1:
            raise UserError(f"the corpora are stored as {' and '.join(sorted(dtypes))}; as_stored needs one type")
        on_gpu = self.device.startswith("cuda")
        kept = len(dtypes) == 1 and (self.as_stored or on_gpu)
        channels, *whole = self.view.image_shape
        box = self.crop or tuple(whole)
        image = Buffers(
            (self.batch_size, channels, *box),
            dtypes.pop() if kept else "float32",
            on_gpu,
            self.prefetch + self.threads + 2,
        )
        return image, Buffers((self.batch_size, *box), "int16", on_gpu, self.prefetch + self.threads + 2)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Sample numbers of an epoch, in order, all ranks together."""
        if len(self.view.corpora) > 1:
            offsets = self.view.offsets
            sources = [
                self.indices[(self.indices >= low) & (self.indices < high)] for low, high in itertools.pairwise(offsets)
            ]
            ratios = [ratio if len(own) else 0.0 for ratio, own in zip(self.view.ratios, sources, strict=True)]
            shares = [ratio / sum(ratios) for ratio in ratios]
            return orders.mixed(sources, shares, len(self.indices), self.seed, epoch)
        shard_size = self.view.corpora[0].header.shard_size
        if self.follow and epoch == 0:
            window = self.window or FOLLOW_WINDOW
            return orders.windowed(self.indices, shard_size, window, self.seed, epoch, ascending=True)
        if self.window:
            return orders.windowed(self.indices, shard_size, self.window, self.seed, epoch)
        return orders.uniform(self.indices, self.seed, epoch)

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
        """The rest of the current epoch. The next one's first batches are begun before it ends."""
        self.samples.check_process()
        if self._ahead is None:
            self._ahead = Ahead(self._make, self.threads)
        epoch, step = self.epoch, self.batch_size * self.world
        starts = list(range(self.position, len(self) * step, step))
        if not starts:
            self.epoch, self.position = epoch + 1, 0
        following = [(epoch, start) for start in starts]
        following += [(epoch + 1, start) for start in range(0, len(self) * step, step)]
        for at, start in enumerate(starts):
            self._ahead.ask(following[at : at + self.prefetch + self.threads])
            batch = self._ahead.take((epoch, start))
            last = at == len(starts) - 1
            self.epoch, self.position = (epoch + 1, 0) if last else (epoch, start + step)
            yield self._ready(batch)

    @staticmethod
    def _ready(made: tuple[Batch, Any]) -> Batch:
        """A batch, once the copy to its device is done as far as the device's current stream is concerned."""
        batch, event = made
        if event is not None:
            import torch

            stream = torch.cuda.current_stream(batch.image.device)
            stream.wait_event(event)
            for tensor in (batch.image, batch.label, batch.intensity):
                if tensor is not None and tensor.is_cuda:
                    tensor.record_stream(stream)
        return batch

    def _make(self, key: tuple[int, int]) -> tuple[Batch, Any]:
        """One batch by (epoch, position of its first sample, all ranks together); runs in a reading thread."""
        import torch

        epoch, start = key
        low = start + self.rank * self.batch_size
        indices = self._order(epoch)[low : low + self.batch_size]
        image = self._image_buffers.take()
        label = self._label_buffers.take() if self.labels else None
        for place, index in enumerate(indices.tolist()):
            if self.follow:
                self._wait_for(index)
            box = None if self.crop is None else self._box(epoch, low + place)
            self.samples.image_into(index, image[place], box)
            if label is not None:
                self.samples.label_into(index, label[place], box)
        scaling = self.as_stored or self.device.startswith("cuda")
        scales = torch.from_numpy(self.samples.intensities(indices)) if scaling else None
        held = Batch(
            self._image_buffers.lend(image),
            torch.from_numpy(indices.copy()),
            None if label is None else self._label_buffers.lend(label),
            scales if self.as_stored else None,
        )
        if self.device.startswith("cuda"):
            assert scales is not None
            return _to_gpu(held, scales, self, self._seed(epoch, start))
        if self.transform is None:
            return held, None
        generator = torch.Generator().manual_seed(self._seed(epoch, start))
        return Batch(self.transform(held.image, generator), held.index, held.label, held.intensity), None

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The order of an epoch, kept for the epochs that batches are being made of."""
        with self._lock:
            if epoch not in self._orders:
                self._orders[epoch] = self.order(epoch)
                for old in sorted(self._orders)[:-2]:
                    del self._orders[old]
            return self._orders[epoch]

    def _box(self, epoch: int, position: int) -> Box:
        assert self.crop is not None
        channels, *whole = self.view.image_shape
        room = (whole[0] - self.crop[0], whole[1] - self.crop[1], whole[2] - self.crop[2])
        corner = orders.crop_corner(self.seed, epoch, position, room)
        return (slice(0, channels), *(slice(a, a + c) for a, c in zip(corner, self.crop, strict=True)))

    def _seed(self, epoch: int, start: int) -> int:
        key = epoch * 2**40 + start + self.rank
        return int(rng_for(self.seed, key, "stream transform").integers(2**62))

    def _wait_for(self, index: int) -> None:
        """Return once the shard of a sample has its record.

        Raises:
            UserError: no shard appeared for ``patience`` seconds.
        """
        corpus = self.view.corpora[0]
        shard = index // corpus.header.shard_size
        seen, since = -1, time.monotonic()
        while shard not in self._there:
            if corpus.storage.exists(record_name(shard)):
                self._there.add(shard)
                return
            made = sum(1 for _ in corpus.storage.names(RECORDS))
            if made != seen:
                seen, since = made, time.monotonic()
            if time.monotonic() - since > self.patience:
                raise UserError(
                    f"corpus '{corpus.path}' got no new shard for {self.patience:g} s ({made} of "
                    f"{corpus.header.shards} are there); is its generate command still running?"
                )
            time.sleep(POLL_S)


def _to_gpu(held: Batch, scales: torch.Tensor, stream: Stream, seed: int) -> tuple[Batch, Any]:
    """Copy, scale and transform on a CUDA stream of its own; the event says when it is done."""
    import torch

    device = torch.device(stream.device)
    aside = _side_stream(str(device))
    with torch.cuda.stream(aside):
        image = held.image.to(device, non_blocking=True)
        label = None if held.label is None else held.label.to(device, non_blocking=True)
        if not stream.as_stored and image.dtype == torch.uint8:
            scale = scales.to(device, non_blocking=True)[..., None, None, None]
            image = image.float() * scale[:, :, 0] + scale[:, :, 1]
        elif not stream.as_stored:
            image = image.float()
        if stream.transform is not None:
            image = stream.transform(image, torch.Generator(device).manual_seed(seed))
        event = torch.cuda.Event()
        event.record(aside)
    event.synchronize()  # this thread waits, nobody else: the pinned buffer may go back afterwards
    return Batch(image, held.index, label, held.intensity), event


@lru_cache(maxsize=8)
def _side_stream(device: str) -> Any:
    import torch

    return torch.cuda.Stream(torch.device(device))
