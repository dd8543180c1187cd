"""A stream as one long epoch of a whole run, so that steps made of several batches never meet an epoch's end."""

from __future__ import annotations

import time
from collections.abc import Iterator

from synth.stream import Batch, Stream


class Feed:
    """``batches`` batches of a stream, epoch after epoch; goes on where a checkpoint left the stream.

    Attributes:
        waited: seconds that training has stood still for a batch.
    """

    def __init__(self, stream: Stream, batches: int) -> None:
        self.stream, self.batches, self.waited = stream, batches, 0.0

    def __len__(self) -> int:
        """Batches of the whole run, those before a checkpoint too. (Lightning reads ahead of what has no length.)"""
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        while True:
            epoch = iter(self.stream)
            while True:
                begun = time.perf_counter()
                batch = next(epoch, None)
                self.waited += time.perf_counter() - begun
                if batch is None:
                    break
                yield batch

    def state_dict(self) -> dict[str, int]:
        """The stream's."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The stream's."""
        self.stream.load_state_dict(state)
