"""How often, and how strongly, each effect of the appearance model applies: one triple (probability, low, high) each.

The ``random`` column is SynthSeg's (Billot et al. 2023, Medical Image Analysis, code defaults: bias field SD U(0, 0.7)
in 95 % of the images, gamma about exp(N(0, 0.5)), native resolution 5 %, voxels of U(1, 4) mm 9.5 %, one thick axis of
U(1, 8) mm 85.5 %), with noise and artefacts added, which SynthSeg leaves out. The weighted contrasts are set so that
their image quality is that of real scans: see ``brainloom benchmark realism``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from synth.errors import UserError

Prior = tuple[float, float, float]


@dataclass(frozen=True)
class Effect:
    """One switchable effect: the range its strength may have, the unit, and whether a scanner or a single scan has it."""

    lowest: float
    highest: float
    unit: str
    of_scanner: bool = True
    log_uniform: bool = False


EFFECTS: Mapping[str, Effect] = {
    "noise": Effect(0, 2, "SD of Gaussian noise at 1 mm, share of white matter (random: at any size, of 125)"),
    "rician": Effect(0, 2, "SD of Rician noise at 1 mm, share of white matter (random: at any size, of 125)"),
    "bias": Effect(0, 3, "SD of the log bias field"),
    "blur": Effect(0, 20, "SD of the point spread, mm"),
    "texture": Effect(0, 10, "factor on the spread within a tissue at 1 mm"),
    "gamma": Effect(0.05, 20, "exponent of the intensities, log-uniform", log_uniform=True),
    "resolution": Effect(0.2, 20, "acquired voxel size, mm, each axis its own"),
    "slices": Effect(0.2, 20, "distance of thick slices along one axis, mm"),
    "quantise": Effect(1, 65535, "intensity steps between 0 and 1"),
    "motion": Effect(0, 50, "amplitude of the head's movement, mm", of_scanner=False),
    "spikes": Effect(0, 5, "amplitude of k-space spikes, share of white matter", of_scanner=False),
    "gibbs": Effect(0.1, 1, "share of k-space kept along each axis", of_scanner=False),
    "crop": Effect(0, 0.9, "share of the field of view lost, each axis its own", of_scanner=False),
    "neck": Effect(-100, 400, "mm kept below the brain", of_scanner=False),
}

WEIGHTED: Mapping[str, Prior] = {
    "noise": (0.2, 0.0, 0.02),
    "rician": (1.0, 0.012, 0.031),
    "bias": (1.0, 0.13, 0.19),
    "blur": (1.0, 0.2, 0.7),
    "texture": (1.0, 0.76, 1.02),
    "gamma": (0.3, 0.92, 1.08),
    "resolution": (0.2, 0.8, 1.4),
    "slices": (0.05, 1.5, 3.0),
    "quantise": (0.5, 255.0, 4095.0),
    "motion": (0.05, 0.3, 1.5),
    "spikes": (0.02, 0.01, 0.05),
    "gibbs": (0.1, 0.6, 0.9),
    "crop": (0.0, 0.0, 0.2),
    "neck": (0.3, 0.0, 60.0),
}
PRIORS: Mapping[str, Mapping[str, Prior]] = {
    "t1w": WEIGHTED,
    "t2w": {**WEIGHTED, "slices": (0.5, 1.5, 5.0)},
    "flair": {**WEIGHTED, "slices": (0.5, 1.5, 5.0)},
    "random": {
        "noise": (0.3, 0.0, 0.1),
        "rician": (0.7, 0.0, 0.1),
        "bias": (0.95, 0.0, 0.7),
        "blur": (0.5, 0.0, 1.0),
        "texture": (1.0, 1.0, 1.0),
        "gamma": (1.0, 0.4, 2.5),
        "resolution": (0.095, 1.0, 4.0),
        "slices": (0.855, 1.0, 8.0),
        "quantise": (0.2, 31.0, 255.0),
        "motion": (0.1, 0.5, 4.0),
        "spikes": (0.05, 0.05, 0.3),
        "gibbs": (0.1, 0.5, 0.9),
        "crop": (0.1, 0.0, 0.2),
        "neck": (0.3, -20.0, 60.0),
    },
}


def complete(contrast: str, given: Mapping[str, tuple[float, ...] | None]) -> dict[str, Prior]:
    """Every effect's prior: what was given, or the contrast's own where that is None.

    Raises:
        UserError: not three numbers, a probability outside 0…1, low above high, a strength outside the effect's range.
    """
    return {name: check(name, given.get(name) or PRIORS[contrast][name]) for name in EFFECTS}


def check(name: str, prior: tuple[float, ...]) -> Prior:
    """The prior as three floats. Raises UserError when it is none."""
    effect = EFFECTS[name]
    shown = ",".join(f"{value:g}" for value in prior)
    if len(prior) != 3 or not all(math.isfinite(value) for value in prior):
        raise UserError(f"{name} is {shown}; expected three numbers: probability,low,high ({effect.unit})")
    chance, low, high = map(float, prior)
    if not 0 <= chance <= 1:
        raise UserError(f"{name} is {shown}; expected a probability from 0 to 1 as its first number")
    if low > high:
        raise UserError(f"{name} is {shown}: its low, {low:g}, is above its high, {high:g}; expected low ≤ high")
    if low < effect.lowest or high > effect.highest:
        raise UserError(
            f"{name} is {shown}; expected low and high from {effect.lowest:g} to {effect.highest:g} ({effect.unit})"
        )
    return chance, low, high


def draw(rng: np.random.Generator, name: str, prior: Prior) -> float | None:
    """Strength of one effect, or None where it does not apply; always takes two numbers from ``rng``."""
    applies, at = rng.random(2)
    chance, low, high = prior
    if applies >= chance:
        return None
    if EFFECTS[name].log_uniform:
        return float(low * (high / low) ** at)
    return float(low + at * (high - low))
