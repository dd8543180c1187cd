"""The label table: for every label number its name, structure, tissue and left/right partner."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from synth.errors import UserError

TISSUES = ("background", "wm", "gm", "csf", "bone", "marrow", "soft", "fluid", "muscle", "vessel", "air")
EXTRACEREBRAL = ("background", "bone", "marrow", "soft", "fluid", "muscle", "vessel", "air")


@dataclass(frozen=True)
class Label:
    """One row of the table: number, FreeSurfer name, structure (both sides share it), tissue class, partner's number."""

    number: int
    name: str
    structure: str
    tissue: str
    partner: int

    @property
    def is_intracranial(self) -> bool:
        """Brain, ventricles and sulcal CSF; neither skull, scalp nor what lies outside."""
        return self.tissue not in EXTRACEREBRAL and self.structure not in ("spinal_cord", "optic_nerve")

    @property
    def covariate(self) -> str:
        """Name of the volume covariate, such as ``volume_left_hippocampus``."""
        return "volume_" + self.name.lower().replace("-", "_")


@cache
def label_table() -> Mapping[int, Label]:
    """The built-in table: FreeSurfer, FastSurfer and SynthSeg numbers, the extra-cerebral ones included."""
    text = (resources.files("synth.anatomy") / "data" / "labels.tsv").read_text()
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    labels = [Label(int(r["label"]), r["name"], r["structure"], r["tissue"], int(r["partner"])) for r in rows]
    return {label.number: label for label in labels}


def check_known(numbers: Iterable[int], where: str) -> None:
    """Raise UserError when a label map holds numbers that the table does not know."""
    unknown = sorted(set(map(int, numbers)) - set(label_table()))
    if unknown:
        shown = ", ".join(map(str, unknown[:8])) + (" …" if len(unknown) > 8 else "")
        raise UserError(
            f"{where} holds labels that the label table does not know: {shown}; expected FreeSurfer, FastSurfer or "
            "SynthSeg numbers (synth/anatomy/data/labels.tsv lists them). Map them to these numbers first"
        )
