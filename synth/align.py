"""Affine registration of a brain to the built-in anatomy, by SimpleITK (Lowekamp et al. 2013, Front Neuroinform 7:45)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.brain import Brain
from synth.errors import UserError
from synth.nifti import Grid, resample
from synth.repeatable import one_itk_thread

PACKAGE = "SimpleITK"
GRID_MM = 4.0
TEMPLATE_GRID: Grid = ((48, 56, 48), (GRID_MM,) * 3)  # 192 × 224 × 192 mm: the brain and a margin
SCAN_GRID: Grid = ((64, 72, 64), (GRID_MM,) * 3)  # wider, so that a brain that is turned or off the middle is whole
BINS = 32  # of the joint histogram, as many as ANTs takes for Mattes' metric
LEVELS = (2, 1)  # shrink factors: 8 mm, then 4 mm
SMOOTHING_MM = (4.0, 0.0)  # Gaussian SD at each level
STEP_MM, SMALLEST_STEP_MM, ITERATIONS = 2.0, 0.005, 200
VOLUME_RATIO = (0.5, 2.0)  # of the scan's brain against the template's; beyond lies no adult brain
DIGITS = 6  # of the numbers kept: a ten-thousandth of a mm at the brain's edge

Image = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]


class RegistrationError(ValueError):
    """A scan that cannot be brought onto the template: its volume fails, the others are made."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """How a brain comes to lie on the template.

    Attributes:
        to_scan: 4×4, mm of the template → mm of the scan, both RAS+.
        information: mutual information (nats) with the template at the start, which has place and size alone, and at the
            end.
    """

    to_scan: Matrix
    information: tuple[float, float]

    def as_params(self) -> dict[str, Any]:
        """Plain JSON values; the map's upper three rows one after the other."""
        import importlib.metadata

        return {
            "template_to_scan": [round(float(v), DIGITS) for v in self.to_scan[:3].ravel()],
            "mutual_information": [round(v, 4) for v in self.information],
            "by": f"{PACKAGE} {importlib.metadata.version(PACKAGE)}",
        }


def to_scan_of(params: dict[str, Any]) -> Matrix:
    """The 4×4 map that :meth:`Alignment.as_params` keeps."""
    return np.vstack([np.reshape(params["template_to_scan"], (3, 4)), [0.0, 0.0, 0.0, 1.0]])


def check_installed() -> None:
    """Raise UserError, with the command that mends it, when SimpleITK is not installed."""
    import importlib.util

    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(f"align and n4 need the package {PACKAGE}, which is not installed: pip install {PACKAGE}")


@lru_cache(maxsize=1)
def template() -> Image:
    """``[48, 56, 48]`` at 4 mm: the built-in anatomy's brain with every structure at its mean T1 signal, white matter 1.

    It lies as LabelMap lays the built-in anatomy: the middle of the brain at 0 mm; and has the mean head's size.
    """
    from synth.anatomy.people import MEAN_ICV_ML
    from synth.anatomy.source import builtin_path, load_anatomy
    from synth.appearance.contrast import T1_BY_STRUCTURE, T1_BY_TISSUE, WHITE

    anatomy = load_anatomy(builtin_path())
    signal = [T1_BY_STRUCTURE.get(one.structure, T1_BY_TISSUE[one.tissue])[0] for one in anatomy.labels]
    inside = [one.is_intracranial for one in anatomy.labels]
    brain = (np.array(signal, np.float32) * inside / WHITE).astype(np.float32)[anatomy.index]
    spacing = np.array(anatomy.spacing) * (MEAN_ICV_ML / anatomy.intracranial_ml) ** (1 / 3)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * anatomy.centre
    return resample(brain, affine, np.zeros(3), TEMPLATE_GRID)


def template_parents() -> list[dict[str, Any]]:
    """The label map that the template is made from, as a parent of what is aligned to it."""
    from synth.anatomy.source import builtin_path, sha256_of

    path = builtin_path()
    licence = "ICBM152 and CerebrA notices, see synth/anatomy/data/NOTICE"
    return [{"kind": "template", "name": path.name, "sha256": sha256_of(path), "licence": licence}]


def align(brain: Brain, path: Path) -> Alignment:
    """Register a brain to the template: place and size, then similarity (7 degrees of freedom), then affine (12).

    Mattes' mutual information (Mattes et al. 2003, IEEE TMI 22:120) of all voxels at 8 and 4 mm, nothing drawn at random,
    on one thread: the same brain gives the same numbers.

    Args:
        brain: in any contrast.
        path: what an error calls the scan.

    Raises:
        RegistrationError: the brain cannot be laid on the template, or comes out at an impossible size.
    """
    fixed, moving = template(), resample(brain.image, brain.affine, brain.middle, SCAN_GRID)
    with one_itk_thread():
        linear, shift, information = _registered(fixed, moving, path)
    volume = float(np.linalg.det(linear))
    if not VOLUME_RATIO[0] <= volume <= VOLUME_RATIO[1]:
        raise RegistrationError(
            f"scan '{path}' comes out at {volume:.2f} times the template's volume, expected {VOLUME_RATIO[0]:g} to "
            f"{VOLUME_RATIO[1]:g}; look at its brain mask, leave the scan out, or import without align"
        )
    if information[1] <= information[0]:
        raise RegistrationError(
            f"scan '{path}' lies no better on the template after registration (mutual information {information[1]:.3f}, "
            f"{information[0]:.3f} before); leave the scan out, or import without align"
        )
    to_scan = np.eye(4)
    to_scan[:3, :3], to_scan[:3, 3] = linear, shift + brain.middle
    return Alignment(to_scan, information)


def _registered(fixed: Image, moving: Image, path: Path) -> tuple[Matrix, Matrix, tuple[float, float]]:
    """Linear part and shift in mm, template → scan, and mutual information at start and end."""
    import SimpleITK as sitk  # noqa: N813

    target, source = _as_itk(fixed, TEMPLATE_GRID), _as_itk(moving, SCAN_GRID)
    try:
        similar, affine = sitk.Similarity3DTransform(), sitk.AffineTransform(3)
        _start(similar, fixed, moving)
        before = _information(similar, target, source)
        _optimise(similar, target, source)
        affine.SetMatrix(similar.GetMatrix())
        affine.SetTranslation(similar.GetTranslation())
        _optimise(affine, target, source)
        after = _information(affine, target, source)
    except RuntimeError as error:  # ITK's way to say that the two do not overlap
        reason = " ".join(str(error).split())[-160:]
        raise RegistrationError(f"scan '{path}' cannot be laid on the template ({reason}); leave it out") from error
    return np.reshape(affine.GetMatrix(), (3, 3)), np.array(affine.GetTranslation()), (before, after)


def _as_itk(image: Image, grid: Grid) -> Any:
    """The image for ITK, in our own mm."""
    import SimpleITK as sitk  # noqa: N813

    from synth.sample import centred_affine

    found = sitk.GetImageFromArray(np.ascontiguousarray(image.T))
    found.SetSpacing(grid[1])
    found.SetOrigin([float(v) for v in centred_affine(*grid)[:3, 3]])
    return found


def _start(transform: Any, fixed: Image, moving: Image) -> None:
    """Lay one brain's middle of mass on the other's, at the ratio of their sizes."""
    target, source = (_middle_and_size(image, grid) for image, grid in ((fixed, TEMPLATE_GRID), (moving, SCAN_GRID)))
    scale = (source[1] / target[1]) ** (1 / 3)
    transform.SetScale(float(scale))
    transform.SetTranslation([float(v) for v in source[0] - scale * target[0]])


def _middle_and_size(image: Image, grid: Grid) -> tuple[Matrix, float]:
    """Middle of what is not zero, in mm, and its voxels."""
    from synth.sample import centred_affine

    inside = np.argwhere(image > 0)
    if not len(inside):
        return np.zeros(3), 1.0
    affine = centred_affine(*grid)
    middle: Matrix = affine[:3, :3] @ inside.mean(0) + affine[:3, 3]
    return middle, float(len(inside))


def _method() -> Any:
    import SimpleITK as sitk  # noqa: N813

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _information(transform: Any, fixed: Any, moving: Any) -> float:
    method = _method()
    method.SetInitialTransform(transform, True)
    return -float(method.MetricEvaluate(fixed, moving))


def _optimise(transform: Any, fixed: Any, moving: Any) -> None:
    """Change ``transform`` so that mutual information grows."""
    method = _method()
    method.SetOptimizerAsRegularStepGradientDescent(STEP_MM, SMALLEST_STEP_MM, ITERATIONS, 0.5)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(LEVELS)
    method.SetSmoothingSigmasPerLevel(SMOOTHING_MM)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(transform, True)
    method.Execute(fixed, moving)
