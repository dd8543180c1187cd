"""How a head lies in the scanner: rotation, stretch, shear, shift, mirror; and the affine map that follows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from synth.sample import centred_affine

SIZE_LIMITS = (0.8, 1.25)  # of a head against the label map it comes from, along a line


def draw_pose(rng: np.random.Generator, deformation: str, flip: bool) -> dict[str, Any]:
    """Rotation (degrees), stretch and shear (log-scale and share), shift (mm), mirror.

    ``strong`` is SynthSeg's: rotation ±15°, scale 0.8 to 1.2, shear ±0.012. ``mild`` keeps volumes: its stretches
    multiply to 1.
    """
    if deformation == "none":
        return {"rotation": [0.0] * 3, "stretch": [0.0] * 3, "shear": [0.0] * 3, "shift": [0.0] * 3, "flip": False}
    if deformation == "strong":
        rotation, stretch = rng.uniform(-15, 15, 3), np.log(rng.uniform(0.8, 1.2, 3))
        shear, shift = rng.uniform(-0.012, 0.012, 3), rng.uniform(-10, 10, 3)
    else:
        rotation, stretch = rng.normal(0, 3, 3), rng.normal(0, 0.015, 3)
        stretch, shear, shift = stretch - stretch.mean(), np.zeros(3), rng.normal(0, 2.5, 3)
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
