"""Near-copies are found, others are not taken for copies, and the threshold comes from volumes that cannot be copies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from synth.audit import features, planted
from synth.audit.copies import ALARMS, membership, threshold_of
from synth.audit.fingerprint import detail, fingerprint
from synth.audit.grid import Volumes
from synth.audit.matching import Probe, candidates_of
from synth.audit.searching import find_copies
from synth.corpus import Corpus
from synth.engine import Job, generate
from synth.generator import Generator, GeneratorSpec
from synth.keys import rng_for
from synth.testing import GeneratorConformance
from tests.synth.heads import Heads

HEADS, VISITS = "tests.synth.heads.Heads", "tests.synth.heads.Visits"
Search = Callable[[str, bool], Any]
PLANTED = "synth.audit.planted.Planted"


@contextlib.contextmanager
def silent(title: str) -> Iterator[Callable[..., None]]:
    yield lambda *told: None


def make(out: Path, spec: GeneratorSpec, count: int, seed: int) -> Path:
    generate(Job(spec, count, seed, out))
    return out


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reference, held-out and fresh heads, and a corpus of fresh ones of which 5 % are near-copies of the reference."""
    folder = tmp_path_factory.mktemp("heads")
    people = GeneratorSpec(HEADS)
    made = {
        name: make(folder / f"{name}.zarr", people, count, seed)
        for seed, (name, count) in enumerate({"reference": 60, "holdout": 60, "fresh": 120}.items())
    }
    options = {"source": made["reference"], "share": 0.05}
    made["planted"] = make(folder / "planted.zarr", GeneratorSpec(PLANTED, options), 120, 3)
    return made


@pytest.fixture(scope="module")
def search(corpora: dict[str, Path]) -> Callable[[str, bool], Any]:
    """The copies found in one corpus, with held-out volumes or without; each searched once."""
    return lru_cache(lambda made, held_out: searched(corpora, made, held_out))


def searched(corpora: dict[str, Path], made: str, held_out: bool) -> Any:
    sets = [Volumes(Corpus(corpora["reference"]), "reference"), Volumes(Corpus(corpora[made]), "synthetic")]
    apart = Volumes(Corpus(corpora["holdout"]), "held-out") if held_out else None
    every = sets + ([apart] if apart is not None else [])
    described = features.standardised_by(*(features.describe_all(one, lambda *told: None) for one in every))
    return find_copies(sets[1], sets[0], apart, described, silent)


@pytest.mark.parametrize("held_out", [True, False], ids=["with held-out volumes", "without"])
def test_at_least_95_percent_of_planted_copies_are_found_at_1_percent_false_alarms(
    corpora: dict[str, Path], search: Search, held_out: bool
) -> None:
    found = search("planted", held_out).as_json(0)
    counts = planted.Benchmark({"copies": found}, Corpus(corpora["planted"])).as_json()
    assert counts["planted"] >= 4
    assert counts["found"] >= 0.95 * counts["planted"]
    assert counts["alarms"] <= 0.01 * counts["others"]
    assert counts["traced"] == counts["found"]


@pytest.mark.slow
def test_most_planted_copies_of_coarse_label_map_volumes_are_found(tmp_path: Path) -> None:
    """At 7 mm, where docs/audit.md says 7 of 8; what is promised at 4 mm would take minutes to make."""
    made = planted.make(tmp_path, 0, (50, 40, 40), {"shape": (24, 28, 24), "spacing": 7.0}, {"share": 0.2})
    counts = planted.detect(made["planted"], made["reference"], made["holdout"]).as_json()
    assert counts["planted"] >= 4
    assert counts["found"] > 0.8 * counts["planted"]
    assert counts["alarms"] <= 0.01 * counts["others"]


def test_a_corpus_audited_against_itself_is_all_copies(search: Search) -> None:
    found = search("reference", True)
    assert found.copied.all()
    assert (found.pixels.samples.index == np.arange(60)).all()
    assert not found.pixels.samples.mirrored.any()


def test_training_volumes_betray_themselves_only_where_they_were_copied(search: Search) -> None:
    copied, fresh = search("reference", True).as_json(0), search("fresh", True).as_json(0)
    assert copied["pixels"]["membership_auc"]["value"] > 0.99
    assert copied["pixels"]["nearer_to_training"]["value"] == 1.0
    for space in ("pixels", "features"):
        auc, nearer = fresh[space]["membership_auc"], fresh[space]["nearer_to_training"]
        assert auc["low"] < 0.5 < auc["high"], space
        assert 0.35 < nearer["value"] < 0.65, space  # by chance a half


def test_without_held_out_volumes_membership_is_not_told(search: Search) -> None:
    found = search("planted", False).as_json(0)
    assert "membership_auc" not in found["pixels"]
    assert found["threshold_from"] == "reference volumes, each left out"


@pytest.mark.parametrize("visits", [3, 6])
def test_copies_of_people_who_come_several_times_are_found_and_nobody_else_is_taken_for_one(
    tmp_path: Path, visits: int
) -> None:
    reference = make(tmp_path / "visits.zarr", GeneratorSpec(VISITS, {"visits": visits}), 36, 0)
    mixed = make(tmp_path / "planted.zarr", GeneratorSpec(PLANTED, {"source": reference, "share": 0.4}), 40, 1)
    found = searched({"reference": reference, "planted": mixed}, "planted", False).as_json(0)
    counts = planted.Benchmark({"copies": found}, Corpus(mixed)).as_json()
    assert counts["planted"] >= 10
    assert (counts["found"], counts["alarms"]) == (counts["planted"], 0)


def test_a_participants_own_volumes_are_neither_neighbours_nor_what_a_neighbour_is_compared_with() -> None:
    likeness = np.array([9.0, 8.5, 8.0, *np.arange(7.5, 0, -0.5)])
    alone = candidates_of(likeness, np.arange(len(likeness)))
    assert alone.tolist() == list(range(8))
    family = np.array([0] * 9 + list(range(1, 10)))
    chosen = candidates_of(likeness, family)
    assert {int(p) for p in family[chosen]} == set(range(8)) and set(range(8)) <= set(chosen.tolist())


@pytest.fixture(scope="module")
def head() -> np.ndarray[Any, Any]:
    generator = Heads(spacing=7.0)
    return generator.render(generator.draw(rng_for(5, 0))).image[0]


def test_a_shift_leaves_the_fingerprint_as_it_is(head: np.ndarray[Any, Any]) -> None:
    inside = np.pad(head[6:18, 6:22, 6:18], 6)  # away from the edges, where the window falls off
    moved = np.roll(inside, (1, -1, 1), (0, 1, 2))
    other = np.pad(Heads().render(Heads().draw(rng_for(6, 0))).image[0][6:18, 6:22, 6:18], 6)
    own, shifted, another = (fingerprint(detail(x)) for x in (inside, moved, other))
    assert np.corrcoef(own, shifted)[0, 1] > 0.97
    assert np.corrcoef(own, another)[0, 1] < 0.9


def test_detail_does_not_see_gain_and_offset(head: np.ndarray[Any, Any]) -> None:
    np.testing.assert_allclose(detail(head), detail(2.5 * head + 40), atol=2e-3)


@pytest.mark.parametrize("shift", [(0, 0, 0), (3, -2, 1), (-4, 4, -3)])
def test_alignment_finds_the_shift_and_explains_the_rest(head: np.ndarray[Any, Any], shift: tuple[int, ...]) -> None:
    target, moved = detail(head), detail(np.roll(head, shift, (0, 1, 2)))
    probe = Probe.of(moved)
    assert probe.best_shift(target) == shift
    assert probe.unexplained(target, shift) < 0.05  # type: ignore[arg-type]
    other = detail(Heads().render(Heads().draw(rng_for(6, 0))).image[0])
    assert probe.unexplained(other, probe.best_shift(other)) > 0.2


@pytest.mark.parametrize("tail", ["normal", "laplace"])
def test_the_threshold_leaves_few_false_alarms_whatever_the_tail(tail: str) -> None:
    rng = np.random.default_rng(0)
    held = [np.exp(-0.2 + 0.08 * getattr(rng, tail)(size=100)) for _ in range(200)]
    fresh = np.exp(-0.2 + 0.08 * getattr(rng, tail)(size=100_000))
    alarms = [(fresh < threshold_of(ratios)).mean() for ratios in held]
    assert np.mean(alarms) < 4 * ALARMS  # a threshold from 100 volumes is uncertain itself
    assert np.percentile(alarms, 95) < 0.01


def test_a_few_copies_among_held_out_volumes_hardly_move_the_threshold() -> None:
    rng = np.random.default_rng(0)
    ratios = np.exp(rng.normal(-0.2, 0.08, 100))
    leaked = np.where(np.arange(100) < 3, 0.05, ratios)
    assert threshold_of(leaked) == pytest.approx(threshold_of(ratios), rel=0.1)
    assert threshold_of(leaked) > 0.05


def test_membership_is_half_for_strangers_and_one_for_copies() -> None:
    rng = np.random.default_rng(0)
    members, strangers = rng.uniform(0.8, 1, 300), rng.uniform(0.8, 1, 200)
    same, told = membership(members, strangers, 0, "x"), membership(members - 0.5, strangers, 0, "x")
    assert same.low < 0.5 < same.high
    assert (told.value, told.low, told.high) == pytest.approx((1.0, 1.0, 1.0))


class TestPlantedConforms(GeneratorConformance):
    samples: ClassVar[int] = 4
    folder: ClassVar[dict[str, Path]]

    @pytest.fixture(autouse=True)
    def _folder(self, corpora: dict[str, Path]) -> None:
        type(self).folder = corpora

    def make(self) -> Generator:
        return planted.Planted(self.folder["reference"], 0.5)
