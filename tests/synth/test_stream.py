"""The stream: order is a function of (seed, epoch, position), at any world size, exact when resumed."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.corpus import Corpus
from synth.errors import UserError
from synth.stream import Reader, Stream


def test_every_sample_comes_once_an_epoch(corpus: Corpus) -> None:
    stream = Stream(corpus, 8)
    seen = np.concatenate([batch.index.numpy() for batch in stream])
    assert sorted(seen) == list(range(len(corpus)))


def test_batches_hold_the_voxels_of_the_samples_they_name(corpus: Corpus) -> None:
    batch = next(iter(Stream(corpus, 4, seed=5)))
    for image, index in zip(batch.image, batch.index, strict=True):
        assert np.array_equal(image.numpy(), corpus.image(int(index)).astype(np.float32))


def test_another_epoch_and_another_seed_are_another_order(corpus: Corpus) -> None:
    stream = Stream(corpus, 8, seed=0)
    assert not np.array_equal(stream.order(0), stream.order(1))
    assert not np.array_equal(stream.order(0), Stream(corpus, 8, seed=1).order(0))
    assert np.array_equal(stream.order(3), Stream(corpus, 8, seed=0).order(3))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_global_order_is_the_same_at_any_world_size(corpus: Corpus, world: int) -> None:
    ranks = [Stream(corpus, 8 // world, seed=2, rank=rank, world=world) for rank in range(world)]
    together = [np.concatenate([batch.index.numpy() for batch in batches]) for batches in zip(*ranks, strict=True)]
    alone = [batch.index.numpy() for batch in Stream(corpus, 8, seed=2)]
    assert np.array_equal(together, alone)


@given(stop=st.integers(0, 14), batch_size=st.sampled_from([3, 5, 8]))
def test_stopped_anywhere_and_resumed_gives_the_batches_of_an_undisturbed_stream(
    corpus: Corpus, stop: int, batch_size: int
) -> None:
    def batches(stream: Stream, count: int) -> list[list[int]]:
        found: list[list[int]] = []
        while len(found) < count:
            for batch in stream:
                found.append(batch.index.tolist())
                if len(found) == count:
                    break
        return found

    undisturbed = batches(Stream(corpus, batch_size, seed=7), 20)
    first = Stream(corpus, batch_size, seed=7)
    before = batches(first, stop)
    second = Stream(corpus, batch_size, seed=7)
    second.load_state_dict(first.state_dict())
    assert before + batches(second, 20 - stop) == undisturbed


def test_reading_with_and_without_memory_gives_the_same_voxels(corpus: Corpus) -> None:
    indices = np.array([30, 2, 17, 2])
    assert np.array_equal(Reader(corpus).read(indices), np.stack([corpus.image(int(i)) for i in indices]))


def test_a_reader_carried_into_a_fork_raises_instead_of_hanging(corpus: Corpus) -> None:
    reader = Reader(corpus)
    reader.samples._pid = os.getpid() + 1  # what a forked child sees
    with pytest.raises(RuntimeError, match="forked"):
        reader.read(np.array([0]))


@pytest.mark.parametrize("batch_size", [0, -1, 1000])
def test_a_batch_size_that_cannot_be_is_refused(corpus: Corpus, batch_size: int) -> None:
    with pytest.raises(UserError, match="expected 1 to"):
        Stream(corpus, batch_size)
