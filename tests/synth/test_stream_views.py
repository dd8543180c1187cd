"""The stream beyond order: crops, label maps, mixtures, windows, corpora that grow, buffers, threads."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synth.corpus import Corpus, as_intensities
from synth.engine import Job, generate
from synth.errors import UserError
from synth.generator import GeneratorSpec
from synth.stream import Stream
from synth.stream import order as orders
from synth.stream.buffers import Buffers
from synth.stream.merged import Merged
from tests.conftest import PLUGIN

SHAPE = (12, 10, 14)
ONION = GeneratorSpec("onions.Onion", {"shape": SHAPE, "shells": 4}, (str(PLUGIN),))


def make(path: Path, count: int = 26, seed: int = 3, **options: Any) -> Corpus:
    assert not generate(Job(ONION, count, seed, path, 4, **options)).failed
    return Corpus(path)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    """The same onions in every layout, and other onions."""
    folder = tmp_path_factory.mktemp("corpora")
    layouts: dict[str, dict[str, Any]] = {
        "zstd": {},
        "none": {"codec": "none"},
        "blocks": {"chunk": 8},
        "bare blocks": {"chunk": 8, "codec": "none"},
        "seven bits": {"dtype": "uint7"},
        "float16": {"dtype": "float16"},
        "float32": {"dtype": "float32", "codec": "none"},
    }
    made = {name: make(folder / f"{name}.zarr", **options) for name, options in layouts.items()}
    return made | {"other": make(folder / "other.zarr", 9, seed=5)}


def indices_of(stream: Stream, count: int) -> list[int]:
    """The next ``count`` sample numbers, over epochs."""
    found: list[int] = []
    while len(found) < count:
        for batch in stream:
            found += batch.index.tolist()
            if len(found) >= count:
                break
    return found[:count]


# --- order ------------------------------------------------------------------------------------------------------------


@given(
    world=st.sampled_from([1, 2, 3, 8]),
    then=st.sampled_from([1, 2, 3, 8]),
    stop=st.integers(0, 5),
    seed=st.integers(0, 2**40),
    window=st.sampled_from([0, 2]),
    crop=st.sampled_from([None, (4, 5, 6)]),
)
def test_the_samples_and_bits_are_the_same_at_any_world_size_also_after_a_resume_at_another(
    corpora: dict[str, Corpus], world: int, then: int, stop: int, seed: int, window: int, crop: Any
) -> None:
    corpus, together = corpora["none"], 24  # samples of a global batch: 26 in an epoch leave two over

    def ranks(size: int) -> list[Stream]:
        per_rank = together // size
        return [
            Stream(corpus, per_rank, seed, rank=rank, world=size, window=window, crop=crop, threads=1, prefetch=1)
            for rank in range(size)
        ]

    def steps(streams: list[Stream], count: int) -> list[tuple[list[int], bytes]]:
        found: list[tuple[list[int], bytes]] = []
        while len(found) < count:
            for batches in zip(*streams, strict=True):
                index = torch.cat([batch.index for batch in batches]).tolist()
                found.append((index, torch.cat([batch.image for batch in batches]).numpy().tobytes()))
                if len(found) == count:
                    break
        return found

    undisturbed = steps(ranks(1), 4)
    first = ranks(world)
    before = steps(first, min(stop, 3))
    second = ranks(then)
    for stream in second:
        stream.load_state_dict(first[0].state_dict())
    assert before + steps(second, 4 - len(before)) == undisturbed


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 50), window=st.integers(1, 9), ascending=st.booleans())
def test_a_windowed_order_is_a_permutation_whose_windows_stay_together(
    seed: int, epoch: int, window: int, ascending: bool
) -> None:
    indices = np.arange(3, 83)
    order = orders.windowed(indices, 8, window, seed, epoch, ascending)
    assert sorted(order) == indices.tolist()
    shards = [set((order[:n] // 8).tolist()) for n in range(1, len(order))]
    begun_and_not_ended = [
        sum(
            1
            for shard in seen
            if np.isin(indices[indices // 8 == shard], order[: n + 1]).sum() < (indices // 8 == shard).sum()
        )
        for n, seen in enumerate(shards)
    ]
    assert max(begun_and_not_ended) <= window
    if ascending:
        ranks = (order // 8 - 0) // window
        assert (np.diff(ranks) >= 0).all()


@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=4),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 9),
    data=st.data(),
)
def test_a_mixture_keeps_its_ratios_and_goes_through_every_source_evenly(
    sizes: list[int], seed: int, epoch: int, data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(sizes), max_size=len(sizes)))
    ratios = [weight / sum(weights) for weight in weights]
    offsets = np.cumsum([0, *sizes])
    sources = [np.arange(low, high) for low, high in itertools.pairwise(offsets)]
    length = sum(sizes)
    so_far = np.concatenate([orders.mixed(sources, ratios, length, seed, e) for e in range(epoch + 1)])
    for number, (source, ratio) in enumerate(zip(sources, ratios, strict=True)):
        of_it = so_far[(so_far >= offsets[number]) & (so_far < offsets[number + 1])]
        assert abs(len(of_it) - ratio * length * (epoch + 1)) <= epoch + 1
        counts = np.bincount(of_it - offsets[number], minlength=len(source))
        assert counts.max() - counts.min() <= 1, "no sample comes again before every other came"


def test_how_far_from_uniform_a_window_is_can_be_told() -> None:
    indices = np.arange(1600)
    uniform, expected = orders.neighbours(orders.uniform(indices, 0, 0), 16)
    of_four, _ = orders.neighbours(orders.windowed(indices, 16, 4, 0, 0), 16)
    unshuffled, _ = orders.neighbours(indices, 16)
    assert abs(uniform - expected) < 0.01 and 0.2 < of_four < 0.3 and unshuffled > 0.9


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["zstd", "none", "blocks", "bare blocks", "seven bits", "float16", "float32"])
@pytest.mark.parametrize("crop", [None, (5, 10, 3), (12, 10, 14), (1, 1, 1)])
def test_crops_and_label_maps_are_those_of_the_volumes(layout: str, crop: Any, corpora: dict[str, Corpus]) -> None:
    corpus = corpora[layout]
    stream = Stream(corpus, 5, seed=4, crop=crop, labels=True)
    whole = Stream(corpus, 5, seed=4, labels=True)
    corners = set()
    for number, (batch, uncut) in enumerate(zip(stream, whole, strict=True)):
        assert batch.index.equal(uncut.index) and batch.label is not None and uncut.label is not None
        for place in range(5):
            box: tuple[slice, ...] = (slice(None),) * 3
            if crop is not None:
                room = tuple(n - c for n, c in zip(SHAPE, crop, strict=True))
                corner = orders.crop_corner(4, 0, number * 5 + place, room)  # type: ignore[arg-type]
                corners.add(corner)
                box = tuple(slice(a, a + c) for a, c in zip(corner, crop, strict=True))
            index = int(batch.index[place])
            image, label = corpus.image(index).astype(np.float32), corpus.label(index)
            assert label is not None
            assert np.array_equal(batch.image[place].numpy(), image[(slice(None), *box)])
            assert np.array_equal(batch.label[place].numpy(), label[box])
    if crop in ((5, 10, 3), (1, 1, 1)):
        assert len(corners) > 10, "every sample its own place"


def test_as_stored_gives_the_bytes_with_their_scale(corpora: dict[str, Corpus]) -> None:
    batch = next(iter(Stream(corpora["none"], 6, as_stored=True)))
    assert batch.image.dtype == torch.uint8 and batch.intensity is not None
    for stored, intensity, index in zip(batch.image, batch.intensity, batch.index, strict=True):
        entry = {"intensity": intensity.numpy()}
        image = as_intensities(stored.numpy(), entry)
        assert np.allclose(image, corpora["none"].image(int(index)), atol=1e-6)


def test_only_the_blocks_that_a_crop_meets_are_read(
    corpora: dict[str, Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = corpora["blocks"].readers["image"]
    asked: list[int] = []
    file = reader.file(0)
    read = type(file).read_into
    monkeypatch.setattr(type(file), "read_into", lambda self, a, out: asked.append(len(out)) or read(self, a, out))
    out = np.empty((1, 4, 4, 4), np.uint8)
    reader.read_box_into(1, (slice(0, 1), slice(0, 4), slice(0, 4), slice(0, 4)), out)
    assert len(asked) == 1
    reader.read_box_into(1, (slice(0, 1), slice(6, 10), slice(6, 10), slice(6, 10)), out)
    assert len(asked) == 1 + 8


def test_a_transform_is_done_ahead_and_is_a_function_of_seed_epoch_and_position(corpora: dict[str, Corpus]) -> None:
    names: set[str] = set()

    def noisy(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        names.add(threading.current_thread().name)
        return image + torch.rand(image.shape, generator=generator)

    def images(skip: int) -> list[torch.Tensor]:
        stream = Stream(corpora["zstd"], 4, seed=1, transform=noisy)
        stream.load_state_dict({"epoch": 0, "position": skip})
        return [batch.image for batch in stream]

    undisturbed = images(0)
    assert all(a.equal(b) for a, b in zip(undisturbed[2:], images(8), strict=True))
    assert names and all(name.startswith("brainloom-stream") for name in names)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"crop": (13, 4, 4)}, "expected at most"),
        ({"crop": (0, 4, 4)}, "expected at most"),
        ({"threads": 0}, "threads 0"),
        ({"prefetch": 0}, "prefetch 0"),
        ({"window": -1}, "window -1"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], says: str, corpora: dict[str, Corpus]) -> None:
    with pytest.raises(UserError, match=says):
        Stream(corpora["zstd"], 4, **options)


# --- mixtures ---------------------------------------------------------------------------------------------------------


def test_a_mixture_gives_samples_of_every_corpus_by_ratio(corpora: dict[str, Corpus]) -> None:
    view = Merged([corpora["zstd"], corpora["other"]], [1, 3])
    assert len(view) == 35 and len(view.covariates()) == 35
    seen = indices_of(Stream(view, 5, seed=2), 350)
    of_other = sum(index >= 26 for index in seen)
    assert abs(of_other / 350 - 0.75) < 0.02
    batch = next(iter(Stream(view, 5, seed=2)))
    for image, index in zip(batch.image, batch.index.tolist(), strict=True):
        corpus, own = view.place(index)
        assert np.array_equal(image.numpy(), corpus.image(own))


def test_a_mixture_may_mix_layouts_and_types(corpora: dict[str, Corpus]) -> None:
    view = Merged([corpora["blocks"], corpora["float32"]])
    for batch in Stream(view, 4, seed=2):
        for image, index in zip(batch.image, batch.index.tolist(), strict=True):
            assert np.array_equal(image.numpy(), view.image(index).astype(np.float32))


def test_a_mixture_resumes_exactly(corpora: dict[str, Corpus]) -> None:
    view = Merged([corpora["zstd"], corpora["other"]], [2, 1])
    undisturbed = indices_of(Stream(view, 5, seed=9), 140)
    stream = Stream(view, 5, seed=9)
    before = indices_of(stream, 65)
    again = Stream(view, 5, seed=9)
    again.load_state_dict(stream.state_dict())
    assert before + indices_of(again, 75) == undisturbed


@pytest.mark.parametrize("ratios", [[1.0], [1.0, -1.0], [0.0, 0.0], [float("nan"), 1.0]])
def test_ratios_that_do_not_fit_are_refused(ratios: list[float], corpora: dict[str, Corpus]) -> None:
    with pytest.raises(UserError, match="mixing ratios"):
        Merged([corpora["zstd"], corpora["other"]], ratios)


# --- following --------------------------------------------------------------------------------------------------------


def test_a_stream_follows_a_corpus_that_is_still_being_made(tmp_path: Path, corpora: dict[str, Corpus]) -> None:
    out = tmp_path / "growing.zarr"
    released, first = threading.Semaphore(0), threading.Event()

    def held_back(done: int, total: int, *note: str) -> None:
        if done == 0:
            first.set()
        assert released.acquire(timeout=60)

    writer = threading.Thread(target=lambda: generate(Job(ONION, 26, 3, out, 4), progress=held_back))
    writer.start()
    assert first.wait(30)
    stream = Stream(Corpus(out), 4, seed=6, window=2, follow=True, threads=1, prefetch=1)
    found: list[list[int]] = []
    images: list[torch.Tensor] = []
    reading = threading.Thread(
        target=lambda: [(found.append(b.index.tolist()), images.append(b.image)) for b in stream]
    )
    reading.start()
    time.sleep(0.3)
    assert found == [], "nothing is made yet"
    for _ in range(3):
        released.release()
    until = time.monotonic() + 30
    while len(found) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    assert len(found) == 2, "two shards are there: the first window, and not more"
    for _ in range(30):
        released.release()
    reading.join(60), writer.join(60)
    finished = Corpus(out)
    order = orders.windowed(np.arange(26), 4, 2, 6, 0, ascending=True)
    assert list(itertools.chain(*found)) == order[:24].tolist()
    for batch, indices in zip(images, found, strict=True):
        for image, index in zip(batch, indices, strict=True):
            assert np.array_equal(image.numpy(), finished.image(index))
    undisturbed = Stream(finished, 4, seed=6, window=2)
    undisturbed.load_state_dict({"epoch": 1, "position": 0})
    assert indices_of(stream, 24) == indices_of(undisturbed, 24), "from then on like any other"


def test_a_corpus_that_stops_growing_is_told(tmp_path: Path) -> None:
    out = tmp_path / "stopped.zarr"

    def stop(done: int, total: int, *note: str) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(Job(ONION, 26, 3, out, 4), progress=stop)
    with pytest.raises(UserError, match="not complete"):
        Stream(Corpus(out), 4)
    stream = Stream(Corpus(out), 4, window=1, follow=True, patience=0.2)
    with pytest.raises(UserError, match=r"no new shard for 0.2 s \(2 of 7 are there\)"):
        list(stream)


# --- threads and buffers ----------------------------------------------------------------------------------------------


def test_a_batch_that_is_held_is_never_overwritten(corpora: dict[str, Corpus]) -> None:
    stream = Stream(corpora["none"], 4, seed=3, as_stored=True)
    held = [(batch.image, batch.image.clone()) for _ in range(4) for batch in stream]
    views = [image[1:3].flatten(1) for image, _ in held]
    copies = [view.clone() for view in views]
    del held[::2]
    gc.collect()
    for _ in range(4):
        list(stream)
    assert all(image.equal(copy) for image, copy in held)
    assert all(view.equal(copy) for view, copy in zip(views, copies, strict=True))


def test_buffers_are_used_again_once_nothing_holds_them() -> None:
    buffers = Buffers((2, 3), "float32", pinned=False, keep=4)
    array = buffers.take()
    tensor = buffers.lend(array)
    view = tensor[0]
    del tensor
    assert buffers.take() is not array
    del view
    assert buffers.take() is array


def test_threads_end_with_their_stream(corpora: dict[str, Corpus]) -> None:
    before = set(threading.enumerate())
    stream: Stream | None = Stream(corpora["zstd"], 4, threads=3)
    next(iter(stream))  # type: ignore[arg-type]
    own = set(threading.enumerate()) - before
    assert len(own) == 3
    del stream
    gc.collect()
    for thread in own:
        thread.join(10)
    assert not any(thread.is_alive() for thread in own)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_in_a_forked_process_a_stream_raises_instead_of_hanging(
    corpora: dict[str, Corpus], in_subprocess: Callable[[str], dict[str, str]]
) -> None:
    import subprocess
    import sys

    code = f"""
import os, sys
from synth.stream import Stream
from synth.corpus import Corpus
stream = Stream(Corpus({str(corpora["zstd"].path)!r}), 4)
batches = iter(stream)
next(batches)
pid = os.fork()
if pid == 0:
    told = []
    for attempt in (lambda: next(batches), lambda: next(iter(stream))):
        try:
            attempt()
        except RuntimeError as error:
            told.append("forked process" in str(error))
    os._exit(0 if told == [True, True] else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=in_subprocess(""), capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "0", done.stderr
