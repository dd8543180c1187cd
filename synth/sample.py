"""Sample: the only volume type. Canonical RAS+ orientation throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Covariate = float | str


@dataclass(frozen=True)
class Sample:
    """One volume: image, optional label map, covariates and where it lies in space.

    Attributes:
        image: ``[C, D, H, W]`` float32, finite. D runs left→right, H posterior→anterior, W inferior→superior (RAS+).
        label: ``[D, H, W]`` integer label map on the same grid, or None.
        covariates: name → number or word (age in years, ``volume_…`` in mm³, sex ``F``/``M``, diagnosis, site…).
        affine: 4×4, voxel index → mm, RAS+.

    Raises:
        ValueError: a wrong number of axes, label and image on different grids, NaN or infinity, an affine that is not
            4×4 or is singular, a covariate that is neither number nor word.
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.integer[Any]] | None = None
    covariates: Mapping[str, Covariate] = field(default_factory=dict)
    affine: npt.NDArray[np.float64] = field(default_factory=lambda: np.eye(4))

    def __post_init__(self) -> None:
        image = np.asarray(self.image, dtype=np.float32)
        affine = np.asarray(self.affine, dtype=np.float64)
        if image.ndim != 4:
            raise ValueError(f"image has shape {image.shape}; expected four axes [C, D, H, W]")
        if not np.isfinite(image).all():
            raise ValueError("image holds NaN or infinity; every voxel must be finite")
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise ValueError(f"affine has shape {affine.shape} or is singular; expected an invertible 4×4 matrix in mm")
        if self.label is not None:
            label = np.asarray(self.label)
            if label.shape != image.shape[1:]:
                raise ValueError(
                    f"label has shape {label.shape}, image {image.shape}; expected label {image.shape[1:]}"
                )
            if not np.issubdtype(label.dtype, np.integer):
                raise ValueError(f"label has dtype {label.dtype}; expected integers")
            object.__setattr__(self, "label", label)
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "covariates", {str(k): _covariate(k, v) for k, v in self.covariates.items()})

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along D, H, W in mm."""
        return spacing_of(self.affine)


def _covariate(name: str, value: object) -> Covariate:
    if isinstance(value, str):
        return value
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"covariate '{name}' is {value!r}; expected a number or a word") from None
    if not np.isfinite(number):
        raise ValueError(f"covariate '{name}' is {number}; leave it out where it is missing")
    return number


def spacing_of(affine: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Voxel size along each array axis in mm: the column lengths of the affine."""
    x, y, z = np.sqrt((np.asarray(affine)[:3, :3] ** 2).sum(axis=0))
    return float(x), float(y), float(z)


def centred_affine(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """RAS+ affine of an axis-aligned grid whose middle lies at 0 mm."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-s * (n - 1) / 2 for n, s in zip(shape, spacing, strict=True)]
    return affine
