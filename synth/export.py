"""A corpus as a BIDS folder (https://bids-specification.readthedocs.io, raw data set)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from synth.corpus import Corpus
from synth.errors import UserError


def to_bids(corpus: Corpus, out: Path, indices: list[int], progress: Callable[[int, int], None]) -> None:
    """Write participants ``sub-synth000000…``; the folder appears whole or not at all.

    Raises:
        UserError: the output exists or cannot be written.
    """
    import nibabel

    if out.exists():
        raise UserError(f"'{out}' exists; choose another --out")
    temporary = out.with_name(f".{out.name}.new-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        rows = []
        for done, index in enumerate(indices, 1):
            name = f"sub-synth{index:06d}"
            sample = corpus.sample(index)
            folder = temporary / name / "anat"
            folder.mkdir(parents=True)
            nibabel.save(_nifti(sample.image[0], sample.affine), folder / f"{name}_T1w.nii.gz")
            (folder / f"{name}_T1w.json").write_text(json.dumps({"synthetic": True, "sample": index}, indent=2))
            if sample.label is not None:
                labels = temporary / "derivatives" / "brainloom" / name / "anat"
                labels.mkdir(parents=True)
                nibabel.save(_nifti(np.asarray(sample.label), sample.affine), labels / f"{name}_dseg.nii.gz")
            rows.append({"participant_id": name, **sample.covariates})
            progress(done, len(indices))
        _write_tables(corpus, temporary, rows)
        temporary.rename(out)
    except OSError as error:
        raise UserError(f"cannot write '{out}' ({error.strerror or error}); choose a folder you may write") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _nifti(array: Any, affine: Any) -> Any:
    import nibabel

    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    return image


def _write_tables(corpus: Corpus, folder: Path, rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    table = pd.DataFrame(rows)
    table.to_csv(folder / "participants.tsv", sep="\t", index=False, na_rep="n/a")
    columns = {name: {"Description": _describe(name)} for name in table.columns if name != "participant_id"}
    (folder / "participants.json").write_text(json.dumps(columns, indent=2))
    versions = corpus.header.versions
    description = {
        "Name": f"{corpus.name} (synthetic)",
        "BIDSVersion": "1.9.0",
        "DatasetType": "raw",
        "License": "; ".join(corpus.attributes.get("licences", [])) or "not stated",
        "GeneratedBy": [{"Name": "brainloom", "Version": versions.get("brainloom", "unknown")}],
        "SourceDatasets": [{"URL": f"corpus:{corpus.header.fingerprint[:16]}:seed={corpus.header.seed}"}],
    }
    (folder / "dataset_description.json").write_text(json.dumps(description, indent=2))
    parent = json.dumps(corpus.parent(), indent=2)
    (folder / "README").write_text("Every participant here is simulated; nothing in it is evidence about patients.\n")
    derivative = folder / "derivatives" / "brainloom"
    derivative.mkdir(parents=True, exist_ok=True)
    (derivative / "dataset_description.json").write_text(
        json.dumps({**description, "DatasetType": "derivative"}, indent=2)
    )
    (derivative / "corpus.json").write_text(parent)
    labels = pd.DataFrame([{"index": int(n), "name": name} for n, name in corpus.header.labels.items()])
    labels.to_csv(derivative / "dseg.tsv", sep="\t", index=False)


def _describe(name: str) -> str:
    known = {
        "age": "Age in years (simulated)",
        "sex": "F or M (simulated)",
        "site": "Simulated scanner",
        "diagnosis": "CN, MCI, AD or PD (simulated)",
        "hoehn_yahr": "Hoehn & Yahr stage, 0 without PD",
    }
    return known.get(
        name, f"{name.replace('_', ' ')}, mm³, measured on the label map" if name.startswith("volume_") else name
    )
