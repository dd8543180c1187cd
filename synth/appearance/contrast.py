"""What each tissue looks like on one scanner: mean and spread per structure.

``t1w``: within-structure means of real T1-weighted scans (FreeSurfer 2020 atlas, its intensity units, white matter near
90), stretched and jittered per scanner; spreads such that MRIQC's metrics are those of real scans (the atlas's hold
partial volume and misregistration too). ``t2w`` and ``flair``: the spin-echo and inversion-recovery signal
equations with relaxation times at 3 T. ``random``: SynthSeg's mixture (Billot et al. 2023, Medical Image Analysis; code
default means U(0, 250), spreads U(0, 30)), one class per structure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from synth.anatomy.labels import Label
from synth.appearance import priors
from synth.keys import rng_for

WHITE = 90.0  # white matter in the units of the weighted contrasts
RANDOM_LEVEL = 125.0  # middle of the random contrast's class means
T1_BY_STRUCTURE = {
    "cerebral_white_matter": (90, 8.5),
    "cerebral_cortex": (57, 7),
    "lateral_ventricle": (26, 6),
    "thalamus": (82, 9),
    "caudate": (71, 7),
    "putamen": (79, 6),
    "pallidum": (96, 6),
    "hippocampus": (59, 7),
    "amygdala": (56, 7),
    "brainstem": (76, 9),
    "cerebellum_white_matter": (84, 8),
    "cerebellum_cortex": (55, 7),
    "accumbens": (66, 8),
    "white_matter_lesion": (66, 9),
    "choroid_plexus": (45, 10),
    "skin": (70, 14),
    "ventral_dc": (84, 8),
}
T1_BY_TISSUE = {  # where the atlas has no number: ordinary T1 contrast, fat and marrow bright, bone and air dark
    "background": (1, 1),
    "wm": (86, 8),
    "gm": (60, 7),
    "csf": (26, 7),
    "bone": (12, 6),
    "marrow": (58, 16),
    "soft": (62, 20),
    "fluid": (22, 7),
    "muscle": (46, 12),
    "vessel": (52, 16),
    "air": (2, 2),
}
# Proton density (share of water's), T1 and T2 in ms at 3 T. White and grey matter: Wansapura et al. 1999, JMRI 9:531;
# muscle, fat, marrow: Gold et al. 2004, AJR 183:343; fluids, deep grey matter and densities are textbook values.
RELAXATION: Mapping[str, tuple[float, float, float]] = {
    "wm": (0.70, 832, 80),
    "gm": (0.83, 1331, 110),
    "csf": (1.00, 4300, 2000),
    "fluid": (1.00, 4000, 1500),
    "bone": (0.08, 300, 10),
    "marrow": (0.80, 365, 133),
    "soft": (0.75, 600, 60),
    "muscle": (0.80, 1420, 32),
    "vessel": (0.10, 1600, 50),  # flow voids
    "air": (0.01, 1000, 50),
    "background": (0.01, 1000, 50),
    "thalamus": (0.77, 1080, 84),
    "caudate": (0.80, 1250, 88),
    "putamen": (0.79, 1170, 78),
    "pallidum": (0.73, 900, 58),  # iron
    "white_matter_lesion": (0.82, 1500, 160),
    "choroid_plexus": (0.90, 2200, 250),
}
SPREAD = {"wm": 0.07, "gm": 0.08, "csf": 0.10}  # of the mean within a tissue; others 0.2
ECHO = {  # ms; ranges of ordinary protocols
    "t2w": {"tr": (3500.0, 6000.0), "te": (80.0, 110.0)},
    "flair": {"tr": (8000.0, 10000.0), "te": (90.0, 140.0), "ti": (2300.0, 2600.0)},
}

Contrast = dict[str, tuple[float, float]]


def draw_contrast(
    kind: str, rng: np.random.Generator, scanner: Mapping[str, Any], table: Mapping[int, Label]
) -> Contrast:
    """Mean and spread per structure; white matter of the weighted contrasts near ``WHITE``."""
    if kind == "random":
        return random_mixture(rng, table)
    return t1w(rng, scanner, table) if kind == "t1w" else spin_echo(rng, scanner, table)


def _structures(table: Mapping[int, Label]) -> dict[str, str]:
    return {label.structure: label.tissue for label in table.values()}


def t1w(rng: np.random.Generator, scanner: Mapping[str, Any], table: Mapping[int, Label]) -> Contrast:
    """T1-weighted means and spreads on one scanner.

    ``scanner['contrast']`` stretches the differences between brain tissues, ``grey`` and ``fluid`` move those tissues (in
    units of white matter = 90); ``rng`` adds a small difference per structure.
    """
    drawn: Contrast = {}
    for structure, tissue in _structures(table).items():
        mean, sd = map(float, T1_BY_STRUCTURE.get(structure, T1_BY_TISSUE[tissue]))
        if tissue in ("wm", "gm", "csf", "fluid"):
            mean = WHITE + (mean - WHITE) * scanner["contrast"]
        mean += scanner["grey"] if tissue == "gm" else scanner["fluid"] if tissue == "csf" else 0.0
        if tissue in ("soft", "marrow", "muscle", "vessel"):
            mean *= float(np.exp(0.2 * rng.standard_normal()))
        mean += 1.5 * float(rng.standard_normal()) if tissue != "background" else 0.0
        drawn[structure] = (round(max(mean, 0.5), 2), round(sd, 2))
    return drawn


def spin_echo(rng: np.random.Generator, scanner: Mapping[str, Any], table: Mapping[int, Label]) -> Contrast:
    """T2-weighted or FLAIR means: PD · |1 - 2·exp(-TI/T1) + exp(-TR/T1)| · exp(-TE/T2), the inversion left out without TI.

    Relaxation times of every structure vary by 3 % (SD) between people.
    """

    def signal(density: float, t1: float, t2: float) -> float:
        recovered = 1 - math.exp(-scanner["tr"] / t1)
        if "ti" in scanner:
            recovered = abs(1 - 2 * math.exp(-scanner["ti"] / t1) + math.exp(-scanner["tr"] / t1))
        return density * recovered * math.exp(-scanner["te"] / t2)

    unit = WHITE / signal(*RELAXATION["wm"])
    drawn: Contrast = {}
    for structure, tissue in _structures(table).items():
        density, t1, t2 = RELAXATION.get(structure, RELAXATION[tissue])
        a, b = np.exp(0.03 * rng.standard_normal(2))
        mean = unit * signal(density, t1 * a, t2 * b)
        drawn[structure] = (round(mean, 2), round(mean * SPREAD.get(tissue, 0.2) + 0.5, 2))
    return drawn


def random_mixture(rng: np.random.Generator, table: Mapping[int, Label]) -> Contrast:
    """SynthSeg's mixture: any contrast at all; structures of one generation class share theirs."""
    of_class: Contrast = {}
    drawn: Contrast = {}
    for label in table.values():
        name = label.generation_class
        if name not in of_class:
            mean, sd = rng.uniform(0, 250), rng.uniform(0, 30)
            of_class[name] = (round(float(mean), 2), round(float(sd), 2))
        drawn[label.structure] = of_class[name]
    kind = rng.random()  # background: 5 % black, 25 % dark, 70 % any (SynthSeg's shares)
    if kind < 0.3:
        drawn["background"] = (
            (0.0, 0.0) if kind < 0.05 else (round(float(rng.uniform(0, 15)), 2), round(float(rng.uniform(0, 5)), 2))
        )
    return drawn


def draw_scanner(
    rng: np.random.Generator, site: str | None, kind: str, wanted: Mapping[str, priors.Prior]
) -> dict[str, Any]:
    """Scanner and scan: contrast settings, then the strength of every effect, None where it does not apply.

    A scanner's own settings are those of ``site`` (a function of its name alone) with a little scan-to-scan change, or,
    when ``site`` is None, of a scanner drawn for this one volume.
    """
    own = rng if site is None else rng_for(0, 0, f"site:{site}")
    settings: dict[str, Any] = {
        "contrast": own.uniform(0.82, 1.04),
        "grey": own.normal(0, 2),
        "fluid": own.normal(0, 2),
    }
    settings |= {name: own.uniform(*limits) for name, limits in ECHO.get(kind, {}).items()}
    settings["coarse"] = own.uniform(0.2, 0.7)  # share of the texture that is coarser than a voxel
    for name, effect in priors.EFFECTS.items():
        if effect.of_scanner:
            settings[name] = priors.draw(own, name, wanted[name])
    if site is not None:
        for key, value in settings.items():
            change = float(np.exp(0.05 * rng.standard_normal()))
            if value is not None:
                settings[key] = value * change
                if key in wanted:
                    settings[key] = min(max(settings[key], wanted[key][1]), wanted[key][2])
    for name, effect in priors.EFFECTS.items():
        if not effect.of_scanner:
            settings[name] = priors.draw(rng, name, wanted[name])
    return {key: None if value is None else round(float(value), 5) for key, value in settings.items()}


def as_params(contrast: Contrast) -> dict[str, Any]:
    """JSON form: structure → [mean, spread]."""
    return {structure: list(pair) for structure, pair in contrast.items()}
