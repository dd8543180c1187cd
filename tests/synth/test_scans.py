"""Real scans as volumes: what is found in a BIDS folder, where heads come to lie, what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest

from finetune.cohort import load_cohort
from finetune.prepare import prepare
from synth.anatomy.source import sha256_of
from synth.bids import find_scans, inside, licence_of
from synth.corpus import Corpus, as_stored
from synth.covariates import covariate_name, covariates_of
from synth.engine import Job, generate
from synth.errors import UserError
from synth.generator import Generator, GeneratorSpec
from synth.keys import rng_for
from synth.nifti import read_scan
from synth.scans import Scans
from synth.testing import GeneratorConformance
from synth.verify import verify
from synth.writing import RESERVED
from tests.conftest import ROOT, Run, spheres_in_a_box
from tests.synth import test_bad_input
from tests.synth.test_bad_input import refuse

place = test_bad_input.place
GRID: dict[str, Any] = {"shape": (20, 22, 20), "spacing": 10.0}
IMPORT = ("synth", "import", "bids", "--shape", "20,22,20", "--spacing", "10", "--workers", "0", "--out", "new.zarr")
TABLE = """participant_id\tAge\tgender\tGroup\tcenter\tMMSE score\timage\tlefty\tnote
sub-01\t71\tF\tNondemented\tnorth\t29.5\ta.nii\tTRUE\t7
sub-02\t64.5\tM\tDemented\tsouth\tn/a\tb.nii\tn/a\tquiet
sub-09\t50\tM\tDemented\tsouth\t20\tc.nii\tFALSE\tn/a
"""
SESSIONS = "session_id\tage\tweight\nses-1\t71.2\t60\nses-2\t73.9\tn/a\n"


def head(brightness: float = 1.0) -> np.ndarray:
    """A crude head ``[20, 22, 20]`` at 8 mm: a bright skull, and white matter darker on the left than on the right, so
    that a mirrored head is another one."""
    label = spheres_in_a_box()[::2, ::2, ::2]
    return (brightness * np.array([0, 20, 60, 110], np.float32))[np.digitize(label, [1, 3, 160]) % 4]


def save(path: Path, array: np.ndarray | None = None, shift: float = 0.0, axes: str = "RAS") -> Path:
    """Write a head to ``path``, its middle ``shift`` mm to the right of the scanner's, stored along ``axes``."""
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    affine[:3, 3] = [shift - 76.0, -84.0, -76.0]
    image = nibabel.Nifti1Image(head() if array is None else array, affine)
    if array is None or array.ndim == 3:
        ours, theirs = nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(axes)
        image = image.as_reoriented(nibabel.orientations.ornt_transform(ours, theirs))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """Two people: one with two visits, one with two runs; a table that lists a third; derivatives beside them."""
    folder = tmp_path / "bids"
    save(folder / "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz")
    save(folder / "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii", shift=30.0, axes="PSR")
    save(folder / "sub-02/anat/sub-02_run-1_T1w.nii.gz", head(3.0))
    save(folder / "sub-02/anat/sub-02_run-2_T1w.nii.gz", head(1.0)[:, :, ::-1].copy())
    save(folder / "sub-02/anat/sub-02_T2w.nii.gz")
    save(folder / "derivatives/other/sub-01/anat/sub-01_T1w.nii.gz")
    (folder / "sub-02/anat/._sub-02_T1w.nii.gz").write_bytes(b"what a Mac leaves")
    (folder / "sub-02/anat/sub-02_run-1_T1w.json").write_text("{}")
    (folder / "participants.tsv").write_text(TABLE)
    (folder / "sub-01/sub-01_sessions.tsv").write_text(SESSIONS)
    (folder / "dataset_description.json").write_text('{"Name": "toy", "License": "CC0"}')
    return folder


NAMES = [
    "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii",
    "sub-02/anat/sub-02_run-1_T1w.nii.gz",
    "sub-02/anat/sub-02_run-2_T1w.nii.gz",
]


class TestScansConform(GeneratorConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, bids: Path) -> None:
        type(self).folder = bids  # type: ignore[attr-defined]
        type(self).__dict__.get("_made") and delattr(type(self), "_made")

    def make(self) -> Generator:
        return Scans(self.folder, **GRID)  # type: ignore[attr-defined]


def at(scans: Scans, index: int) -> Any:
    """The ``index``-th volume."""
    return scans.render(scans.draw_at(index, rng_for(0, index)))


def test_every_session_and_run_is_a_sample_in_order_of_names(bids: Path) -> None:
    scans = Scans(bids, **GRID)
    assert len(scans) == 4
    drawn = [scans.draw_at(index, rng_for(0, index)) for index in range(4)]
    assert [params["scan"] for params in drawn] == NAMES
    assert [params["sha256"] for params in drawn] == [sha256_of(bids / name) for name in NAMES]


def test_another_suffix_is_other_scans(bids: Path) -> None:
    assert Scans(bids, suffix="T2w").names == ["sub-02/anat/sub-02_T2w.nii.gz"]


def test_an_index_beyond_the_last_scan_is_refused(bids: Path) -> None:
    with pytest.raises(UserError, match=r"there is no scan 4 .* expected 0 to 3"):
        Scans(bids, **GRID).draw_at(4, rng_for(0, 4))


def test_more_volumes_than_scans_are_refused_before_anything_is_written(bids: Path, tmp_path: Path, run: Run) -> None:
    words = ("--generator", "Scans", "--generator.folder", bids, "--count", 99, "--workers", 0)
    answer = run("synth", "generate", *words, "--out", tmp_path / "many.zarr")
    assert answer.code == 2 and len(answer.err.splitlines()) == 1 and not (tmp_path / "many.zarr").exists()


def test_draw_reaches_every_scan(bids: Path) -> None:
    scans = Scans(bids, **GRID)
    assert {scans.draw(rng_for(0, index))["scan"] for index in range(40)} == set(NAMES)


def test_heads_come_to_lie_alike_whatever_their_place_and_axes_on_disk(bids: Path) -> None:
    scans = Scans(bids, **GRID)
    one, other = at(scans, 0), at(scans, 1)
    assert one.image.shape == (1, 20, 22, 20) and one.spacing == (10.0, 10.0, 10.0)
    assert np.allclose(one.image, other.image, atol=1e-3) and np.array_equal(one.affine, other.affine)
    assert np.allclose((one.affine @ [9.5, 10.5, 9.5, 1])[:3], 0)  # the middle of the head is 0 mm, as in any corpus
    where = np.argwhere(one.image[0] > 0.3)
    assert np.allclose((where.min(0) + where.max(0))[:2] / 2, [9.5, 10.5], atol=0.51)


def test_brightness_is_that_of_no_scanner(bids: Path) -> None:
    scans = Scans(bids, **GRID)
    assert np.allclose(at(scans, 0).image, at(scans, 2).image, atol=1e-3)
    assert 0.7 < np.percentile(at(scans, 0).image, 99.5) < 1.1


def test_finetune_prepares_the_same_volume_from_the_folder_itself(bids: Path) -> None:
    (bids / "participants.tsv").write_text("\n".join(TABLE.splitlines()[:3]) + "\n")
    prepared = prepare(load_cohort(bids), ["sub-01"], ((20, 22, 20), (10.0,) * 3), lambda *_: None)
    assert np.array_equal(prepared[0], at(Scans(bids, **GRID), 0).image)


def test_covariates_are_the_tables_under_our_names(bids: Path) -> None:
    scans = Scans(bids, **GRID)
    first, second, third = (dict(at(scans, index).covariates) for index in (0, 1, 2))
    assert first == {
        "participant_id": "sub-01",
        "session": "ses-1",
        "age": 71.2,
        "Age_2": 71.0,
        "sex": "F",
        "gender": "F",
        "diagnosis": "CN",
        "Group": "Nondemented",
        "site": "north",
        "center": "north",
        "MMSE_score": 29.5,
        "image_2": "a.nii",
        "lefty": "True",
        "note": "7",
        "weight": 60.0,
    }
    assert (second["age"], second["session"]) == (73.9, "ses-2") and "weight" not in second
    assert (third["participant_id"], third["age"], third["diagnosis"]) == ("sub-02", 64.5, "AD")
    assert not {"MMSE_score", "lefty", "session"} & set(third)


def test_a_folder_without_tables_still_says_whose_scan_it_is(bids: Path) -> None:
    (bids / "participants.tsv").unlink()
    (bids / "sub-01/sub-01_sessions.tsv").unlink()
    assert dict(at(Scans(bids, **GRID), 2).covariates) == {"participant_id": "sub-02"}


def test_an_age_that_is_no_number_is_left_out(bids: Path) -> None:
    (bids / "sub-01/sub-01_sessions.tsv").unlink()
    (bids / "participants.tsv").write_text("participant_id\tage\tvolume_unit\nsub-01\t89+\tmL\nsub-02\t64\tmL\n")
    covariates = [dict(at(Scans(bids, **GRID), index).covariates) for index in (0, 2)]
    assert covariates == [{"participant_id": "sub-01", "session": "ses-1"}, {"participant_id": "sub-02", "age": 64.0}]


@pytest.mark.parametrize(
    "column, name",
    [
        ("MMSE score", "MMSE_score"),
        ("M/F", "M_F"),
        ("3T", "covariate_3T"),
        ("__zarr", "zarr"),
        ("../../x", "x_2"),
        ("", "covariate"),
        ("größe", "größe"),
        ("x²", "x2"),
        ("a" * 300, "a" * 60),
    ],
)
def test_a_column_gets_a_name_that_can_be_an_array(column: str, name: str) -> None:
    assert covariate_name(column) == name and name.isidentifier()


@pytest.mark.parametrize("name", RESERVED)
def test_no_column_gets_a_name_of_the_corpus_itself(name: str) -> None:
    for column in (name, name.upper()):
        assert covariate_name(column).isidentifier() and covariate_name(column).casefold() not in RESERVED


def test_two_columns_never_share_a_name() -> None:
    rows = covariates_of(pd.DataFrame({"a b": [1, 2], "a/b": [3, 4], "A_b": [5, 6], "a_b": [1, 2]}))
    assert rows[0] == {"a_b": 1.0, "a_b_2": 3.0, "A_b_3": 5.0}


def test_a_column_is_numbers_or_words_and_never_both() -> None:
    rows = covariates_of(
        pd.DataFrame({"mixed": [1, "two", None], "number": [1, np.inf, None], "blank": [" ", "x", ""]})
    )
    assert rows == [{"mixed": "1", "number": 1.0}, {"mixed": "two", "blank": "x"}, {}]


def test_parents_name_every_scan_table_and_licence(bids: Path) -> None:
    parents = Scans(bids, **GRID).parents()
    assert [(p["kind"], p["name"]) for p in parents] == [
        *(("scan", name) for name in NAMES),
        ("table", "participants.tsv"),
        ("table", "sub-01/sub-01_sessions.tsv"),
    ]
    assert all(p["licence"] == "CC0" and p["sha256"] == sha256_of(bids / p["name"]) for p in parents)
    (bids / "dataset_description.json").unlink()
    assert Scans(bids, **GRID).parents()[0]["licence"] == "not stated"


def test_simulated_people_stay_simulated_when_imported(tmp_path: Path, run: Run) -> None:
    people = tmp_path / "people.zarr"
    assert not generate(Job(GeneratorSpec("LabelMap", {"shape": (24, 28, 24), "spacing": 8.0}), 2, 0, people)).failed
    assert run("synth", "export", people, "--out", tmp_path / "simulated").code == 0
    parent = Scans(tmp_path / "simulated", **GRID).parents()[-1]
    assert (parent["kind"], parent["identity"]) == ("corpus", Corpus(people).identity())


# -- the command


def test_import_makes_a_corpus_of_every_scan(bids: Path, tmp_path: Path, run: Run) -> None:
    words = ("synth", "import", bids, "--shape", "20,22,20", "--spacing", "10", "--workers", "0")
    answer = run(*words, "--out", tmp_path / "a.zarr")
    assert answer.code == 0, answer.err
    assert "1 participant(s) of participants.tsv have no T1w scan and are left out, the first is sub-09" in answer.err
    corpus = Corpus(tmp_path / "a.zarr")
    assert len(corpus) == 4 and corpus.complete and not [p for _, found in verify(corpus) for p in found]
    assert [entry["params"]["scan"] for entry in corpus.entries()] == NAMES
    assert corpus.covariates()["session"].tolist()[:2] == ["ses-1", "ses-2"]
    for index in range(4):
        assert np.array_equal(corpus.stored(index), as_stored(at(Scans(bids, **GRID), index).image, "uint8")[0])
    assert run(*words, "--out", tmp_path / "b.zarr", "--shard-size", "3").code == 0
    assert Corpus(tmp_path / "b.zarr").identity() == corpus.identity()
    assert run("synth", "explain", tmp_path / "a.zarr", 1, "--check").out.endswith("the same bits\n")


def test_ray_workers_make_the_same_corpus(bids: Path, tmp_path: Path, ray_of_two: Any) -> None:
    spec = GeneratorSpec("Scans", {"folder": bids, **GRID})
    for name, workers in (("a.zarr", 0), ("b.zarr", 2)):
        assert not generate(Job(spec, 4, 0, tmp_path / name, shard_size=2), workers).failed
    assert Corpus(tmp_path / "a.zarr").identity() == Corpus(tmp_path / "b.zarr").identity()


def test_a_corpus_of_other_scans_is_not_gone_on_with(bids: Path, tmp_path: Path, run: Run) -> None:
    words = ("synth", "import", bids, "--shape", "20,22,20", "--spacing", "10", "--workers", "0")
    assert run(*words, "--out", tmp_path / "a.zarr").code == 0
    save(bids / NAMES[0], head()[::-1].copy() + np.float32(1))
    answer = run(*words, "--out", tmp_path / "a.zarr")
    assert answer.code == 2 and "the files it was made from, differ" in answer.err


# -- what is refused


def flat(array: np.ndarray) -> np.ndarray:
    return np.zeros_like(array)


@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(b"no NIfTI"), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-900]), "cannot be read"),
        (lambda path: save(path, np.stack([head()] * 2, -1)), "has 4 axes"),
        (lambda path: save(path, flat(head())), "is empty"),
        (lambda path: save(path, np.full((20, 22, 20), np.nan, np.float32)), "is empty"),
        (lambda path: save(path, np.ones((3, 3, 3), np.float32)), "shows no head"),
    ],
    ids=["no bytes", "no NIfTI", "truncated", "4-D", "black", "NaN", "no head"],
)
def test_a_bad_scan_is_refused_by_name_before_anything_is_made(
    spoil: Callable[[Path], Any],
    says: str,
    index: int,
    bids: Path,
    place: Path,
    run: Run,
) -> None:
    (bids / "participants.tsv").unlink()
    spoil(bids / NAMES[index])
    refuse(run, place, *IMPORT, says=says)
    refuse(run, place, *IMPORT, says=NAMES[index])


@pytest.mark.parametrize(
    "diagonal", [(1e-6, 1e-6, 1e-6), (8.0, 8.0, 0.0), (8000.0,) * 3], ids=["tiny", "singular", "huge"]
)
def test_voxels_without_a_size_are_refused(diagonal: tuple[float, ...], tmp_path: Path) -> None:
    header = nibabel.Nifti1Image(head(), np.eye(4)).header
    header["sform_code"], header["vox_offset"], header["magic"] = 1, 352, b"n+1"
    for row, (name, value) in enumerate(zip(("srow_x", "srow_y", "srow_z"), diagonal, strict=True)):
        header[name] = np.eye(4)[row] * value
    (tmp_path / "x.nii").write_bytes(header.binaryblock + bytes(4) + head().tobytes("F"))
    with pytest.raises(UserError, match=r"x\.nii"):
        read_scan(tmp_path / "x.nii")


@pytest.mark.parametrize(
    "words, says",
    [
        (("nowhere",), "there is no folder 'nowhere'"),
        (("bids/derivatives",), "'bids/derivatives' holds no T1w scan"),
        (("bids/participants.tsv",), "there is no folder 'bids/participants.tsv'"),
        (("bids", "--suffix", "../*"), "suffix is '../*'"),
        (("bids", "--suffix", "FLAIR"), "holds no FLAIR scan"),
        (("bids", "--shape", "4,4,4"), "shape is 4,4,4"),
        (("bids", "--spacing", "0"), "spacing is 0"),
        (("bids", "--shard-size", "0"), "--shard-size is 0"),
        (("bids", "--workers", "-1"), "--workers is -1"),
        (("bids", "--dtype", "int8"), "float16, float32"),
        ((), "BIDS"),
    ],
)
def test_a_bad_import_is_refused(
    words: tuple[str, ...],
    says: str,
    bids: Path,
    place: Path,
    run: Run,
) -> None:
    (bids / "participants.tsv").unlink()
    refuse(run, place, "synth", "import", *words, "--out", "new.zarr", says=says)


@pytest.mark.parametrize(
    "table, says",
    [
        ("", "is not a table"),
        ("name\tage\nsub-01\t3\n", "has no column participant_id"),
        (TABLE + "sub-01\t1\tF\tx\tx\t1\tx\tx\tx\n", "lists sub-01 more than once"),
        (TABLE + "../outside\t1\tF\tx\tx\t1\tx\tx\tx\n", "holds '../outside'; expected names such as sub-01"),
        (TABLE + "sub-1/../../x\t1\tF\tx\tx\t1\tx\tx\tx\n", "holds 'sub-1/../../x'"),
        (TABLE + "/etc/passwd\t1\tF\tx\tx\t1\tx\tx\tx\n", "holds '/etc/passwd'"),
    ],
)
def test_a_bad_table_of_participants_is_refused(
    table: str,
    says: str,
    bids: Path,
    place: Path,
    run: Run,
) -> None:
    (bids / "participants.tsv").write_text(table)
    refuse(run, place, *IMPORT, says=says)


def test_a_bad_table_of_sessions_is_refused(bids: Path, place: Path, run: Run) -> None:
    (bids / "sub-01/sub-01_sessions.tsv").write_text("visit\tage\n1\t70\n")
    refuse(run, place, *IMPORT, says="sub-01_sessions.tsv' is no table of sessions")


@pytest.mark.parametrize("name", ["/etc/hosts", "../x", "sub-01/../../x", "a\\b", "sub-01/\0"])
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str, bids: Path) -> None:
    with pytest.raises(UserError):
        inside(bids, name)
    with pytest.raises(UserError):
        Scans(bids, **GRID).render({"scan": name, "sha256": "0"})


def test_only_the_scans_themselves_are_rendered(bids: Path) -> None:
    other = "derivatives/other/sub-01/anat/sub-01_T1w.nii.gz"
    with pytest.raises(UserError, match="is none of the 4 T1w scans"):
        Scans(bids, **GRID).render({"scan": other, "sha256": sha256_of(bids / other)})


def test_a_scan_that_was_changed_since_its_record_was_drawn_is_refused(bids: Path) -> None:
    scans = Scans(bids, **GRID)
    params = scans.draw_at(0, rng_for(0, 0))
    save(bids / NAMES[0], head(2.0))
    with pytest.raises(UserError, match="was changed since its record was drawn"):
        scans.render(params)


@pytest.mark.parametrize(
    "name",
    [
        NAMES[0],
        "sub-03",
        "sub-02/ses-1",
        "sub-03/anat",
        "participants.tsv",
        "sub-01/sub-01_sessions.tsv",
        "dataset_description.json",
        "derivatives/brainloom/corpus.json",
    ],
)
def test_a_link_that_leads_out_of_the_folder_is_refused(
    name: str,
    bids: Path,
    place: Path,
    run: Run,
) -> None:
    outside, link = place / "outside", bids / name
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.exists():
        link.rename(outside)
    else:
        save(outside / "anat/sub-03_T1w.nii.gz")
    link.symlink_to(outside)
    with_warning = run(*IMPORT)
    assert with_warning.code == 2 and not (place / "new.zarr").exists()
    sentence = with_warning.err.splitlines()[-1]
    assert sentence.startswith("brainloom: error:") and f"'{name}' is a link that leads out" in sentence


def test_links_within_the_folder_are_followed(bids: Path) -> None:
    """As git-annex and DataLad keep the content of files."""
    scan, content = bids / NAMES[0], bids / ".git/annex/objects/abc"
    before = at(Scans(bids, **GRID), 0).image
    content.parent.mkdir(parents=True)
    scan.rename(content)
    scan.symlink_to(os.path.relpath(content, scan.parent))
    with pytest.raises(UserError):  # the name decides how nibabel reads it, not where its content lies
        read_scan(content)
    assert np.array_equal(at(Scans(bids, **GRID), 0).image, before)
    content.unlink()
    with pytest.raises(UserError, match="a link to nothing"):
        find_scans(bids, "T1w")


def test_a_link_that_goes_in_circles_is_refused(bids: Path) -> None:
    (bids / NAMES[0]).unlink()
    (bids / NAMES[0]).symlink_to(bids / NAMES[0])
    with pytest.raises(UserError, match="sub-01_ses-1_T1w"):
        find_scans(bids, "T1w")


# -- skull stripping


def test_strip_without_deepbet_names_the_command_that_mends_it(
    bids: Path,
    place: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refuse(run, place, *IMPORT, "--strip", says="pip install deepbet==1.0.2")


def test_stripped_volumes_hold_the_brain_alone_in_the_middle(bids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((20, 22, 20), bool)
    mask[6:14, 5:15, 7:17] = True
    monkeypatch.setattr("synth.strip.check_installed", lambda: None)
    monkeypatch.setattr("synth.strip.brain_mask", lambda image, affine, path: mask)
    image = at(Scans(bids, (20, 22, 20), 8.0, strip=True), 0).image[0]
    where = np.argwhere(image > 0)
    assert (where.min(0) + where.max(0)).tolist() == [19, 21, 19]
    assert (where.max(0) - where.min(0)).tolist() == [7, 9, 9]
    assert np.percentile(image[6:14, 6:16, 5:15], 99.5) == pytest.approx(1.0, abs=0.01)


def ixi() -> Path:
    """Real scans beside the checkout, where there are any."""
    folder = ROOT.parent / "shared" / "data" / "cohorts" / "ixi"
    if not folder.is_dir():
        pytest.skip("no real scans in ../shared/data/cohorts/ixi")
    return folder


def test_real_scans_become_a_corpus(tmp_path: Path) -> None:
    scans = Scans(ixi(), (40, 48, 40), 4.0)
    assert len(scans) == 101 and not scans.without_scan
    sample = at(scans, 0)
    assert sample.covariates["participant_id"] == "sub-IXI012" and sample.covariates["age"] == 38.78
    assert (sample.covariates["sex"], sample.covariates["diagnosis"]) == ("M", "CN")
    assert licence_of(ixi()) == "CC BY-SA 3.0"
    middle = sample.image[0, 10:30, 10:38, 14:26]
    assert (middle > 0.2).mean() > 0.9  # brain, no air


def test_deepbet_finds_a_brain_of_a_brains_size_in_a_real_scan() -> None:
    pytest.importorskip("deepbet")
    from synth.strip import brain_mask, strip_parents

    path = ixi() / "sub-IXI012/anat/sub-IXI012_T1w.nii.gz"
    image, affine = read_scan(path)
    mask = brain_mask(image, affine, path)
    assert mask.shape == image.shape
    assert 1300 < mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000 < 1900  # mL
    assert [parent["kind"] for parent in strip_parents()] == ["network", "network"]


def test_a_scan_without_a_brain_is_named(tmp_path: Path) -> None:
    pytest.importorskip("deepbet")
    from synth.strip import brain_mask

    with pytest.raises(UserError, match="empty-handed"):
        brain_mask(np.zeros((16, 16, 16), np.float32), np.diag([8.0, 8.0, 8.0, 1.0]), Path("empty-handed.nii"))
