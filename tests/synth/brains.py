"""Brains that lie where a test puts them: the built-in anatomy on one scanner, moved by the affine of its file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from synth.keys import rng_for
from synth.labelmap import LabelMap
from synth.sample import Sample

Matrix = npt.NDArray[np.float64]
STILL: Matrix = np.eye(4)


@lru_cache(maxsize=2)
def builtin(strip: bool = True) -> Sample:
    """The built-in anatomy at 5 mm, undeformed; zero outside the brain when stripped."""
    generator = LabelMap((48, 56, 48), 5.0, deformation="none", strip=float(strip), bias=0.0)
    return generator.render(generator.draw(rng_for(3, 0)))


def moved(degrees: float, scales: tuple[float, float, float], shift: tuple[float, float, float]) -> Matrix:
    """4×4: stretched along the axes, turned by ``degrees`` about the third axis and half of it about the first, shifted."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    d, t = np.cos(np.deg2rad(degrees / 2)), np.sin(np.deg2rad(degrees / 2))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, d, -t], [0, t, d]])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn @ np.diag(scales), shift
    return matrix


MOVED = moved(8.0, (1.08, 0.94, 1.04), (12.0, -7.0, 9.0))


def put(path: Path, image: npt.NDArray[np.float32], affine: Matrix) -> Path:
    """Write a scan."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(image, affine), path)
    return path


def study(folder: Path, *places: Matrix, strip: bool = True) -> Path:
    """A BIDS folder of the same brain (or head) once a place: sub-01 at the first, and so on."""
    sample = builtin(strip)
    image = np.where(sample.label > 0, sample.image[0], 0).astype(np.float32) if strip else sample.image[0]
    for number, place in enumerate(places, 1):
        put(folder / f"sub-{number:02d}/anat/sub-{number:02d}_T1w.nii.gz", image, place @ sample.affine)
    return folder
