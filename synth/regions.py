"""Which ``volume_…`` covariates make up the ventricles and the brain: one definition for whoever asks for or measures
them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from synth.anatomy.labels import label_table
from synth.sample import Covariate

VENTRICLES = ("lateral_ventricle", "inferior_lateral_ventricle", "third_ventricle", "fourth_ventricle")
"""Structures of the label table whose volumes add up to ``ventricular_volume``; choroid plexus is left out."""

PARENCHYMA = (
    "cerebral_white_matter",
    "white_matter_lesion",
    "corpus_callosum",
    "cerebral_cortex",
    "cerebellum_white_matter",
    "cerebellum_cortex",
    "thalamus",
    "caudate",
    "putamen",
    "pallidum",
    "hippocampus",
    "amygdala",
    "accumbens",
    "ventral_dc",
    "brainstem",
)
"""Structures whose volumes add up to ``brain_volume``: no CSF, ventricles, choroid plexus, vessels or optic nerve."""


def _covariates(structures: Sequence[str]) -> tuple[str, ...]:
    return tuple(label.covariate for label in label_table().values() if label.structure in structures)


VENTRICULAR: tuple[str, ...] = _covariates(VENTRICLES)
"""Covariates, mm³, whose sum is ``ventricular_volume``."""

BRAIN: tuple[str, ...] = _covariates(PARENCHYMA)
"""Covariates, mm³, whose sum is ``brain_volume``; a parcellated cortex counts by its parcels."""

_ALWAYS_THERE = frozenset(
    f"volume_{side}_{name}" for side in ("left", "right") for name in ("cerebral_white_matter", "lateral_ventricle")
)


def total(covariates: Mapping[str, Covariate], names: Sequence[str]) -> float | None:
    """Sum in mm³ of the named volumes; a structure that a coarse grid lost is not among a sample's covariates and
    counts as 0.

    None when none of them is there, when one that every whole brain has (white matter, lateral ventricles) is among the
    names but not there, or when one is a word: a table of a few regions says nothing about the whole.
    """
    found = {name: covariates[name] for name in names if name in covariates}
    if not found or any(name in _ALWAYS_THERE and name not in found for name in names):
        return None
    values = [value for value in found.values() if not isinstance(value, str)]
    return float(sum(values)) if len(values) == len(found) else None
