"""Cohorts: BIDS folders and corpora, and what they refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from finetune.cohort import load_cohort, refuse_leak
from finetune.prepare import prepare, read_scan, resample
from finetune.tasks import TASKS, participants_of
from synth.bids import find_scans
from synth.corpus import Corpus
from synth.engine import Job, generate
from synth.errors import UserError
from synth.generator import GeneratorSpec
from synth.sample import centred_affine
from tests.conftest import Run


@pytest.fixture
def bids(people: Corpus, tmp_path: Path, run: Run) -> Path:
    """The simulated cohort as a BIDS folder."""
    answer = run("synth", "export", people.path, "--out", tmp_path / "bids")
    assert answer.code == 0, answer.err
    return tmp_path / "bids"


def test_a_corpus_exported_to_bids_gives_the_same_people_and_volumes(people: Corpus, bids: Path) -> None:
    cohort, exported = load_cohort(people.path), load_cohort(bids)
    assert exported.simulated and cohort.simulated
    assert exported.table["age"].tolist() == pytest.approx(cohort.table["age"].tolist())
    assert exported.table["diagnosis"].tolist() == cohort.table["diagnosis"].tolist()
    grid = ((32, 40, 32), (5.0, 5.0, 5.0))
    name = next(iter(exported.scans))
    found = prepare(exported, [name], grid, lambda *_: None)[0, 0]
    truth = people.image(0)[0].astype(float)
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.7  # the head box is found from the outline alone


def test_missing_columns_are_named(bids: Path) -> None:
    table = pd.read_csv(bids / "participants.tsv", sep="\t")
    table.drop(columns="diagnosis").to_csv(bids / "participants.tsv", sep="\t", index=False)
    with pytest.raises(UserError, match="no column diagnosis"):
        participants_of(TASKS["ad"], load_cohort(bids))


def test_a_missing_scan_names_the_participant(bids: Path) -> None:
    shutil.rmtree(bids / "sub-synth000003")
    with pytest.raises(UserError, match=r"sub-synth000003 .* has no scan"):
        load_cohort(bids)


def test_a_participant_listed_twice_is_refused(bids: Path) -> None:
    lines = (bids / "participants.tsv").read_text().splitlines()
    (bids / "participants.tsv").write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(UserError, match="more than once"):
        load_cohort(bids)


@pytest.mark.parametrize("name", ["../outside", "/etc", "sub-1/../../x", "notsub"])
def test_a_participant_name_cannot_lead_out_of_the_folder(bids: Path, name: str) -> None:
    table = pd.read_csv(bids / "participants.tsv", sep="\t")
    table.loc[0, "participant_id"] = name
    table.to_csv(bids / "participants.tsv", sep="\t", index=False)
    with pytest.raises(UserError, match="expected names such as"):
        load_cohort(bids)


def test_words_for_diagnoses_are_understood(bids: Path) -> None:
    table = pd.read_csv(bids / "participants.tsv", sep="\t")
    table["Group"] = table["diagnosis"].map({"CN": "Nondemented", "AD": "Demented", "PD": "Parkinson"})
    table.drop(columns="diagnosis").to_csv(bids / "participants.tsv", sep="\t", index=False)
    people, target = participants_of(TASKS["ad"], load_cohort(bids))
    assert 0 < target.sum() < len(people)


def test_a_truncated_scan_is_named(bids: Path) -> None:
    scan = bids / "sub-synth000000" / "anat" / "sub-synth000000_T1w.nii.gz"
    scan.write_bytes(scan.read_bytes()[:2000])
    cohort = load_cohort(bids)
    with pytest.raises(UserError, match="sub-synth000000_T1w"):
        prepare(cohort, ["sub-synth000000"], ((32, 40, 32), (5.0, 5.0, 5.0)), lambda *_: None)


@pytest.mark.parametrize("axes", ["LIA", "PSR", "RAS", "SAL"])
def test_orientation_on_disk_does_not_matter(tmp_path: Path, people: Corpus, axes: str) -> None:
    image, affine = people.image(0)[0].astype(np.float32), centred_affine((32, 40, 32), (5.0, 5.0, 5.0))
    stored = nibabel.Nifti1Image(image, affine)
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(axes))
    nibabel.save(stored.as_reoriented(turn), tmp_path / "x.nii.gz")
    read, read_affine = read_scan(tmp_path / "x.nii.gz")
    assert nibabel.aff2axcodes(read_affine) == ("R", "A", "S")
    assert np.allclose(read_affine, affine)
    assert np.corrcoef(read.ravel(), image.ravel())[0, 1] > 0.999


def test_resampling_puts_a_point_where_its_millimetres_say() -> None:
    image = np.zeros((20, 20, 20), np.float32)
    image[12, 6, 15] = 1.0
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    moved = resample(image, affine, np.array([20.0, 20.0, 20.0]), ((21, 21, 21), (2.0, 2.0, 2.0)))
    peak = np.unravel_index(moved.argmax(), moved.shape)
    grid = centred_affine((21, 21, 21), (2.0, 2.0, 2.0))
    grid[:3, 3] += 20.0
    assert np.allclose((grid @ [*peak, 1])[:3], (affine @ [12, 6, 15, 1])[:3], atol=1.01)


def test_weights_of_the_same_corpus_or_the_same_draws_are_refused(people: Corpus, corpus: Corpus) -> None:
    cohort = load_cohort(people.path)
    with pytest.raises(UserError, match="this very cohort"):
        refuse_leak(cohort, people.parent(), "w")
    twin = {**people.parent(), "identity": "other"}
    with pytest.raises(UserError, match="the same people"):
        refuse_leak(cohort, twin, "w")
    refuse_leak(cohort, corpus.parent(), "w")  # another seed of the same template is other people


def test_weights_from_label_maps_of_the_cohorts_people_are_refused(people: Corpus, corpus: Corpus) -> None:
    cohort = load_cohort(people.path)
    source = {"kind": "label map", "sha256": "abc", "name": "x"}
    cohort.parents[0]["parents"] = [source]
    grandparent = {**corpus.parent(), "parents": [{"kind": "generator weights", "sha256": "w", "parents": [source]}]}
    with pytest.raises(UserError, match="must not share people"):
        refuse_leak(cohort, grandparent, "w")


@pytest.fixture
def visits(tmp_path: Path) -> Path:
    """A BIDS folder of two people, the first with two sessions: eggs with a bright end."""
    head = np.zeros((20, 22, 20), np.float32)
    head[4:16, 3:19, 4:16] = 50.0
    for at, name in enumerate(("sub-01/ses-1", "sub-01/ses-2", "sub-02")):
        folder = tmp_path / "visits" / name / "anat"
        folder.mkdir(parents=True)
        head[5:15, 15:18, 5:15] = 60.0 + at
        nibabel.save(nibabel.Nifti1Image(head, np.diag([8.0, 8, 8, 1])), folder / f"{name.replace('/', '_')}_T1w.nii")
    (tmp_path / "visits/participants.tsv").write_text("participant_id\tage\nsub-01\t60\nsub-02\t70\n")
    return tmp_path / "visits"


def imported(folder: Path, out: Path) -> Corpus:
    """The folder's scans as a corpus."""
    spec = GeneratorSpec("Scans", {"folder": folder, "shape": (20, 22, 20), "spacing": 8.0})
    assert not generate(Job(spec, len(find_scans(folder, "T1w")), 0, out)).failed
    return Corpus(out)


def test_a_corpus_of_scans_has_the_people_of_its_folder_and_one_scan_of_each(visits: Path, tmp_path: Path) -> None:
    cohort, direct = load_cohort(imported(visits, tmp_path / "c.zarr").path), load_cohort(visits)
    assert cohort.scans == {"sub-01": 0, "sub-02": 2}
    assert cohort.table.index.tolist() == direct.table.index.tolist() == ["sub-01", "sub-02"]
    assert cohort.table["age"].tolist() == [60.0, 70.0]
    assert not cohort.simulated and not direct.simulated


def test_weights_pretrained_on_a_cohorts_own_scans_are_refused(visits: Path, tmp_path: Path) -> None:
    corpus = imported(visits, tmp_path / "c.zarr")
    with pytest.raises(UserError, match=r"same 3 label map\(s\) or scans"):  # the visit not used is of the same person
        refuse_leak(load_cohort(visits), corpus.parent(), "w")
    with pytest.raises(UserError, match=r"same 3 label map\(s\) or scans"):
        refuse_leak(load_cohort(corpus.path), {**corpus.parent(), "identity": "other"}, "w")


def test_weights_pretrained_on_other_scans_are_welcome(visits: Path, tmp_path: Path) -> None:
    shutil.move(visits / "sub-01", tmp_path / "others" / "sub-01")
    cohort = load_cohort(imported(tmp_path / "others", tmp_path / "others.zarr").path)
    refuse_leak(
        cohort, imported(visits, tmp_path / "rest.zarr").parent(), "w"
    )  # the same generator and seed, which say nothing of scans
