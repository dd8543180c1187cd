"""Exports: what BIDS and NIfTI-Zarr readers find, whole or not at all, and never outside the folder given."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import zarr

from synth.corpus import Corpus
from synth.engine import Job, generate
from synth.errors import UserError
from synth.export import to_bids, to_nifti_zarr
from synth.generator import GeneratorSpec, Params
from synth.sample import Sample, centred_affine
from tests.conftest import ROOT, Run
from tests.synth.test_plugin import Plain

HEAD = GeneratorSpec("LabelMap", {"shape": (16, 18, 16), "spacing": 11.0, "sites": ("north side", "south")})
HOSTILE = '../../../evil\tand "quoted"\n<b>|x|</b> `rm` \x00'


class Seen(Plain):
    """Noise with a label map: a recipe with a contrast, covariates of every kind, some missing."""

    def __init__(self, contrast: str = "t1w", channels: int = 1, long: int = 8, own: str = "") -> None:
        super().__init__()
        self.contrast, self.channels, self.long, self.own = contrast, channels, long, own

    def render(self, params: Params) -> Sample:
        shape = (self.long, 6, 7)
        rng = np.random.default_rng(int(params["level"] * 10_000))
        image = rng.random((self.channels, *shape)).astype(np.float32)
        label = rng.integers(0, 3, shape).astype(np.int16)
        covariates: dict[str, Any] = {"age": 60 + 10 * params["level"], "sex": "F"}
        if params["level"] < 0.5:
            covariates["note"] = "b c"
        if self.own:
            covariates["contrast"] = self.own
        return Sample(image, label, covariates, centred_affine(shape, (1.5, 2.0, 2.5)))

    def labels(self) -> dict[int, str]:
        return {2: "Two", 0: "Background", 1: "One"}


class Hostile(Seen):
    """Words that would like to be paths, tables or markup."""

    def render(self, params: Params) -> Sample:
        sample = super().render(params)
        words = {"site": HOSTILE, "participant_id": "../../passwd", "contrast": "../T1w", "empty": "", "sub": "/etc"}
        return Sample(sample.image, sample.label, words, sample.affine)

    def labels(self) -> dict[int, str]:
        return {0: "../../evil\t\n", 1: "/etc/passwd", 2: ""}

    def parents(self) -> list[dict[str, Any]]:
        return [{"kind": HOSTILE, "name": HOSTILE, "sha256": "0" * 64, "licence": HOSTILE}]


class Scans(Seen):
    """Called as the generator of real scans is."""


def made(folder: Path, spec: GeneratorSpec | str, count: int = 3, dtype: str = "float16", **options: Any) -> Corpus:
    """A corpus of a generator of this file, or of a spec."""
    spec = spec if isinstance(spec, GeneratorSpec) else GeneratorSpec(f"tests.synth.test_export.{spec}", options)
    out = folder / "made.zarr"
    assert not generate(Job(spec, count, 3, out, 2, dtype)).failed
    return Corpus(out)


def quiet(done: int, total: int) -> None:
    """A progress bar that shows nothing."""


def everything(folder: Path) -> set[str]:
    """Every path under a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Heads, the built-in label map among their parents."""
    return made(tmp_path_factory.mktemp("heads"), HEAD)


@pytest.fixture(scope="module")
def bids(heads: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The heads as BIDS."""
    out = tmp_path_factory.mktemp("bids") / "out"
    to_bids(heads, out, [0, 1, 2], quiet)
    return out


def read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


# --- BIDS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "contrast, own, suffix",
    [
        ("t1w", "", "T1w"),
        ("t2w", "", "T2w"),
        ("flair", "", "FLAIR"),
        ("random", "", "T1w"),
        ("something", "", "T1w"),
        ("t1w", "T2w", "T2w"),
    ],
)
def test_a_file_is_named_after_its_contrast(contrast: str, own: str, suffix: str, tmp_path: Path) -> None:
    corpus = made(tmp_path, "Seen", 1, contrast=contrast, own=own)
    to_bids(corpus, tmp_path / "bids", [0], quiet)
    (image,) = (tmp_path / "bids" / "sub-synth000000" / "anat").glob("*.nii.gz")
    assert image.name == f"sub-synth000000_{suffix}.nii.gz"
    sidecar = read_json(image.with_name(image.name.replace(".nii.gz", ".json")))
    assert sidecar["contrast"] == (own or contrast).lower() and sidecar["synthetic"] is True


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_voxels_and_affine_are_those_of_the_corpus(dtype: str, tmp_path: Path) -> None:
    corpus = made(tmp_path, "Seen", 3, dtype)
    out = tmp_path / "bids"
    to_bids(corpus, out, [2, 1], quiet)
    assert sorted(path.name for path in out.glob("sub-*")) == ["sub-synth000001", "sub-synth000002"]
    for index in (1, 2):
        name = f"sub-synth{index:06d}"
        image: Any = nibabel.load(out / name / "anat" / f"{name}_T1w.nii.gz")
        label: Any = nibabel.load(out / "derivatives" / "brainloom" / name / "anat" / f"{name}_dseg.nii.gz")
        assert np.array_equal(np.asarray(image.dataobj), corpus.image(index)[0].astype(np.float32))
        assert np.array_equal(np.asarray(label.dataobj), corpus.label(index)) and label.get_data_dtype() == np.int16
        for found in (image, label):
            assert np.allclose(found.affine, corpus.entry(index)["affine"])
            assert found.header["qform_code"] == found.header["sform_code"] == 1


def test_both_data_sets_say_what_they_are(bids: Path, heads: Corpus) -> None:
    raw = read_json(bids / "dataset_description.json")
    labels = read_json(bids / "derivatives" / "brainloom" / "dataset_description.json")
    assert (raw["DatasetType"], labels["DatasetType"]) == ("raw", "derivative")
    for found in (raw, labels):
        assert found["GeneratedBy"][0]["Name"] == "brainloom" and found["GeneratedBy"][0]["Version"]
        assert heads.header.fingerprint in found["SourceDatasets"][0]["URL"]
        assert found["SourceDatasets"][0]["Version"] == heads.identity()
        assert found["License"] == heads.header.parents[0]["licence"]
        assert found["Name"] and found["BIDSVersion"] and found["Authors"]
    assert (bids / "derivatives" / "brainloom" / labels["DatasetLinks"]["raw"]).resolve() == bids.resolve()


def test_a_label_map_names_the_image_it_belongs_to(bids: Path) -> None:
    found = sorted((bids / "derivatives").rglob("sub-*_dseg.json"))
    assert len(found) == 3
    for path in found:
        (source,) = read_json(path)["Sources"]
        assert (bids / source.removeprefix("bids:raw:")).is_file()
    names = pd.read_csv(bids / "derivatives" / "brainloom" / "dseg.tsv", sep="\t").set_index("index").name
    assert names[17] == "Left-Hippocampus" and names.index.is_monotonic_increasing


def test_columns_are_described_with_units_and_levels(bids: Path) -> None:
    columns = read_json(bids / "participants.json")
    people = pd.read_csv(bids / "participants.tsv", sep="\t")
    assert list(columns) == list(people.columns[1:]) and all(column["Description"] for column in columns.values())
    assert columns["age"]["Units"] == "years" and columns["volume_left_hippocampus"]["Units"] == "mm^3"
    for name in ("sex", "diagnosis", "site"):
        assert set(columns[name]["Levels"]) == set(people[name])
    assert columns["sex"]["Levels"].items() <= {"F": "female", "M": "male"}.items()
    assert "Levels" not in columns["age"]


def test_missing_covariates_are_na(tmp_path: Path) -> None:
    corpus = made(tmp_path, "Seen", 6)
    to_bids(corpus, tmp_path / "bids", list(range(6)), quiet)
    people = pd.read_csv(tmp_path / "bids" / "participants.tsv", sep="\t", keep_default_na=False)
    assert set(people.note) == {"b c", "n/a"}
    assert [float(age) for age in people.age] == [entry["covariates"]["age"] for entry in corpus.entries()]


def test_licences_and_notices_travel_with_the_voxels(bids: Path, heads: Corpus) -> None:
    for folder in (bids, bids / "derivatives" / "brainloom"):
        text = (folder / "LICENSE").read_text()
        assert heads.header.parents[0]["licence"] in text
        assert "Copyright (C) 1993-2004 Louis Collins" in text
        assert "simulated" in (folder / "README.md").read_text()


def test_real_scans_are_called_real(tmp_path: Path) -> None:
    to_bids(made(tmp_path, "Scans", 1), tmp_path / "bids", [0], quiet)
    sidecar = read_json(tmp_path / "bids" / "sub-synth000000" / "anat" / "sub-synth000000_T1w.json")
    assert sidecar["synthetic"] is False and "Manufacturer" not in sidecar
    everywhere = (tmp_path / "bids" / "README.md").read_text() + (tmp_path / "bids" / "participants.json").read_text()
    assert "real" in everywhere and "simulated" not in everywhere


def test_images_of_several_channels_are_refused(tmp_path: Path) -> None:
    corpus = made(tmp_path, "Seen", 1, channels=2)
    with pytest.raises(UserError, match=r"2 channels.*nifti-zarr"):
        to_bids(corpus, tmp_path / "bids", [0], quiet)
    assert everything(tmp_path / "made.zarr") and not (tmp_path / "bids").exists()


def validators() -> list[Path]:
    """The BIDS validators of this machine: npm's and the schema's."""
    places = os.pathsep.join([str(ROOT / "node_modules" / ".bin"), os.environ.get("PATH", "")])
    found = [shutil.which(name, path=places) for name in ("bids-validator", "bids-validator-deno")]
    return [Path(path) for path in found if path]


UNMENDED = {"TOO_FEW_AUTHORS", "JSON_KEY_RECOMMENDED", "SIDECAR_KEY_RECOMMENDED"}
"""Warnings that docs/export.md explains: one author, no HED tags, no scanner."""


@pytest.mark.parametrize("what", ["heads", "hostile"])
def test_the_bids_validators_find_no_error(what: str, bids: Path, tmp_path: Path) -> None:
    if not validators():
        pytest.skip("no bids-validator on PATH or in node_modules; npm install bids-validator")
    folder = bids
    if what == "hostile":
        folder = tmp_path / "bids"
        to_bids(made(tmp_path, "Hostile"), folder, [0, 1, 2], quiet)
    allowed = UNMENDED | ({"README_FILE_SMALL"} if what == "hostile" else set())
    derivative = folder / "derivatives" / "brainloom"
    for validator in validators():
        schema = validator.name.endswith("-deno")  # npm's knows raw data sets only
        for checked in (folder, derivative) if schema else (folder,):
            errors, warnings = issues_of(validator, checked)
            assert errors == [] and set(warnings) <= allowed, (validator, checked, errors, warnings)


def issues_of(validator: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Codes of the errors and of the warnings that a validator finds."""
    told = subprocess.run([validator, folder, "--json"], capture_output=True, text=True, timeout=100, check=False)
    issues = json.loads(told.stdout)["issues"]
    if "errors" in issues:  # npm's
        errors, warnings = ([issue["key"] for issue in issues[kind]] for kind in ("errors", "warnings"))
        return errors, warnings
    listed = {kind: [i["code"] for i in issues["issues"] if i["severity"] == kind] for kind in ("error", "warning")}
    return listed["error"], listed["warning"]


# --- NIfTI-Zarr -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"long": 70}, {"channels": 2}, {"contrast": "flair"}])
def test_nifti_zarr_reads_back_with_the_same_voxels_and_affine(options: dict[str, Any], tmp_path: Path) -> None:
    niizarr = pytest.importorskip("niizarr", reason="nifti-zarr is not installed")
    corpus = made(tmp_path, "Seen", 2, **options)
    out = tmp_path / "out"
    to_nifti_zarr(corpus, out, [1], quiet)
    suffix = "FLAIR" if options.get("contrast") == "flair" else "T1w"
    image, label = corpus.image(1).astype(np.float32), corpus.label(1)
    assert label is not None
    for name, expected in ((suffix, image), ("dseg", label[None])):
        path = out / f"sub-synth000001_{name}.nii.zarr"
        read = niizarr.zarr2nii(str(path))
        voxels = np.asarray(read.dataobj)
        assert voxels.dtype == expected.dtype
        volume = voxels[:, :, :, 0] if voxels.ndim == 5 else voxels[..., None]
        assert np.array_equal(np.moveaxis(volume, -1, 0), expected)
        assert np.allclose(read.header.get_best_affine(), corpus.entry(1)["affine"])
        stored: Any = zarr.open_group(path, mode="r")["0"]
        assert np.array_equal(np.asarray(stored).reshape(-1, *expected.shape[:0:-1])[0], expected[0].T)
    niizarr.zarr2nii(str(out / f"sub-synth000001_{suffix}.nii.zarr"), tmp_path / "back.nii.gz")
    back: Any = nibabel.load(tmp_path / "back.nii.gz")
    assert np.allclose(back.affine, corpus.entry(1)["affine"])
    assert list(pd.read_csv(out / "participants.tsv", sep="\t").participant_id) == ["sub-synth000001"]


def test_a_folder_with_a_name_like_a_url_is_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("niizarr", reason="nifti-zarr is not installed")
    to_nifti_zarr(made(tmp_path, "Seen", 1), tmp_path / "memory:" / "a::b", [0], quiet)
    assert (tmp_path / "memory:" / "a::b" / "sub-synth000000_T1w.nii.zarr" / "zarr.json").is_file()


def test_without_the_package_one_sentence_names_the_command(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = made(tmp_path, "Seen", 1)
    monkeypatch.setitem(sys.modules, "niizarr", None)
    answer = run("synth", "export", corpus.path, "--out", tmp_path / "out", "--format", "nifti-zarr")
    assert answer.code == 2 and len(answer.err.splitlines()) == 1 and "pip install 'nifti-zarr" in answer.err
    assert not (tmp_path / "out").exists()


# --- whole or not at all, and inside the folder ---------------------------------------------------------------------

FORMATS = {"bids": to_bids, "nifti-zarr": to_nifti_zarr}


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_that_breaks_leaves_nothing(format: str, tmp_path: Path) -> None:
    if format == "nifti-zarr":
        pytest.importorskip("niizarr", reason="nifti-zarr is not installed")
    corpus = made(tmp_path, "Seen")
    before = everything(tmp_path)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FORMATS[format](corpus, tmp_path / "out", [0, 1, 2], stop)
    assert everything(tmp_path) == before


def test_an_export_never_touches_what_is_there(tmp_path: Path) -> None:
    corpus = made(tmp_path, "Seen", 1)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = everything(tmp_path)
    for name in ("made.zarr", "link"):
        with pytest.raises(UserError, match="exists"):
            to_bids(corpus, tmp_path / name, [0], quiet)
    assert everything(tmp_path) == before


def test_an_export_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    corpus = made(tmp_path, "Seen", 1)
    (tmp_path / "plain").mkdir()
    to_bids(corpus, tmp_path / "bids", [0], quiet)
    assert (tmp_path / "bids").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("format", FORMATS)
def test_words_of_a_corpus_never_become_paths(format: str, tmp_path: Path) -> None:
    if format == "nifti-zarr":
        pytest.importorskip("niizarr", reason="nifti-zarr is not installed")
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    corpus = made(deep, "Hostile")
    before, out = everything(tmp_path), deep / "out"
    FORMATS[format](corpus, out, [0, 1, 2], quiet)
    new = everything(tmp_path) - before
    assert all(name == "a/b/c/out" or name.startswith("a/b/c/out/") for name in new)
    named = [name for name in everything(out) if not name.endswith(("zarr.json",)) and ".nii.zarr/" not in name]
    for name in named:
        assert not any(word in name for word in ("evil", "passwd", "etc", "..")), name


def test_words_of_a_corpus_never_break_a_table(tmp_path: Path) -> None:
    out = tmp_path / "bids"
    to_bids(made(tmp_path, "Hostile"), out, [0, 1, 2], quiet)
    for path, rows in ((out / "participants.tsv", 3), (out / "derivatives" / "brainloom" / "dseg.tsv", 3)):
        lines = path.read_text().split("\n")
        assert len(lines) == rows + 2 and lines[-1] == ""
        widths = {len(line.split("\t")) for line in lines[:-1]}
        assert len(widths) == 1 and "" not in [cell for line in lines[:-1] for cell in line.split("\t")]
    people = [line.split("\t")[0] for line in (out / "participants.tsv").read_text().splitlines()]
    assert people == ["participant_id", "sub-synth000000", "sub-synth000001", "sub-synth000002"]
