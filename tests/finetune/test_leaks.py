"""The leak guard: twenty leaks are refused, each in one sentence that names it; what only looks like one is let through."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from finetune.cohort import Cohort, load_cohort
from finetune.layouts import layouts
from finetune.leaks import refuse_leak
from finetune.protocol import Arm, Protocol, run_experiment
from finetune.splits import Split
from finetune.tasks import TASKS, participants_of
from pretrain.weights import Weights
from synth.corpus import Corpus
from synth.errors import UserError
from tests.conftest import Run
from tests.finetune.studies import GRID, egg, imported, make_study, put_scan, scan_path, write_split

TEN = [f"sub-{number:02d}" for number in range(10)]
SIDES = [(name, "test" if name in TEN[7:] else "train") for name in TEN]


@dataclass
class Bench:
    """What cases are made of: a folder of their own, and a simulated cohort."""

    tmp: Path
    people: Corpus
    run: Run

    def study(self, scans: list[str] = TEN, name: str = "", folder: str = "study", first: int = 0) -> Path:
        """A BIDS folder of eggs."""
        return make_study(self.tmp / folder, scans, name, first)

    def fit(self, folder: Path, **options: Any) -> None:
        """Run brain age on a cohort, up to its results."""
        visits = options.pop("visits", "first")
        protocol = Protocol(folds=2, grid=GRID, **options)
        cohort = load_cohort(folder, visits=visits)
        run_experiment(cohort, TASKS["age"], [Arm("untrained")], protocol, self.tmp / "r", lambda *_: None)

    def weights_on(self, record: dict[str, Any], cohort: Path | Cohort, **options: Any) -> None:
        """Ask the guard about weights that saw the corpus of ``record``."""
        refuse_leak(cohort if isinstance(cohort, Cohort) else load_cohort(cohort), record, "w", **options)


@pytest.fixture
def bench(tmp_path: Path, people: Corpus, run: Run) -> Bench:
    """A bench."""
    return Bench(tmp_path, people, run)


def drawn_by_diffusion(trained_on: dict[str, Any]) -> dict[str, Any]:
    """The record of a corpus drawn by a generator that was trained on another, as DiffusionWeights.parents writes it."""
    further = trained_on["parents"]
    own = {key: value for key, value in trained_on.items() if key != "parents"}
    return {
        "kind": "corpus",
        "name": "drawn.zarr",
        "identity": "drawn",
        "seed": 5,
        "recipe": {"generator": {"class_path": "synth.diffusion.generator.Diffusion", "init_args": {}}},
        "parents": [{"kind": "generator weights", "name": "d", "sha256": "d"}, own, *further],
    }


def mixture_of(*parts: dict[str, Any]) -> dict[str, Any]:
    """The record of weights that saw several corpora."""
    return {"recipe": {"mixture": [1.0] * len(parts)}, "parents": list(parts)}


def copied(source: Path, target: Path, axes: str = "LSP") -> None:
    """The same voxels in another file: another data type, header, order of axes, uncompressed."""
    image: Any = nibabel.load(source)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(axes)
    )
    again = image.as_reoriented(turn)
    data = np.asarray(again.dataobj).astype(np.int16)
    shutil.rmtree(target.parent)
    target.parent.mkdir()
    fresh = nibabel.Nifti1Image(data, again.affine)
    fresh.header["descrip"] = b"a copy"
    nibabel.save(fresh, target.with_name(target.name.removesuffix(".gz")))


# --- refused: within the cohort


def listed_twice(bench: Bench) -> None:
    table = bench.study() / "participants.tsv"
    table.write_text(table.read_text() + "sub-03\t70\tF\n")
    bench.fit(bench.tmp / "study")


def in_train_and_test(bench: Bench) -> None:
    bench.fit(bench.study(), split=write_split(bench.tmp / "s.tsv", [*SIDES, ("sub-03", "test")]))


def visits_on_two_sides(bench: Bench) -> None:
    folder = bench.study([f"{name}/ses-{visit}" for name in TEN for visit in (1, 2)])
    rows = [
        f"{name}\tses-{v}\t{'test' if name > 'sub-06' or (name, v) == ('sub-02', 2) else 'train'}"
        for name in TEN
        for v in (1, 2)
    ]
    (bench.tmp / "s.tsv").write_text("\n".join(["participant_id\tsession\tsplit", *rows]) + "\n")
    bench.fit(folder, visits="all", split=bench.tmp / "s.tsv")


def in_two_folds(bench: Bench) -> None:
    folds = [(name, f"fold-{1 + number % 2}") for number, name in enumerate(TEN)]
    bench.fit(bench.study(), split=write_split(bench.tmp / "s.tsv", [*folds, (TEN[0], "fold-2")]))


def on_both_sides_of_a_split_made_by_hand(_: Bench) -> None:
    Split(np.array([0, 1, 2]), np.array([2, 3]))


def at_two_sites(bench: Bench) -> None:
    folder = bench.study([f"{name}/ses-{visit}" for name in TEN for visit in (1, 2)])
    rows = [f"{name}\tses-{v}\t{'north' if name < 'sub-05' or v == 2 else 'south'}" for name in TEN for v in (1, 2)]
    (folder / "sessions.tsv").write_text("\n".join(["participant_id\tsession_id\tsite", *rows]) + "\n")
    bench.fit(folder, visits="all", test_site="south")


def a_file_under_two_names(bench: Bench) -> None:
    folder = bench.study()
    shutil.copy(scan_path(folder, "sub-01"), scan_path(folder, "sub-08"))
    bench.fit(folder, split=write_split(bench.tmp / "s.tsv", SIDES))


def a_scan_saved_anew_under_another_name(bench: Bench) -> None:
    folder = bench.study()
    copied(scan_path(folder, "sub-01"), scan_path(folder, "sub-08"))
    bench.fit(folder, split=write_split(bench.tmp / "s.tsv", SIDES))


def a_sample_twice_in_a_corpus(bench: Bench) -> None:
    folder = bench.study()
    shutil.copy(scan_path(folder, "sub-01"), scan_path(folder, "sub-08"))
    corpus = imported(folder, bench.tmp / "c.zarr")
    bench.fit(corpus.path, split=write_split(bench.tmp / "s.tsv", SIDES))


# --- refused: what the weights have seen


def the_very_corpus(bench: Bench) -> None:
    bench.weights_on(bench.people.parent(), bench.people.path)


def more_draws_of_the_same_seed(bench: Bench) -> None:
    bench.weights_on({**bench.people.parent(), "identity": "longer", "count": 500}, bench.people.path)


def one_part_of_a_mixture(bench: Bench) -> None:
    other = {**bench.people.parent(), "identity": "other", "seed": 7}
    bench.weights_on(mixture_of(other, bench.people.parent()), bench.people.path)


def weights_that_began_from_weights(bench: Bench) -> None:
    start = {"parent": {"corpus": bench.people.parent(), "start": None}}
    other = {**bench.people.parent(), "identity": "other", "seed": 7}
    about = Weights("sfcn_s", GRID[0], GRID[1], 1, "mae", {}, {}, other, start=start)
    for corpus in about.corpora():
        bench.weights_on(corpus, bench.people.path)


def label_maps_of_the_same_people(bench: Bench) -> None:
    cohort = load_cohort(bench.people.path)
    cohort.parents[0]["parents"] = [{"kind": "label map", "sha256": "abc", "name": "x"}]
    other = {**bench.people.parent(), "identity": "o", "seed": 7, "parents": cohort.parents[0]["parents"]}
    bench.weights_on(other, cohort)


def the_cohorts_own_scans(bench: Bench) -> None:
    folder = bench.study()
    bench.weights_on(imported(folder, bench.tmp / "c.zarr").parent(), folder)


def scans_saved_anew(bench: Bench) -> None:
    folder = bench.study()
    shutil.copytree(folder, bench.tmp / "copy")
    copied(scan_path(folder, "sub-01"), scan_path(bench.tmp / "copy", "sub-01"))
    for name in ("sub-00", *TEN[2:]):
        shutil.rmtree(bench.tmp / "copy" / name)
    bench.weights_on(imported(bench.tmp / "copy", bench.tmp / "c.zarr").parent(), folder)


def another_visit_of_the_same_person(bench: Bench) -> None:
    folder = bench.study(name="OASIS-9")
    later = bench.study(["sub-04/ses-2"], name="oasis-9", folder="later", first=40)
    bench.weights_on(imported(later, bench.tmp / "c.zarr").parent(), folder)


def a_generator_trained_on_the_cohort(bench: Bench) -> None:
    bench.weights_on(drawn_by_diffusion(bench.people.parent()), bench.people.path)


def a_generator_trained_on_the_cohorts_scans(bench: Bench) -> None:
    folder = bench.study()
    bench.weights_on(drawn_by_diffusion(imported(folder, bench.tmp / "c.zarr").parent()), folder)


def the_cohort_exported_and_imported(bench: Bench) -> None:
    assert bench.run("synth", "export", bench.people.path, "--out", bench.tmp / "bids").code == 0
    options = ("--shape", "32,40,32", "--spacing", 5, "--workers", 0)
    assert bench.run("synth", "import", bench.tmp / "bids", *options, "--out", bench.tmp / "again.zarr").code == 0
    bench.weights_on(Corpus(bench.tmp / "again.zarr").parent(), bench.people.path)


LEAKS: list[tuple[Callable[[Bench], None], str]] = [
    (listed_twice, "sub-03 more than once"),
    (in_train_and_test, "sub-03 in train and test"),
    (visits_on_two_sides, "sub-02 in train and test"),
    (in_two_folds, "sub-00 in fold-1 and fold-2"),
    (on_both_sides_of_a_split_made_by_hand, r"1 participant\(s\) are in train and test"),
    (at_two_sites, "sub-05 of cohort .* was scanned at south and north"),
    (a_file_under_two_names, "sub-01 and sub-08 .* have the same voxels"),
    (a_scan_saved_anew_under_another_name, "sub-01 and sub-08 .* have the same voxels"),
    (a_sample_twice_in_a_corpus, "sub-01 and sub-08 .* have the same voxels"),
    (the_very_corpus, "pre-trained on this very cohort"),
    (more_draws_of_the_same_seed, "with seed 99 .* the same people"),
    (one_part_of_a_mixture, "pre-trained on this very cohort"),
    (weights_that_began_from_weights, "pre-trained on this very cohort"),
    (label_maps_of_the_same_people, r"the same 1 label map\(s\) or scans"),
    (the_cohorts_own_scans, r"the same 10 label map\(s\) or scans"),
    (scans_saved_anew, r"the same 1 label map\(s\) or scans"),
    (another_visit_of_the_same_person, r"scans of 1 participant\(s\) of the cohort \(sub-04 of data set 'oasis-9'\)"),
    (a_generator_trained_on_the_cohort, "pre-trained on what was made from this very cohort"),
    (a_generator_trained_on_the_cohorts_scans, r"the same 10 label map\(s\) or scans"),
    (the_cohort_exported_and_imported, "pre-trained on what was made from this very cohort"),
]


@pytest.mark.parametrize("leak, said", LEAKS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_leak_is_refused_in_one_sentence_and_nothing_is_written(
    bench: Bench, leak: Callable[[Bench], None], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        leak(bench)
    assert "\n" not in str(caught.value)
    assert not (bench.tmp / "r").exists()


def test_there_are_twenty_leaks() -> None:
    assert len({leak.__name__ for leak, _ in LEAKS}) == 20


# --- refused: between the cohort and an external one


def run_with_external(bench: Bench, cohort: Path, external: Path) -> None:
    """Run brain age on a cohort, tested on another one too, without looking at an image."""
    protocol, arms = Protocol(folds=2, grid=GRID), [Arm("mean", control="mean")]
    run_experiment(
        load_cohort(cohort),
        TASKS["age"],
        arms,
        protocol,
        bench.tmp / "r",
        lambda *_: None,
        externals=[load_cohort(external)],
    )


def the_same_corpus_under_another_name(bench: Bench) -> None:
    shutil.copytree(bench.people.path, bench.tmp / "copy.zarr")
    run_with_external(bench, bench.people.path, bench.tmp / "copy.zarr")


def more_draws_of_the_cohorts_seed(bench: Bench) -> None:
    options = ("--generator.shape", "32,40,32", "--generator.spacing", 5, "--generator.diagnoses", "CN", "--workers", 0)
    words = ("--generator", "LabelMap", "--count", 8, "--seed", 99, "--out", bench.tmp / "more.zarr")
    assert bench.run("synth", "generate", *words, *options).code == 0
    run_with_external(bench, bench.people.path, bench.tmp / "more.zarr")


def a_folder_and_the_corpus_of_its_scans(bench: Bench) -> None:
    folder = bench.study()
    run_with_external(bench, folder, imported(folder, bench.tmp / "c.zarr").path)


def a_corpus_of_scans_and_its_folder(bench: Bench) -> None:
    folder = bench.study()
    run_with_external(bench, imported(folder, bench.tmp / "c.zarr").path, folder)


def two_corpora_that_hold_one_scan(bench: Bench) -> None:
    ours, theirs = bench.study(), bench.study(folder="others", first=40)
    shutil.copy(scan_path(ours, "sub-01"), scan_path(theirs, "sub-08"))
    run_with_external(bench, imported(ours, bench.tmp / "c.zarr").path, imported(theirs, bench.tmp / "d.zarr").path)


def later_visits_of_the_cohorts_people(bench: Bench) -> None:
    later = bench.study(name="oasis-9", folder="later", first=40)
    run_with_external(bench, bench.study(name="OASIS-9"), imported(later, bench.tmp / "c.zarr").path)


SHARED: list[tuple[Callable[[Bench], None], str]] = [
    (the_same_corpus_under_another_name, "are one corpus"),
    (more_draws_of_the_cohorts_seed, "with seed 99: the same people"),
    (a_folder_and_the_corpus_of_its_scans, r"share participants or scans \(sub-00, sub-01, sub-02\)"),
    (a_corpus_of_scans_and_its_folder, r"share participants or scans \(sub-00, sub-01, sub-02\)"),
    (two_corpora_that_hold_one_scan, r"share participants or scans \(sub-0"),
    (later_visits_of_the_cohorts_people, r"share participants or scans \(sub-00, sub-01, sub-02\)"),
]


@pytest.mark.parametrize("leak, said", SHARED, ids=lambda value: getattr(value, "__name__", ""))
def test_an_external_cohort_that_shares_people_is_refused(
    bench: Bench, leak: Callable[[Bench], None], said: str
) -> None:
    test_a_leak_is_refused_in_one_sentence_and_nothing_is_written(bench, leak, said)


# --- lawful


def an_external_cohort_of_other_people(bench: Bench) -> None:
    others = bench.study([f"sub-{number}" for number in range(50, 60)], name="OASIS-9", folder="others", first=40)
    ours = bench.study(name="OASIS-9")
    run_with_external(bench, ours, imported(others, bench.tmp / "c.zarr").path)


def another_seed_of_the_same_template(bench: Bench) -> None:
    bench.weights_on({**bench.people.parent(), "identity": "other", "seed": 7}, bench.people.path)


def a_generator_trained_on_another_seed(bench: Bench) -> None:
    trained = {**bench.people.parent(), "identity": "other", "seed": 7}
    bench.weights_on(drawn_by_diffusion(trained), bench.people.path)


def other_people_of_the_same_data_set(bench: Bench) -> None:
    others = bench.study(["sub-90", "sub-91"], name="OASIS-9", folder="others", first=40)
    bench.weights_on(imported(others, bench.tmp / "c.zarr").parent(), bench.study(name="OASIS-9"))


def the_same_ids_in_another_data_set(bench: Bench) -> None:
    others = bench.study(name="IXI", folder="others", first=40)
    bench.weights_on(imported(others, bench.tmp / "c.zarr").parent(), bench.study(name="OASIS-9"))


def the_same_ids_in_data_sets_without_a_name(bench: Bench) -> None:
    others = bench.study(folder="others", first=40)
    bench.weights_on(imported(others, bench.tmp / "c.zarr").parent(), bench.study())


def pretraining_on_those_who_are_only_learnt_from(bench: Bench) -> None:
    folder = bench.study(name="OASIS-9")
    shutil.copytree(folder, bench.tmp / "train")
    for name in TEN[7:]:
        shutil.rmtree(bench.tmp / "train" / name)
    bench.weights_on(imported(bench.tmp / "train", bench.tmp / "c.zarr").parent(), folder, tested=set(TEN[7:]))


def twins_on_one_side(bench: Bench) -> None:
    folder = bench.study()
    shutil.copy(scan_path(folder, "sub-01"), scan_path(folder, "sub-02"))
    bench.fit(folder, split=write_split(bench.tmp / "s.tsv", SIDES))


def one_person_whose_visits_hold_the_same_voxels(bench: Bench) -> None:
    folder = bench.study()
    shutil.rmtree(folder / "sub-01")
    for visit in (1, 2):
        put_scan(folder, f"sub-01/ses-{visit}", 1)
    bench.fit(folder, visits="all")


def all_visits_of_everybody_in_folds(bench: Bench) -> None:
    bench.fit(bench.study([f"{name}/ses-{visit}" for name in TEN for visit in (1, 2, 3)]), visits="all")


LAWFUL = [
    an_external_cohort_of_other_people,
    another_seed_of_the_same_template,
    a_generator_trained_on_another_seed,
    other_people_of_the_same_data_set,
    the_same_ids_in_another_data_set,
    the_same_ids_in_data_sets_without_a_name,
    pretraining_on_those_who_are_only_learnt_from,
    twins_on_one_side,
    one_person_whose_visits_hold_the_same_voxels,
    all_visits_of_everybody_in_folds,
]


@pytest.mark.parametrize("case", LAWFUL, ids=lambda case: str(case.__name__))
def test_what_only_looks_like_a_leak_is_let_through(bench: Bench, case: Callable[[Bench], None]) -> None:
    case(bench)


def test_all_scans_of_a_person_stay_on_one_side_of_every_split(bench: Bench) -> None:
    scans = [f"{name}/ses-{visit}" for number, name in enumerate(TEN) for visit in range(1, 2 + number % 3)]
    cohort, task = load_cohort(bench.study(scans), visits="all"), TASKS["age"]
    rows, target = participants_of(task, cohort)
    assert len(rows) == len(scans) > len(TEN)
    who = np.array(cohort.people(rows))
    for layout in layouts(cohort, task, rows, target, Protocol(seeds=3, folds=2, labels=8)):
        for _, split in layout.splits:
            assert not set(who[split.train]) & set(who[split.test])
        assert sorted(np.concatenate([split.test for _, split in layout.splits])) == list(range(len(rows)))


def test_eggs_differ() -> None:
    assert len({egg(number).tobytes() for number in range(50)}) == 50
