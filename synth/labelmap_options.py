"""What LabelMap's plain options may be."""

from __future__ import annotations

from synth.anatomy.people import DIAGNOSES
from synth.errors import UserError, near


def checked_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Three whole numbers from 8 to 1024. Raises UserError for anything else."""
    if len(shape) != 3 or any(int(n) != n or not 8 <= n <= 1024 for n in shape):
        raise UserError(f"shape is {','.join(map(str, shape))}; expected three whole numbers from 8 to 1024")
    return int(shape[0]), int(shape[1]), int(shape[2])


def checked_spacing(spacing: float | tuple[float, ...]) -> tuple[float, float, float]:
    """Millimetres along each axis; one number stands for three. Raises UserError for anything else."""
    three = (spacing,) * 3 if isinstance(spacing, (int, float)) else tuple(spacing)
    if len(three) != 3 or any(not 0.2 <= s <= 20 for s in three):
        raise UserError(f"spacing is {spacing}; expected one or three voxel sizes from 0.2 to 20 mm")
    return float(three[0]), float(three[1]), float(three[2])


def checked_ages(ages: tuple[float, ...]) -> tuple[float, float]:
    """Youngest and oldest, years. Raises UserError for anything else."""
    if len(ages) != 2 or not 20 <= ages[0] <= ages[1] <= 90:
        raise UserError(
            f"ages is {','.join(map(str, ages))}; expected youngest,oldest within 20,90 (the range of the effects table)"
        )
    return float(ages[0]), float(ages[1])


def checked_mix(names: tuple[str, ...], weights: tuple[float, ...]) -> dict[str, float]:
    """Diagnosis → weight; no weights are equal ones. Raises UserError for anything else."""
    for name in names:
        if name not in DIAGNOSES:
            raise UserError(f"diagnoses holds '{name}'; expected some of {near(name, DIAGNOSES, 4)}")
    if (
        not names
        or (weights and len(weights) != len(names))
        or any(w < 0 for w in weights)
        or (weights and sum(weights) <= 0)
    ):
        raise UserError(
            f"diagnosis_weights has {len(weights)} numbers for {len(names)} diagnoses; expected one each, none negative"
        )
    return dict(zip(names, weights or (1.0,) * len(names), strict=True))
