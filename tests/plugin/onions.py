"""Onions: a toy generator, one file, everything a plug-in needs."""

import numpy as np

from synth.generator import Generator
from synth.keys import new_seed, rng_for
from synth.sample import Sample, centred_affine


class Onion(Generator):
    """Concentric shells, each with its own brightness and label.

    Args:
        shape: output voxels left→right, posterior→anterior, inferior→superior.
        spacing: voxel size in mm.
        shells: most shells an onion can have, at least 2.
        noise: SD of the noise.
    """

    def __init__(
        self, shape: tuple[int, int, int] = (32, 40, 32), spacing: float = 4.0, shells: int = 5, noise: float = 0.02
    ) -> None:
        if shells < 2:
            raise ValueError(f"shells is {shells}; expected 2 or more")
        self.shape, self.spacing, self.shells, self.noise = shape, spacing, shells, noise

    def draw(self, rng: np.random.Generator) -> dict:
        shells = int(rng.integers(2, self.shells + 1))
        return {
            "brightness": [round(float(value), 4) for value in rng.uniform(0.2, 1.0, shells)],
            "radius_mm": round(float(rng.uniform(0.6, 0.9)) * min(self.shape) * self.spacing / 2, 3),
            "noise_seed": new_seed(rng),  # not the noise itself: params stay small
        }

    def render(self, params: dict) -> Sample:
        affine = centred_affine(self.shape, (self.spacing,) * 3)
        axes = [np.arange(n) * self.spacing + low for n, low in zip(self.shape, affine[:3, 3], strict=True)]
        distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
        shells = len(params["brightness"])
        label = np.clip(shells - np.floor(distance / params["radius_mm"] * shells), 0, shells).astype(np.int16)
        image = np.array([0.0, *params["brightness"]])[label]
        image += self.noise * rng_for(params["noise_seed"], 0).standard_normal(self.shape)
        covariates = {"shells": shells, "volume_onion": float((label > 0).sum()) * self.spacing**3, "skin": "brown"}
        return Sample(image=image[None], label=label, covariates=covariates, affine=affine)

    def labels(self) -> dict[int, str]:
        return {number: f"Shell-{number}" for number in range(1, self.shells + 1)}
