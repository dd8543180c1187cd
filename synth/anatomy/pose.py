"""How a head lies in the scanner: rotation, stretch, shear, shift, mirror; and the affine map that follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.errors import UserError
from synth.sample import centred_affine

SIZE_LIMITS = (0.8, 1.25)  # of a head against the label map it comes from, along a line


@dataclass(frozen=True)
class PoseRange:
    """The largest rotation (degrees), stretch (share of the size), shear (share) and shift (mm) of a pose, each drawn
    evenly between minus and plus that on every axis; None leaves one to the deformation."""

    rotation: float | None = None
    stretch: float | None = None
    shear: float | None = None
    shift: float | None = None

    def __post_init__(self) -> None:
        for name, highest in (("rotation", 180.0), ("stretch", 0.5), ("shear", 0.5), ("shift", 200.0)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= highest:
                raise UserError(f"{name} is {value}; expected a number from 0 to {highest:g}")


def draw_pose(rng: np.random.Generator, deformation: str, flip: bool, given: PoseRange = PoseRange()) -> dict[str, Any]:
    """Rotation (degrees), stretch and shear (log-scale and share), shift (mm), mirror; within ``given`` where that says.

    ``strong`` is SynthSeg's: rotation ±15°, scale 0.8 to 1.2, shear ±0.012. ``mild`` keeps volumes: its stretches
    multiply to 1, given ones too. ``none`` moves nothing that is not given, and mirrors nothing.
    """
    if deformation == "strong":
        rotation, stretch = rng.uniform(-15, 15, 3), np.log(rng.uniform(0.8, 1.2, 3))
        shear, shift = rng.uniform(-0.012, 0.012, 3), rng.uniform(-10, 10, 3)
    elif deformation == "mild":
        rotation, stretch = rng.normal(0, 3, 3), rng.normal(0, 0.015, 3)
        shear, shift = np.zeros(3), rng.normal(0, 2.5, 3)
    else:
        rotation, stretch, shear, shift = np.zeros((4, 3))
        flip = False

    def within(limit: float | None, drawn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return drawn if limit is None else rng.uniform(-limit, limit, 3)

    rotation, shear, shift = within(given.rotation, rotation), within(given.shear, shear), within(given.shift, shift)
    if given.stretch is not None:
        stretch = np.log1p(within(given.stretch, stretch))
    if deformation == "mild":
        stretch = stretch - stretch.mean()
    pose = {"rotation": rotation, "stretch": stretch, "shear": shear, "shift": shift}
    drawn: dict[str, Any] = {name: [round(float(v), 4) for v in value] for name, value in pose.items()}
    return {**drawn, "flip": bool(flip and rng.random() < 0.5)}


def pull_matrix(
    pose: dict[str, Any],
    size: float,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    anatomy_spacing: tuple[float, float, float],
    centre: tuple[float, float, float],
) -> npt.NDArray[np.float32]:
    """3×4, output voxel → anatomy voxel (pull-back).

    Args:
        size: of the head against the label map, along a line; cut to ``SIZE_LIMITS``.
        shape, spacing: of the output grid, voxels and mm.
        anatomy_spacing: mm; ``centre``: anatomy voxel about which the head turns.
    """
    linear = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(pose["rotation"])):
        a, b = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        linear = linear @ turn
    shear = np.eye(3)
    shear[0, 1], shear[0, 2], shear[1, 2] = pose["shear"]
    push = linear @ shear @ np.diag(np.exp(pose["stretch"]) * np.clip(size, *SIZE_LIMITS))
    if pose["flip"]:
        push = push @ np.diag([-1.0, 1.0, 1.0])
    to_mm = centred_affine(shape, spacing)
    matrix = (
        np.diag(1 / np.array(anatomy_spacing))
        @ np.linalg.inv(push)
        @ np.column_stack([to_mm[:3, :3], to_mm[:3, 3] - np.array(pose["shift"])])
    )
    matrix[:, 3] += centre
    return matrix.astype(np.float32)
