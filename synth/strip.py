"""Skull stripping by deepbet (Fisch et al. 2024, an optional package): which voxels of a T1w scan are brain."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.errors import UserError
from synth.repeatable import repeatable

PACKAGE, VERSION = "deepbet", "1.0.2"
MODELS = ("data/models/model.pt", "data/models/bbox_model.pt")
SMALLEST_BRAIN_ML = 100.0  # less is no brain, even of a newborn
_one_at_a_time = threading.Lock()  # deepbet keeps the box of the head it looks at in itself


def check_installed() -> None:
    """Raise UserError, with the command that mends it, when deepbet is not installed."""
    import importlib.util

    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(_missing("is not installed"))


def _missing(why: str) -> str:
    return f"skull stripping needs the package {PACKAGE}, which {why}: pip install {PACKAGE}=={VERSION}"


@lru_cache(maxsize=1)
def _extraction() -> Any:
    try:
        from deepbet import BrainExtraction
    except ImportError as error:
        raise UserError(_missing(f"cannot be imported ({error})")) from error
    return BrainExtraction(no_gpu=True)  # the same mask on every machine


def brain_mask(image: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], path: Path) -> npt.NDArray[np.bool_]:
    """``[D, H, W]`` True inside the brain (with its ventricles and the CSF of its sulci) of a RAS+ T1w image.

    Computed on one CPU thread, in about 3 s and 1 GB whatever the voxel size.

    Raises:
        UserError: deepbet is missing, or finds no brain; ``path`` is what the sentence calls the scan.
    """
    import nibabel

    scan = nibabel.Nifti1Image(image, affine)
    try:
        with _one_at_a_time, repeatable():
            _, found, _ = _extraction().run(scan)
    except UserError:
        raise
    except (AssertionError, ValueError, IndexError, RuntimeError) as error:  # its ways to say that it found no brain
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{PACKAGE} finds no brain in scan '{path}' ({reason}); leave the scan out, or import without strip"
        ) from error
    mask = np.asarray(found.dataobj) > 0
    volume = float(mask.sum() * abs(np.linalg.det(affine[:3, :3]))) / 1000
    if volume < SMALLEST_BRAIN_ML:
        raise UserError(
            f"{PACKAGE} finds a brain of {volume:.0f} mL in scan '{path}', expected {SMALLEST_BRAIN_ML:.0f} or more; "
            "leave the scan out, or import without strip"
        )
    return mask


def strip_parents() -> list[dict[str, Any]]:
    """The network's files, as parents of what is stripped with it."""
    import importlib.metadata

    from synth.anatomy.source import sha256_of

    package = importlib.metadata.distribution(PACKAGE)
    files = [Path(str(package.locate_file(name))) for name in MODELS]
    return [
        {
            "kind": "network",
            "name": f"{PACKAGE} {package.version} {path.name}",
            "sha256": sha256_of(path),
            "licence": "MIT",
        }
        for path in files
    ]
