"""A generator of toy heads: fast, and every person is another one. For tests of what looks at whole corpora."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from synth.anatomy.labels import label_table
from synth.generator import Generator, Params
from synth.keys import new_seed, rng_for
from synth.sample import Sample, centred_affine

SHELLS = ((1.0, 258), (0.88, 165), (0.82, 24), (0.74, 3), (0.55, 2))
"""Outer radius and label number, from the outside: scalp, skull, CSF, cortex, white matter; then ventricles."""
VENTRICLE = 4
SIGNAL = {0: 0.02, 258: 0.8, 165: 0.15, 24: 0.25, 3: 0.6, 2: 1.0, VENTRICLE: 0.22}


class Heads(Generator):
    """Nested, warped ellipsoids with ventricles that grow with age and a brain that is larger in men.

    Args:
        shape: voxels.
        spacing: mm.
        label_maps: whether samples carry them.
        deaf: whether the covariates say nothing about the picture.
        alike: whether every volume is the same.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (24, 28, 24),
        spacing: float = 7.0,
        label_maps: bool = True,
        deaf: bool = False,
        alike: bool = False,
    ) -> None:
        self.shape, self.spacing = shape, spacing
        self.label_maps, self.deaf, self.alike = label_maps, deaf, alike

    def draw(self, rng: np.random.Generator) -> Params:
        """A person."""
        person = {"age": float(rng.uniform(20, 90)), "sex": str(rng.choice(["F", "M"])), "seed": new_seed(rng)}
        told = {"age": float(rng.uniform(20, 90)), "sex": str(rng.choice(["F", "M"]))} if self.deaf else {}
        return {"person": {"age": 50.0, "sex": "F", "seed": 1} if self.alike else person, "told": told}

    def render(self, params: Params) -> Sample:
        """The head."""
        person = params["person"]
        rng = rng_for(person["seed"], 0)
        axes = [np.linspace(-1.1, 1.1, n) for n in self.shape]
        warped = [
            axis + 0.9 * gaussian_filter(rng.normal(size=self.shape), 2.5) for axis in np.meshgrid(*axes, indexing="ij")
        ]
        radius = np.sqrt(sum(axis**2 for axis in warped)) / (1.0 if person["sex"] == "M" else 0.95)
        label = np.zeros(self.shape, np.int16)
        for outer, number in SHELLS:
            label[radius < outer] = number
        label[radius < 0.12 + 0.26 * person["age"] / 90] = VENTRICLE
        image = np.zeros(self.shape)
        for number, signal in SIGNAL.items():
            image[label == number] = signal * rng.normal(1, 0.05)
        image = gaussian_filter(image, 0.4) + rng.normal(0, 0.03, self.shape)
        return Sample(
            image[None].clip(0).astype(np.float32),
            label if self.label_maps else None,
            {**self._covariates(label, person), **params["told"]},
            centred_affine(self.shape, (self.spacing,) * 3),
        )

    def _covariates(self, label: np.ndarray[Any, Any], person: Params) -> dict[str, float | str]:
        """Both sides get half of what is in the middle."""
        numbers = {2: 41, 3: 42, 4: 43, 24: 24}
        found: dict[str, float | str] = {"age": person["age"], "sex": person["sex"]}
        for number, partner in numbers.items():
            mm3 = float((label == number).sum()) * self.spacing**3
            for one in {number, partner}:
                found[label_table()[one].covariate] = mm3 / len({number, partner})
        return found

    def labels(self) -> dict[int, str]:
        """The numbers that are written."""
        return {number: label_table()[number].name for number in (0, VENTRICLE, *(n for _, n in SHELLS))}


class Visits(Heads):
    """Heads of people who come several times: the same head, somewhat moved, with another gain, noise and age.

    Args:
        visits: volumes of each person.
        people: seed of the people.
        named: whether ``participant_id`` says who it is.
    """

    def __init__(self, visits: int = 3, people: int = 0, named: bool = True) -> None:
        super().__init__(label_maps=False)
        self.visits, self.first, self.named = visits, people, named

    def draw_at(self, index: int, rng: np.random.Generator) -> Params:
        """A visit of person ``index // visits``."""
        number = index // self.visits
        whose = super().draw(rng_for(self.first, number, "person"))
        visit = {"shift": rng.integers(-1, 2, 3).tolist(), "gain": float(rng.uniform(0.8, 1.2)), "seed": new_seed(rng)}
        return {**whose, "visit": visit, "participant": f"sub-{number:03d}"}

    def render(self, params: Params) -> Sample:
        """The head; without a visit as :class:`Heads`."""
        sample = super().render(params)
        if "visit" not in params:
            return sample
        visit = params["visit"]
        moved = np.roll(sample.image, visit["shift"], (1, 2, 3)) * visit["gain"]
        noisy = moved + rng_for(visit["seed"], 0).normal(0, 0.02, moved.shape)
        who = {"participant_id": params["participant"]} if self.named else {}
        return Sample(noisy.clip(0).astype(np.float32), None, {**sample.covariates, **who}, sample.affine)
