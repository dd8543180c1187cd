"""A corpus as a BIDS folder (https://bids-specification.readthedocs.io) or as NIfTI-Zarr, one store a volume.

No word of a corpus ever becomes part of a path: files are named after a sample's number and one of four suffixes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from synth.card import card_body
from synth.corpus import Corpus
from synth.errors import UserError
from synth.provenance import (
    LEVELS,
    SOURCES,
    class_name,
    contrast_of,
    described,
    licence_text,
    licences,
    origin,
    plain,
    uses_builtin,
)
from synth.sample import Sample

BIDS_VERSION = "1.10.0"
SUFFIXES = {"t1": "T1w", "t1w": "T1w", "t2": "T2w", "t2w": "T2w", "flair": "FLAIR", "pd": "PDw", "pdw": "PDw"}
MOST_LEVELS = 64  # more different words are names rather than levels
DERIVATIVE = Path("derivatives") / "brainloom"
Progress = Callable[[int, int], None]
Format = Literal["bids", "nifti-zarr"]


def write(corpus: Corpus, out: Path, indices: list[int], format: Format, progress: Progress) -> None:
    """Write volumes of a corpus in another format; the folder ``out`` appears whole or not at all.

    Raises:
        UserError: the output exists or cannot be written, the format cannot hold the volumes, a package is missing.
    """
    {"bids": to_bids, "nifti-zarr": to_nifti_zarr}[format](corpus, out, indices, progress)


def to_bids(corpus: Corpus, out: Path, indices: list[int], progress: Progress) -> None:
    """Write a raw BIDS data set of participants ``sub-synth000000…``, label maps as a derivative inside it.

    Raises:
        UserError: the output exists or cannot be written, or images have several channels, which no suffix of BIDS has.
    """
    if corpus.image_shape[0] != 1:
        raise UserError(
            f"'{corpus.path}' has images of {corpus.image_shape[0]} channels; BIDS holds one a file, "
            "use --format nifti-zarr"
        )
    with _whole(out) as folder:
        rows = []
        for done, index in enumerate(indices, 1):
            sample = corpus.sample(index)
            rows.append({"participant_id": _participant(index), **_covariates(sample)})
            _write_person(corpus, folder, index, sample)
            progress(done, len(indices))
        _write_table(corpus, folder, rows)
        _write_about(corpus, folder)
        if corpus.has_labels:
            _write_label_names(corpus, folder / DERIVATIVE)
        _write_derivative(corpus, folder / DERIVATIVE)


def to_nifti_zarr(corpus: Corpus, out: Path, indices: list[int], progress: Progress) -> None:
    """Write ``sub-synth000000_T1w.nii.zarr``, ``…_dseg.nii.zarr`` and ``participants.tsv``; one resolution level each.

    Follows the NIfTI-Zarr specification (https://github.com/neuroscales/nifti-zarr) through the package nifti-zarr.
    Images of several channels are 5-D NIfTI: x, y, z, one time point, channel.

    Raises:
        UserError: the output exists or cannot be written, or the package nifti-zarr is not installed.
    """
    try:
        import niizarr  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--format nifti-zarr needs the package nifti-zarr ({error}); pip install 'nifti-zarr>=1.0.0rc8'"
        ) from error
    with _whole(out) as folder:
        rows = []
        for done, index in enumerate(indices, 1):
            sample = corpus.sample(index)
            rows.append({"participant_id": _participant(index), **_covariates(sample)})
            stem = folder / _participant(index)
            _write_nifti_zarr(sample.image, sample, stem.with_name(f"{stem.name}_{_suffix(corpus, sample)}.nii.zarr"))
            if sample.label is not None:
                _write_nifti_zarr(sample.label[None], sample, stem.with_name(f"{stem.name}_dseg.nii.zarr"))
            progress(done, len(indices))
        _write_table(corpus, folder, rows)
        if corpus.has_labels:
            _write_label_names(corpus, folder)
        (folder / "README.md").write_text(card_body(corpus))
        (folder / "LICENSE").write_text(licence_text(corpus))
        _write_json(folder / "corpus.json", corpus.parent())


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A hidden folder beside ``out`` that is renamed to it in the end, or removed when anything goes wrong."""
    if out.exists() or out.is_symlink():
        raise UserError(f"'{out}' exists; choose another --out")
    hidden: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=f".{out.name}.new-", dir=out.parent))
        folder = hidden / "whole"  # mkdtemp's own folder is for its owner alone, this one is as the umask says
        folder.mkdir()
        yield folder
        folder.rename(out)
    except OSError as error:
        raise UserError(f"cannot write '{out}' ({error.strerror or error}); choose a folder you may write") from error
    finally:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)


def _participant(index: int) -> str:
    return f"sub-synth{index:06d}"


def _covariates(sample: Sample) -> dict[str, float | str]:
    """Covariates, one that is called as BIDS calls its key renamed."""
    return {"participant" if name == "participant_id" else name: value for name, value in sample.covariates.items()}


def _suffix(corpus: Corpus, sample: Sample) -> str:
    """The BIDS suffix of an image; T1w where the contrast is random or unknown, which the sidecar says."""
    return SUFFIXES.get(contrast_of(corpus, sample.covariates), "T1w")


def _write_person(corpus: Corpus, folder: Path, index: int, sample: Sample) -> None:
    import nibabel

    name, suffix = _participant(index), _suffix(corpus, sample)
    anat = folder / name / "anat"
    anat.mkdir(parents=True)
    nibabel.save(_nifti(sample.image[0], sample), anat / f"{name}_{suffix}.nii.gz")
    _write_json(anat / f"{name}_{suffix}.json", _sidecar(corpus, index, sample))
    if sample.label is not None:
        anat = folder / DERIVATIVE / name / "anat"
        anat.mkdir(parents=True)
        nibabel.save(_nifti(sample.label, sample), anat / f"{name}_dseg.nii.gz")
        source = f"bids:raw:{name}/anat/{name}_{suffix}.nii.gz"
        _write_json(anat / f"{name}_dseg.json", {"Sources": [source]})


def _nifti(array: npt.NDArray[Any], sample: Sample) -> Any:
    import nibabel

    image = nibabel.Nifti1Image(array, sample.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(sample.affine, code=1)
    image.set_qform(sample.affine, code=1)
    return image


def _write_nifti_zarr(array: npt.NDArray[Any], sample: Sample, path: Path) -> None:
    """One store of an array ``[C, D, H, W]``: the voxels of level 0 in z, y, x order and the NIfTI header."""
    import niizarr
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=3)  # a group, not a path: a path would be read as a URL
    volume = array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)[:, :, :, None]
    # one level: the pyramid of a label map takes minutes, and a volume of this size fits a screen
    niizarr.nii2zarr(_nifti(volume, sample), group, nb_levels=1, label=volume.dtype.kind == "i")


def _sidecar(corpus: Corpus, index: int, sample: Sample) -> dict[str, Any]:
    """What is true of an image. Field strength, echo time and their like belong to scanners and are left out."""
    contrast, kind = contrast_of(corpus, sample.covariates), origin(corpus)
    found: dict[str, Any] = {"synthetic": kind != "real", "sample": index, "contrast": contrast}
    if kind == "real":
        return found
    version = corpus.header.versions.get("brainloom", "unknown")
    found |= {
        "Manufacturer": "none, the image was computed",
        "ManufacturersModelName": f"brainloom {class_name(corpus)}",
        "SoftwareVersions": f"brainloom {version}",
        "PulseSequenceType": "none, the image was computed",
        "PulseSequenceDetails": f"computed contrast: {contrast}",
    }
    site = sample.covariates.get("site")
    return found | ({"StationName": site} if isinstance(site, str) else {})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _tsv(rows: list[list[object]]) -> str:
    """A BIDS table: no quoting, so no tab, line end or empty cell inside it."""
    return "".join("\t".join(plain(cell) or "n/a" for cell in row) + "\n" for row in rows)


def _write_table(corpus: Corpus, folder: Path, rows: list[dict[str, Any]]) -> None:
    """participants.tsv and participants.json: description, units and levels of every column."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines: list[list[object]] = [list(names), *([row.get(name, "n/a") for name in names] for row in rows)]
    (folder / "participants.tsv").write_text(_tsv(lines))
    columns: dict[str, Any] = {}
    for name in names[1:]:
        columns[name] = described(name, corpus)
        words = sorted({plain(row[name]) for row in rows if isinstance(row.get(name), str)} - {""})
        if 0 < len(words) <= MOST_LEVELS:
            columns[name]["Levels"] = {word: LEVELS.get(name, {}).get(word, word) for word in words}
    _write_json(folder / "participants.json", columns)


def _description(corpus: Corpus) -> dict[str, Any]:
    seed, fingerprint = corpus.header.seed, corpus.header.fingerprint
    return {
        "Name": f"{corpus.path.resolve().name} ({'real scans' if origin(corpus) == 'real' else 'synthetic'})",
        "BIDSVersion": BIDS_VERSION,
        "License": "; ".join(licences(corpus)) or "not stated",
        "Authors": ["The brainloom developers"],  # whoever shares the folder adds themselves
        **({"ReferencesAndLinks": list(SOURCES)} if uses_builtin(corpus) else {}),
        "GeneratedBy": [
            {
                "Name": "brainloom",
                "Version": corpus.header.versions.get("brainloom", "unknown"),
                "Description": f"generator {class_name(corpus)}, seed {seed}",
            }
        ],
        "SourceDatasets": [{"URL": f"urn:brainloom:corpus:{fingerprint}:{seed}", "Version": corpus.identity()}],
    }


def _write_about(corpus: Corpus, folder: Path) -> None:
    """What BIDS wants at the top: description, README, LICENSE."""
    acknowledge = "Please cite brainloom and what the volumes derive from; README.md lists both."
    more = {"DatasetType": "raw", "HowToAcknowledge": acknowledge}
    _write_json(folder / "dataset_description.json", {**_description(corpus), **more})
    (folder / "README.md").write_text(card_body(corpus))
    (folder / "LICENSE").write_text(licence_text(corpus))


def _write_label_names(corpus: Corpus, folder: Path) -> None:
    """dseg.tsv: number and name of every label, as BIDS has it for a whole data set."""
    try:
        rows = sorted((int(number), name) for number, name in corpus.header.labels.items())
    except ValueError as error:
        raise UserError(
            f"'{corpus.path}' has a label that is no whole number ({error}); make the corpus again"
        ) from error
    (folder / "dseg.tsv").write_text(_tsv([["index", "name"], *([number, name] for number, name in rows)]))


def _write_derivative(corpus: Corpus, folder: Path) -> None:
    """The data set of label maps inside the raw one, and what the corpus is for whoever trains on it."""
    folder.mkdir(parents=True, exist_ok=True)
    description = {**_description(corpus), "DatasetType": "derivative", "DatasetLinks": {"raw": "../.."}}
    _write_json(folder / "dataset_description.json", description)
    _write_json(folder / "corpus.json", corpus.parent())
    (folder / ".bidsignore").write_text("corpus.json\n")  # whose volumes these are, for finetune; BIDS has no such file
    (folder / "README.md").write_text(card_body(corpus))
    (folder / "LICENSE").write_text(licence_text(corpus))
    if corpus.has_labels:
        about = "Label maps that the images were rendered from" if origin(corpus) == "simulated" else "Label maps"
        _write_json(folder / "dseg.json", {"Description": about, "SpatialReference": "orig", "Manual": False})
