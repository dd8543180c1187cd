"""Small BIDS folders of eggs with a bright end, for tests of cohorts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from synth.bids import find_scans
from synth.corpus import Corpus
from synth.engine import Job, generate
from synth.generator import GeneratorSpec

AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])
GRID = ((20, 22, 20), (8.0, 8.0, 8.0))


def egg(number: int) -> npt.NDArray[np.float32]:
    """A head of 20×22×20 voxels, another for every number."""
    head = np.zeros((20, 22, 20), np.float32)
    head[4:16, 3:19, 4:16] = 50.0
    head[5:15, 15:18, 5:15] = 60.0 + number
    return head


def scan_path(folder: Path, who: str) -> Path:
    """Where the scan of ``sub-01`` or ``sub-01/ses-1`` lies."""
    return folder / who / "anat" / f"{who.replace('/', '_')}_T1w.nii.gz"


def put_scan(folder: Path, who: str, number: int) -> Path:
    """Write an egg as somebody's scan."""
    path = scan_path(folder, who)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(egg(number), AFFINE), path)
    return path


def make_study(folder: Path, scans: Sequence[str], name: str = "", first: int = 0) -> Path:
    """A BIDS folder with one egg a scan (``sub-01`` or ``sub-01/ses-1``); ages count up from 60; ``name`` is its Name."""
    for number, who in enumerate(scans, first):
        put_scan(folder, who, number)
    people = list(dict.fromkeys(who.split("/")[0] for who in scans))
    rows = [f"{who}\t{60 + number}\t{'FM'[number % 2]}" for number, who in enumerate(people)]
    (folder / "participants.tsv").write_text("\n".join(["participant_id\tage\tsex", *rows]) + "\n")
    if name:
        (folder / "dataset_description.json").write_text(json.dumps({"Name": name, "BIDSVersion": "1.9.0"}))
    return folder


def imported(folder: Path, out: Path) -> Corpus:
    """The folder's scans as a corpus."""
    spec = GeneratorSpec("Scans", {"folder": folder, "shape": GRID[0], "spacing": GRID[1][0]})
    assert not generate(Job(spec, len(find_scans(folder, "T1w")), 0, out)).failed
    return Corpus(out)


def write_split(path: Path, sides: Sequence[tuple[str, str]]) -> Path:
    """A split file of (participant, side) rows."""
    path.write_text("\n".join(["participant_id\tsplit", *("\t".join(row) for row in sides)]) + "\n")
    return path
