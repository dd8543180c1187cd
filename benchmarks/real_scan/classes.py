"""What the network tells apart: labels of both sides and of the cortex's regions merged into fourteen classes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from synth.anatomy.labels import Label, label_table

# class -> the label table's structures; what is in none of them is outside the brain
CLASSES: dict[str, tuple[str, ...]] = {
    "outside": (),
    "cerebral_white_matter": ("cerebral_white_matter", "corpus_callosum", "white_matter_lesion"),
    "cerebral_cortex": ("cerebral_cortex",),
    "csf": ("sulcal_csf", "third_ventricle", "fourth_ventricle", "vessel"),
    "lateral_ventricle": ("lateral_ventricle", "inferior_lateral_ventricle", "choroid_plexus"),
    "thalamus": ("thalamus",),
    "caudate": ("caudate",),
    "putamen": ("putamen",),
    "pallidum": ("pallidum",),
    "hippocampus": ("hippocampus",),
    "amygdala": ("amygdala", "accumbens"),
    "brainstem": ("brainstem", "ventral_dc", "optic_chiasm"),
    "cerebellum_white_matter": ("cerebellum_white_matter",),
    "cerebellum_cortex": ("cerebellum_cortex",),
}
NAMES = tuple(CLASSES)
WHITE_MATTER = ("cerebral_white_matter", "cerebellum_white_matter")
GREY_MATTER = (
    "cerebral_cortex",
    "cerebellum_cortex",
    "thalamus",
    "caudate",
    "putamen",
    "pallidum",
    "hippocampus",
    "amygdala",
)


def class_of(label: Label) -> int:
    """Position in :data:`NAMES` of one row of the label table; 0, outside, for skull, scalp, spinal cord…

    Raises:
        KeyError: an intracranial structure that no class holds.
    """
    for number, structures in enumerate(CLASSES.values()):
        if label.structure in structures:
            return number
    if label.is_intracranial:
        raise KeyError(f"structure '{label.structure}' is in no class")
    return 0


def class_map(numbers: Iterable[int]) -> npt.NDArray[np.uint8]:
    """An array that turns the label ``numbers`` (FreeSurfer's) into classes: ``class_map(…)[label]``."""
    table = label_table()
    wanted = sorted({int(number) for number in numbers})
    lookup = np.zeros(wanted[-1] + 1, np.uint8)
    for number in wanted:
        lookup[number] = class_of(table[number])
    return lookup


def members(names: Iterable[str]) -> list[int]:
    """Positions in :data:`NAMES` of class names."""
    return [NAMES.index(name) for name in names]
