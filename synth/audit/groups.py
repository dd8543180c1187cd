"""Groups of structures that a small segmenter can tell apart on a coarse grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from synth.anatomy.labels import HIGHEST, Label, label_table
from synth.corpus import Corpus
from synth.errors import UserError
from synth.regions import BRAIN, VENTRICLES, VENTRICULAR, total
from synth.sample import Covariate

GROUPS = (
    "background",
    "head",
    "csf",
    "ventricles",
    "cortex",
    "deep_grey",
    "white_matter",
    "cerebellum",
    "brainstem",
)
NAMES = {
    "csf": "CSF outside the ventricles",
    "ventricles": "ventricles",
    "cortex": "cerebral cortex",
    "deep_grey": "deep grey matter",
    "white_matter": "cerebral white matter",
    "cerebellum": "cerebellum",
    "brainstem": "brain stem",
    "brain": "brain",
}
"""What is measured, and what it is called on the page; brain is the sum of ``PARTS``."""

DIRECT = {"ventricles": "ventricular_volume", "brain": "brain_volume"}
"""Covariates that name a region's volume outright, mm³."""

PARTS = ("cortex", "deep_grey", "white_matter", "cerebellum", "brainstem")
_WHOLE = {"cerebral_cortex": "cortex", "brainstem": "brainstem", "ventral_dc": "brainstem"}


def group_of(label: Label) -> str:
    """The group of one row of the label table."""
    if label.number == 0 or label.tissue == "air":
        return "background"
    if not label.is_intracranial:
        return "head"
    if label.structure in _WHOLE:
        return _WHOLE[label.structure]
    if label.structure in (*VENTRICLES, "choroid_plexus"):
        return "ventricles"
    if label.structure.startswith("cerebellum"):
        return "cerebellum"
    return {"csf": "csf", "gm": "deep_grey"}.get(label.tissue, "white_matter")


def labels_of(corpus: Corpus) -> dict[int, Label] | None:
    """The rows of a corpus's label numbers, from the built-in table or the generator's own; None where the corpus has no
    label maps, or numbers that no table gives the names they have there, or neither ventricles nor white matter."""
    own = corpus.header.recipe["generator"].get("init_args", {}).get("labels")
    try:
        table = label_table(Path(own) if own else None)
    except UserError:
        return None
    named = {int(number): name for number, name in corpus.header.labels.items()}
    if not corpus.has_labels or any(
        number not in table or table[number].name != name for number, name in named.items()
    ):
        return None
    found = {number: table[number] for number in named}
    there = {group_of(label) for label in found.values()}
    return found if {"ventricles", "white_matter"} <= there else None


def group_numbers(table: Mapping[int, Label]) -> npt.NDArray[np.uint8]:
    """``[HIGHEST + 1]`` number in ``GROUPS`` of every label number; numbers without a row are head."""
    numbers = np.full(HIGHEST + 1, GROUPS.index("head"), np.uint8)
    for number, label in table.items():
        numbers[number] = GROUPS.index(group_of(label))
    return numbers


def covariates_of(table: Mapping[int, Label]) -> dict[str, tuple[str, ...]]:
    """Measured region → the ``volume_…`` covariates that it sums; ventricles and brain as :mod:`synth.regions` has them."""
    found = {
        group: tuple(label.covariate for label in table.values() if group_of(label) == group)
        for group in NAMES
        if group != "brain"
    }
    return {**found, "ventricles": VENTRICULAR, "brain": BRAIN}


def requested(covariates: Mapping[str, Covariate], region: str, names: tuple[str, ...]) -> float | None:
    """mm³ that one sample was asked to have in a region: ``ventricular_volume`` and ``brain_volume`` where they are
    covariates, else the sum of ``names``; None where neither is there."""
    value = covariates.get(DIRECT.get(region, ""))
    if value is not None:
        return None if isinstance(value, str) else value
    return total(covariates, names)
