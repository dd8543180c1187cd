"""The corpus on disk: open to xarray and zarr, every harm found, every volume explained and exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import xarray
import zarr

from synth.corpus import Corpus, as_intensities, as_stored, checksum, record_path
from synth.engine import Job, generate
from synth.errors import UserError
from synth.generator import GeneratorSpec
from synth.sample import Sample
from synth.verify import verify
from tests.conftest import PLUGIN, Run
from tests.synth.test_engine import files
from tests.synth.test_plugin import Plain

ONION = GeneratorSpec("onions.Onion", {"shape": (8, 10, 8), "shells": 4}, (str(PLUGIN),))
HEAD = GeneratorSpec("LabelMap", {"shape": (16, 18, 16), "spacing": 11.0, "sites": ("north side", "south")})
Harm = Callable[[Path], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished corpus of onions and one of heads."""
    folder = tmp_path_factory.mktemp("made")
    for name, spec in (("onion", ONION), ("head", HEAD)):
        assert not generate(Job(spec, 5, 3, folder / f"{name}.zarr", 2)).failed
    return {name: folder / f"{name}.zarr" for name in ("onion", "head")}


@pytest.fixture
def corpus(made: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the heads to harm."""
    return Path(shutil.copytree(made["head"], tmp_path / "head.zarr"))


def test_a_corpus_opens_in_xarray_with_named_dimensions(made: dict[str, Path]) -> None:
    opened = xarray.open_zarr(made["head"], zarr_format=3)
    corpus = Corpus(made["head"])
    assert opened.image.dims == ("sample", "channel", "x", "y", "z") and opened.label.dims == ("sample", "x", "y", "z")
    assert opened.age.dims == ("sample",) and opened.age.attrs["units"] == "years"
    assert opened.volume_left_hippocampus.attrs["units"] == "mm3"
    assert opened.affine.dims == ("sample", "row", "column")
    stored, (scale, offset) = opened.image[3].values, opened.intensity[3, 0].values
    assert np.array_equal(stored, corpus.stored(3))
    assert np.allclose(stored * scale + offset, corpus.image(3), atol=1e-6)
    assert np.array_equal(opened.age.values, corpus.covariates()["age"])


def test_words_are_codes_with_their_meanings(made: dict[str, Path]) -> None:
    corpus = Corpus(made["head"])
    array: Any = corpus.group["site"]
    words = [array.attrs["categories"][code] for code in array[:]]
    assert words == [entry["covariates"]["site"] for entry in corpus.entries()]
    assert array.attrs["flag_values"] == list(range(len(array.attrs["categories"])))
    assert "north_side" in array.attrs["flag_meanings"].split()


def test_a_chunk_is_a_volume_and_a_shard_is_a_shard(made: dict[str, Path]) -> None:
    image: Any = zarr.open_group(made["head"], mode="r")["image"]
    assert image.chunks == (1, 1, 16, 18, 16) and image.shards == (2, 1, 16, 18, 16) and image.dtype == np.uint8
    assert len(list((made["head"] / "image").glob("c.*.0.0.0.0"))) == 3


def test_attributes_say_what_the_corpus_is(made: dict[str, Path]) -> None:
    attributes = zarr.open_group(made["head"], mode="r").attrs.asdict()
    assert attributes["format"] == "brainloom-corpus" and attributes["complete"] is True
    assert attributes["orientation"] == "RAS+" and attributes["seed"] == 3 and attributes["count"] == 5
    assert attributes["recipe"]["generator"]["init_args"]["sites"] == ["north side", "south"]
    assert attributes["labels"]["17"] == "Left-Hippocampus"
    assert attributes["licences"] and attributes["parents"][0]["sha256"]
    assert np.allclose(np.array(attributes["affine"])[:3, :3], np.eye(3) * 11)


def test_a_sample_is_read_back_as_it_was_made(made: dict[str, Path]) -> None:
    corpus, onion = Corpus(made["onion"]), ONION.build()
    expected, found = onion.render(corpus.entry(3)["params"]), corpus.sample(3)
    assert np.abs(found.image - expected.image).max() <= np.ptp(expected.image) / 255 * 0.501
    assert np.array_equal(found.label, expected.label)
    assert found.covariates == expected.covariates and np.array_equal(found.affine, expected.affine)


@pytest.mark.parametrize("index", [-1, 5, 100])
def test_there_is_no_sample_outside_the_corpus(index: int, made: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="expected 0 to 4"):
        Corpus(made["onion"]).entry(index)


def test_the_checksum_covers_type_shape_and_bytes() -> None:
    array = np.arange(6, dtype=np.int16)
    sums = [
        checksum(array),
        checksum(array.reshape(2, 3)),
        checksum(array.view(np.uint16)),
        checksum(array[::-1]),
        checksum(array, array),
        checksum(),
    ]
    assert len(set(sums)) == len(sums)
    assert checksum(array, None) == sums[0]
    assert checksum(np.asfortranarray(array.reshape(2, 3))) == sums[1]


@pytest.mark.parametrize("dtype, levels", [("uint8", 255), ("uint7", 127)])
def test_stored_levels_are_half_a_step_from_the_image_at_most(dtype: str, levels: int) -> None:
    image = np.random.default_rng(0).normal(3, 2, (2, 6, 7, 8)).astype(np.float32)
    image[1] *= 100
    stored, intensity = as_stored(image, dtype)
    assert stored.dtype == np.uint8 and stored.min() == 0 and stored.max() == levels
    found = as_intensities(stored, {"intensity": intensity})
    for channel in range(2):
        assert np.abs(found[channel] - image[channel]).max() <= np.ptp(image[channel]) / levels * 0.501


# --- verify ---------------------------------------------------------------------------------------------------------


def flip_a_byte(path: Path) -> None:
    shard = path / "image" / "c.1.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0x01
    shard.write_bytes(data)


def flip_a_label_byte(path: Path) -> None:
    shard = path / "label" / "c.1.0.0.0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0x01
    shard.write_bytes(data)


def change_one_voxel(path: Path) -> None:
    image: Any = zarr.open_group(path, mode="r+", use_consolidated=False)["image"]
    image[2, 0, 5, 5, 5] = image[2, 0, 5, 5, 5] + 1


def delete_a_shard(path: Path) -> None:
    (path / "image" / "c.1.0.0.0.0").unlink()


def delete_a_record(path: Path) -> None:
    record_path(path, 1).unlink()


def edit_record(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads(record_path(path, 1).read_text())
    edit(record)
    record_path(path, 1).write_text(json.dumps(record))


def edit_a_param(path: Path) -> None:
    def edit(record: dict[str, Any]) -> None:
        record["samples"][0]["params"]["person"]["age"] += 1

    edit_record(path, edit)


def drop_a_sample_of_a_record(path: Path) -> None:
    edit_record(path, lambda record: record["samples"].pop())


def truncate_a_record(path: Path) -> None:
    record_path(path, 1).write_text(record_path(path, 1).read_text()[:200])


def empty_a_record(path: Path) -> None:
    record_path(path, 1).write_text("[]")


def take_the_record_of_another_shard(path: Path) -> None:
    shutil.copy(record_path(path, 0), record_path(path, 1))


def change_a_covariate(path: Path) -> None:
    age: Any = zarr.open_group(path, mode="r+", use_consolidated=False)["age"]
    age[3] = age[3] + 1


def change_a_word(path: Path) -> None:
    sex: Any = zarr.open_group(path, mode="r+", use_consolidated=False)["diagnosis"]
    sex.attrs["categories"] = sex.attrs["categories"][::-1]


def delete_a_covariate(path: Path) -> None:
    shutil.rmtree(path / "age")


def change_an_affine(path: Path) -> None:
    affine: Any = zarr.open_group(path, mode="r+", use_consolidated=False)["affine"]
    affine[3, 0, 3] = affine[3, 0, 3] + 1


@pytest.mark.parametrize(
    "harm, says",
    [
        (flip_a_byte, "sample 2"),
        (flip_a_label_byte, "sample 2"),
        (change_one_voxel, "sample 2"),
        (delete_a_shard, "sample 2"),
        (delete_a_record, "shard 1"),
        (edit_a_param, "record of shard 1"),
        (drop_a_sample_of_a_record, "record of shard 1"),
        (truncate_a_record, "record of shard 1"),
        (empty_a_record, "record of shard 1"),
        (take_the_record_of_another_shard, "record of shard 1"),
        (change_a_covariate, "'age'"),
        (change_a_word, "'diagnosis'"),
        (delete_a_covariate, "'age'"),
        (change_an_affine, "affine"),
    ],
)
def test_verify_finds(harm: Harm, says: str, corpus: Path, run: Run) -> None:
    assert run("synth", "verify", corpus).code == 0
    harm(corpus)
    answer = run("synth", "verify", corpus)
    assert answer.code == 1
    assert "Traceback" not in answer.out + answer.err
    assert any(line.startswith("damaged:") and says in line for line in answer.out.splitlines()), answer.out


@pytest.mark.parametrize("harm", [delete_a_record, truncate_a_record, empty_a_record])
@pytest.mark.parametrize("command", ["explain", "export", "inspect"])
def test_a_damaged_record_is_one_sentence_to_every_command(
    harm: Harm, command: str, corpus: Path, tmp_path: Path, run: Run
) -> None:
    harm(corpus)
    words = {"explain": (corpus, 2), "export": (corpus, "--out", tmp_path / "bids"), "inspect": (corpus,)}[command]
    answer = run("synth", command, *words)
    assert answer.code == 2 and answer.err.startswith("brainloom: error:") and len(answer.err.splitlines()) == 1
    assert not (tmp_path / "bids").exists()


def test_verify_says_when_every_bit_is_as_recorded(made: dict[str, Path], run: Run) -> None:
    answer = run("synth", "verify", made["head"])
    assert answer.code == 0 and Corpus(made["head"]).identity()[:16] in answer.out


class Partly(Plain):
    """Covariates that some samples lack."""

    def render(self, params: dict[str, Any]) -> Sample:
        low = params["level"] < 0.5
        return Sample(np.zeros((1, 8, 8, 8)), covariates={"score": 1.5, "site": "a b"} if low else {"all": 2.0})


class Taken(Plain):
    """A covariate with the name of the corpus's own array."""

    def __init__(self, name: str = "image") -> None:
        super().__init__()
        self.name = name

    def render(self, params: dict[str, Any]) -> Sample:
        return Sample(np.full((1, 8, 8, 8), params["level"]), np.ones((8, 8, 8), int), {self.name: 3.0})


class Mixed(Plain):
    """A covariate that is now a number, now a word."""

    def render(self, params: dict[str, Any]) -> Sample:
        return Sample(np.zeros((1, 8, 8, 8)), covariates={"level": "high" if params["level"] > 0.5 else 0.5})


def test_missing_covariates_are_nan_or_minus_one_and_verify(tmp_path: Path) -> None:
    out = tmp_path / "partly.zarr"
    generate(Job(GeneratorSpec("tests.synth.test_corpus.Partly"), 6, 0, out, 4))
    corpus = Corpus(out)
    lacks = np.array(["score" not in entry["covariates"] for entry in corpus.entries()])
    assert 0 < lacks.sum() < 6
    score, site = (np.asarray(corpus.group[name]) for name in ("score", "site"))  # type: ignore[arg-type]
    assert np.array_equal(np.isnan(score), lacks) and np.array_equal(site == -1, lacks)
    assert [problem for _, found in verify(corpus) for problem in found] == []
    assert corpus.covariates()["score"].isna().sum() == lacks.sum()


@pytest.mark.parametrize("name", ["image", "label", "affine", "records", "a/b", ""])
def test_a_covariate_cannot_take_the_place_of_the_voxels(name: str, tmp_path: Path) -> None:
    out = tmp_path / "taken.zarr"
    spec = GeneratorSpec("tests.synth.test_corpus.Taken", {"name": name})
    try:
        outcome = generate(Job(spec, 3, 0, out, 2))
    except UserError as error:
        assert name in str(error) and not out.exists()
    else:
        assert outcome.failed and name in outcome.failed[0]
        assert Corpus(out).image_shape == (1, 8, 8, 8)


def test_a_covariate_that_is_now_a_number_now_a_word_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'level'"):
        generate(Job(GeneratorSpec("tests.synth.test_corpus.Mixed"), 6, 0, tmp_path / "mixed.zarr", 4))


# --- explain and export ---------------------------------------------------------------------------------------------


def test_explain_is_the_birth_certificate(made: dict[str, Path], run: Run) -> None:
    answer = run("synth", "explain", made["head"], 3)
    told = json.loads(answer.out)
    assert answer.code == 0
    assert {"recipe", "seed", "versions", "parents", "index", "params", "covariates", "affine", "sha256"} <= set(told)
    assert told["index"] == 3 and told["params"] == Corpus(made["head"]).entry(3)["params"]


def test_explain_check_renders_the_same_bits(made: dict[str, Path], run: Run) -> None:
    answer = run("synth", "explain", made["head"], 3, "--check")
    assert answer.code == 0 and "the same bits" in answer.out


def test_explain_check_finds_a_param_that_was_changed(corpus: Path, run: Run) -> None:
    def edit(record: dict[str, Any]) -> None:
        record["samples"][1]["params"]["noise_seed"] += 1

    edit_record(corpus, edit)
    answer = run("synth", "explain", corpus, 3, "--check")
    assert answer.code == 1 and "different bits" in answer.out


def test_explain_check_finds_a_loose_module_in_the_current_folder(
    made: dict[str, Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PLUGIN)
    assert run("synth", "explain", made["onion"], 4, "--check").code == 0


def test_an_export_is_bids_with_the_voxels_of_the_corpus(made: dict[str, Path], tmp_path: Path, run: Run) -> None:
    before = files(made["head"])
    out = tmp_path / "bids"
    assert run("synth", "export", made["head"], "--out", out).code == 0
    corpus = Corpus(made["head"])
    people = pd.read_csv(out / "participants.tsv", sep="\t")
    assert list(people.participant_id) == [f"sub-synth{i:06d}" for i in range(5)]
    assert np.allclose(people.age, corpus.covariates().age) and list(people.sex) == list(corpus.covariates().sex)
    columns = json.loads((out / "participants.json").read_text())
    assert set(columns) == set(people.columns) - {"participant_id"}
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["BIDSVersion"] and description["DatasetType"] == "raw" and description["GeneratedBy"]
    for index, name in enumerate(people.participant_id):
        scan: Any = nibabel.load(out / name / "anat" / f"{name}_T1w.nii.gz")
        dseg: Any = nibabel.load(out / "derivatives" / "brainloom" / name / "anat" / f"{name}_dseg.nii.gz")
        assert np.array_equal(scan.get_fdata(), corpus.image(index)[0].astype(float))
        assert np.array_equal(np.asarray(dseg.dataobj), corpus.label(index)) and np.issubdtype(
            dseg.get_data_dtype(), np.integer
        )
        assert np.allclose(scan.affine, corpus.entry(index)["affine"]) and scan.header["qform_code"] == 1
        assert scan.header.get_xyzt_units()[0] == "mm"
    names = pd.read_csv(out / "derivatives" / "brainloom" / "dseg.tsv", sep="\t").set_index("index").name
    assert names[17] == "Left-Hippocampus"
    assert files(made["head"]) == before


def test_an_export_can_be_a_label_map_source_again(made: dict[str, Path], tmp_path: Path, run: Run) -> None:
    out = tmp_path / "bids"
    assert run("synth", "export", made["head"], "--out", out, "--indices", "1-2").code == 0
    assert sorted(p.name for p in out.glob("sub-*")) == ["sub-synth000001", "sub-synth000002"]
    answer = run(
        "synth",
        "generate",
        "--generator.anatomies",
        out / "derivatives",
        "--generator",
        "LabelMap",
        "--count",
        1,
        "--generator.shape",
        "16,18,16",
        "--generator.spacing",
        11,
        "--out",
        tmp_path / "again.zarr",
        "--workers",
        0,
    )
    assert answer.code == 0, answer.err


def test_inspect_tells_what_is_in_it_and_draws_it(made: dict[str, Path], tmp_path: Path, run: Run) -> None:
    answer = run("synth", "inspect", made["head"], "--png", tmp_path / "a.png", "--rows", 2)
    assert answer.code == 0
    assert "5 volumes (1, 16, 18, 16) at 11 × 11 × 11 mm, by LabelMap, seed 3, complete" in answer.out
    assert "age: mean" in answer.out and "diagnosis: " in answer.out
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG") and (tmp_path / "a.png").stat().st_size > 5000
