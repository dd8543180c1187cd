"""What each tissue looks like on one scanner.

``t1w``: within-structure means and spreads of real T1-weighted scans (FreeSurfer 2020 atlas, its intensity units, white
matter near 90), stretched and jittered per scanner. ``random``: SynthSeg's mixture (Billot et al. 2023, Medical Image
Analysis; code default means U(0, 250), spreads U(0, 30)), one class per structure.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from synth.anatomy.labels import label_table
from synth.keys import rng_for

T1_BY_STRUCTURE = {
    "cerebral_white_matter": (90, 8),
    "cerebral_cortex": (57, 9),
    "lateral_ventricle": (28, 6),
    "thalamus": (82, 9),
    "caudate": (71, 9),
    "putamen": (79, 6),
    "pallidum": (96, 6),
    "hippocampus": (59, 9),
    "amygdala": (56, 7),
    "brainstem": (76, 9),
    "cerebellum_white_matter": (80, 8),
    "cerebellum_cortex": (54, 9),
    "accumbens": (66, 8),
    "white_matter_lesion": (66, 9),
    "choroid_plexus": (45, 10),
    "skin": (70, 14),
    "ventral_dc": (84, 8),
}
T1_BY_TISSUE = {  # where the atlas has no number: ordinary T1 contrast, fat and marrow bright, bone and air dark
    "background": (1, 1),
    "wm": (86, 8),
    "gm": (60, 9),
    "csf": (26, 7),
    "bone": (12, 6),
    "marrow": (58, 16),
    "soft": (62, 20),
    "fluid": (22, 7),
    "muscle": (46, 12),
    "vessel": (52, 16),
    "air": (2, 2),
}
SHARED_CLASS = {"amygdala": "hippocampus", "inferior_lateral_ventricle": "lateral_ventricle"}
TISSUE_WISE = ("csf", "background")

Contrast = dict[str, tuple[float, float]]


def structures() -> dict[str, str]:
    """Every structure of the label table and its tissue."""
    return {label.structure: label.tissue for label in label_table().values()}


def t1w(rng: np.random.Generator, scanner: dict[str, float]) -> Contrast:
    """Mean and spread per structure on one scanner.

    ``scanner['contrast']`` stretches every difference to white matter, ``grey`` and ``fluid`` move those tissues (in
    units of white matter = 90), ``texture`` scales the spreads; ``rng`` adds a small difference per structure.
    """
    drawn: Contrast = {}
    for structure, tissue in structures().items():
        mean, sd = map(float, T1_BY_STRUCTURE.get(structure, T1_BY_TISSUE[tissue]))
        mean = 90 + (mean - 90) * scanner["contrast"]
        mean += scanner["grey"] if tissue == "gm" else scanner["fluid"] if tissue == "csf" else 0.0
        if tissue in ("soft", "marrow", "muscle", "vessel"):
            mean *= float(np.exp(0.2 * rng.standard_normal()))
        mean += 1.5 * float(rng.standard_normal()) if tissue != "background" else 0.0
        drawn[structure] = (round(max(mean, 0.5), 2), round(sd * scanner["texture"], 2))
    return drawn


def random_mixture(rng: np.random.Generator) -> Contrast:
    """SynthSeg's mixture: any contrast at all, hippocampus with amygdala and the two lateral ventricles sharing one."""
    drawn: Contrast = {}
    for structure in structures():
        drawn[structure] = (round(float(rng.uniform(0, 250)), 2), round(float(rng.uniform(0, 30)), 2))
    for structure, other in SHARED_CLASS.items():
        drawn[structure] = drawn[other]
    kind = rng.random()  # background: 5 % black, 25 % dark, 70 % any (SynthSeg's shares)
    if kind < 0.3:
        drawn["background"] = (
            (0.0, 0.0) if kind < 0.05 else (round(float(rng.uniform(0, 15)), 2), round(float(rng.uniform(0, 5)), 2))
        )
    return drawn


def draw_scanner(rng: np.random.Generator, site: str | None, noise: float, bias: float) -> dict[str, float]:
    """Scanner settings: those of ``site`` (a function of its name alone) with a little scan-to-scan change, or, when
    ``site`` is None, of a scanner drawn for this one volume.

    ``noise``: upper end of the noise SD, share of white matter. ``bias``: upper end of the bias field's log SD.
    """
    own = rng if site is None else rng_for(0, 0, f"site:{site}")
    settings = {
        "contrast": float(own.uniform(0.75, 1.25)),
        "grey": float(own.normal(0, 3)),
        "fluid": float(own.normal(0, 4)),
        "texture": float(own.uniform(0.4, 0.9)),
        "noise": float(own.uniform(0.1, 1)) * noise,
        "bias": float(own.uniform(0.2, 1)) * bias,
        "gamma": float(np.exp(own.normal(0, 0.15))),
        "blur_mm": float(own.uniform(0.0, 1.2)),
    }
    if site is not None:
        for key in settings:
            settings[key] *= float(np.exp(0.05 * rng.standard_normal()))
    return {key: round(value, 5) for key, value in settings.items()}


def as_params(contrast: Contrast) -> dict[str, Any]:
    """JSON form: structure → [mean, spread]."""
    return {structure: list(pair) for structure, pair in contrast.items()}
