"""Random streams depend on (seed, index, purpose) alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from synth.keys import new_seed, rng_for

SEEDS = st.integers(0, 2**63 - 1)
INDICES = st.integers(0, 2**40)
PURPOSES = st.sampled_from(["draw", "warp", "appearance", "site:a"])
KEYS = st.tuples(SEEDS, INDICES, PURPOSES)


@given(KEYS)
def test_the_same_key_gives_the_same_stream(key: tuple[int, int, str]) -> None:
    assert np.array_equal(rng_for(*key).random(16), rng_for(*key).random(16))


@given(KEYS, KEYS)
def test_another_seed_index_or_purpose_gives_another_stream(
    one: tuple[int, int, str], other: tuple[int, int, str]
) -> None:
    same = np.array_equal(rng_for(*one).random(4), rng_for(*other).random(4))
    assert same == (one == other)


@given(SEEDS, INDICES, PURPOSES)
def test_each_part_of_the_key_matters_alone(seed: int, index: int, purpose: str) -> None:
    here = rng_for(seed, index, purpose).random(4)
    assert not np.array_equal(here, rng_for((seed + 1) % 2**63, index, purpose).random(4))
    assert not np.array_equal(here, rng_for(seed, index + 1, purpose).random(4))
    assert not np.array_equal(here, rng_for(seed, index, purpose + "!").random(4))


def test_neighbouring_streams_do_not_overlap() -> None:
    first, second = (rng_for(5, index).integers(0, 2**64, 20_000, dtype=np.uint64) for index in (0, 1))
    assert not set(first.tolist()) & set(second.tolist())


def test_streams_are_the_same_on_every_machine_and_release() -> None:
    assert rng_for(3, 7).integers(0, 1000, 5).tolist() == [815, 477, 543, 191, 6]
    assert rng_for(3, 7, "warp").integers(0, 1000, 2).tolist() == [157, 777]


def test_streams_do_not_read_or_move_the_global_state() -> None:
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one = rng_for(1, 1).random()
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert rng_for(1, 1).random() == one


@given(KEYS)
def test_a_new_seed_survives_json_and_makes_a_stream(key: tuple[int, int, str]) -> None:
    import json

    seed = new_seed(rng_for(*key))
    assert 0 <= seed < 2**63 and json.loads(json.dumps(seed)) == seed
    rng_for(seed, 0)
