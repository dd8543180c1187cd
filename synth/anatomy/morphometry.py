"""From volumes asked for to a smooth displacement inside a fixed skull.

Every structure's wanted log volume change is a divergence; sulcal CSF takes the negative of the sum. A Poisson equation
solved by FFT gives a potential whose gradient is a stationary velocity field with that divergence; scaling and squaring
(Arsigny et al. 2006, MICCAI) makes it a diffeomorphism. A small response matrix per anatomy corrects for the blur of
the grid, so that thin structures get what was asked for as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.anatomy.source import Anatomy, load_anatomy
from synth.anatomy.warp import block_mean, integrate

GRID_MM = 3.0
MARGIN_MM = 18.0
SMOOTH_MM = 2.5
RIDGE = 0.02
LOG_LIMIT = 1.0  # a change of more than e^±1 is cut: past it the field would tear thin structures
CSF = "sulcal_csf"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Field:
    """The velocity grid of one anatomy: a box around the brain at about ``GRID_MM``.

    Attributes:
        low: first voxel of the box in the anatomy's index array; ``step`` voxels a cell along each axis.
        shape: cells along each axis.
        structures: those that can be asked for, ``CSF`` last.
        of_label: label position → structure position, or -1.
        response: ``[S, S]``, mean divergence in structure t for a unit source in structure s.
        millilitres: ``[S]`` volumes in the anatomy.
    """

    low: tuple[int, int, int]
    step: tuple[int, int, int]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    structures: tuple[str, ...]
    of_label: npt.NDArray[np.int16]
    response: npt.NDArray[np.float64]
    millilitres: npt.NDArray[np.float64]

    @property
    def cell_mm(self) -> tuple[float, float, float]:
        """Cell size in mm."""
        return tuple(n * s for n, s in zip(self.step, self.spacing, strict=True))  # type: ignore[return-value]


@lru_cache(maxsize=32)
def velocity_grid(path: Path, structures: tuple[str, ...]) -> Field:
    """The velocity grid of the anatomy at ``path`` for ``structures`` (those absent from it are left out)."""
    anatomy = load_anatomy(path)
    names = (*(s for s in structures if anatomy.volumes.get(s, 0) > 0 and s != CSF), CSF)
    step = [max(1, round(GRID_MM / s)) for s in anatomy.spacing]
    low, shape = [], []
    for axis, (n, s) in enumerate(zip(step, anatomy.spacing, strict=True)):
        first, last = anatomy.brain[axis]
        margin = int(np.ceil(MARGIN_MM / s))
        low.append(first - margin)
        shape.append(_fast(int(np.ceil((last + margin - low[-1]) / n))))
    of_label = np.array(
        [names.index(x.structure) if x.is_intracranial and x.structure in names else -1 for x in anatomy.labels],
        dtype=np.int16,
    )
    box = Field(
        (low[0], low[1], low[2]),
        (step[0], step[1], step[2]),
        (shape[0], shape[1], shape[2]),
        anatomy.spacing,
        names,
        of_label,
        np.eye(len(names)),
        np.array([max(anatomy.volumes.get(s, 0), 1.0) / 1000 for s in names]),
    )
    return Field(**{**box.__dict__, "response": _response(anatomy, box)})


def _fast(n: int) -> int:
    from scipy.fft import next_fast_len

    return int(next_fast_len(n, real=True))


def _response(anatomy: Anatomy, box: Field) -> npt.NDArray[np.float64]:
    """Overlap of every blurred source with every structure: what divergence a unit source leaves where."""
    count = len(box.structures)
    fractions = np.empty((count, int(np.prod(box.shape))), np.float32)
    blurred = np.empty_like(fractions)
    for position in range(count):
        of_label = (box.of_label == position).astype(np.float32)
        cells = block_mean(anatomy.index, of_label, box.low, box.step, box.shape)
        fractions[position] = cells.ravel()
        blurred[position] = _blur(cells, box).ravel()
    response: npt.NDArray[np.float64] = (fractions @ blurred.T).astype(np.float64)
    return response / np.maximum(fractions.sum(1, dtype=np.float64), 1e-6)[:, None]


def _frequencies(box: Field) -> tuple[Any, Any, Any]:
    """Angular frequencies (rad/mm) of a real FFT over the box, shaped to broadcast."""
    x, y, z = (2 * np.pi * np.fft.fftfreq(n, d) for n, d in zip(box.shape, box.cell_mm, strict=True))
    z = 2 * np.pi * np.fft.rfftfreq(box.shape[2], box.cell_mm[2])
    return x[:, None, None], y[None, :, None], z[None, None, :]


def _blur(cells: Floats, box: Field) -> Floats:
    from scipy import fft

    x, y, z = _frequencies(box)
    kernel = np.exp(-0.5 * SMOOTH_MM**2 * (x**2 + y**2 + z**2)).astype(np.float32)
    blurred: Floats = fft.irfftn(fft.rfftn(cells, workers=1) * kernel, s=cells.shape, workers=1)
    return blurred.astype(np.float32)


def sources(box: Field, wanted: dict[str, float]) -> npt.NDArray[np.float64]:
    """Source strength per structure that realises the wanted log changes (structures not named: 0).

    Sulcal CSF is asked to take up the volume that the others gain or lose; the total source is zero.
    """
    asked = np.array([np.clip(wanted.get(s, 0.0), -LOG_LIMIT, LOG_LIMIT) for s in box.structures])
    gained = float(((np.exp(asked) - 1) * box.millilitres)[:-1].sum())
    asked[-1] = np.log(max(1 - gained / box.millilitres[-1], 0.3))
    weight = box.millilitres**0.25  # large structures are met more exactly where the grid cannot serve all
    matrix = box.response * weight[:, None]
    normal = matrix.T @ matrix + RIDGE * np.eye(len(asked)) * np.mean(weight) ** 2
    strength: Any = np.linalg.solve(normal, matrix.T @ (asked * weight))
    strength[-1] -= (strength * box.millilitres).sum() / box.millilitres[-1]
    return strength


def velocity(anatomy: Anatomy, box: Field, strength: npt.NDArray[np.float64]) -> Floats:
    """``[3, cells…]`` velocity in mm whose divergence is the blurred sum of sources: gradient of a Poisson solution."""
    from scipy import fft

    of_label = np.where(box.of_label >= 0, np.append(strength, 0.0)[box.of_label], 0.0).astype(np.float32)
    cells = block_mean(anatomy.index, of_label, box.low, box.step, box.shape)
    x, y, z = _frequencies(box)
    square = x**2 + y**2 + z**2
    square[0, 0, 0] = 1.0
    potential = fft.rfftn(cells, workers=1) * (-np.exp(-0.5 * SMOOTH_MM**2 * square) / square).astype(np.float32)
    potential[0, 0, 0] = 0.0
    gradient = [fft.irfftn(1j * k.astype(np.float32) * potential, s=cells.shape, workers=1) for k in (x, y, z)]
    return np.stack(gradient).astype(np.float32)


def random_velocity(rng: np.random.Generator, box: Field, amplitude_mm: float, length_mm: float) -> Floats:
    """``[3, cells…]`` smooth Gaussian random velocity in mm: SD ``amplitude_mm``, correlation length ``length_mm``."""
    from scipy import fft

    x, y, z = _frequencies(box)
    kernel = np.exp(-0.25 * length_mm**2 * (x**2 + y**2 + z**2)).astype(np.float32)
    noise = rng.standard_normal((3, *box.shape), dtype=np.float32)
    field: Floats = fft.irfftn(
        fft.rfftn(noise, axes=(1, 2, 3), workers=1) * kernel, s=box.shape, axes=(1, 2, 3), workers=1
    )
    expected = np.sqrt(float((kernel**2).mean()))  # SD of filtered white noise, so that amplitude_mm is what it says
    return (field * (amplitude_mm / max(expected, 1e-9))).astype(np.float32)


def displacement(field_mm: Floats, box: Field, squarings: int = 4) -> Floats:
    """Pull-back displacement exp(-v) - id in voxels of the anatomy, ``[3, cells…]``: where to read, not where it went."""
    cells = field_mm / np.array(box.cell_mm, dtype=np.float32)[:, None, None, None]
    moved = integrate(-cells, squarings)
    return moved * np.array(box.step, dtype=np.float32)[:, None, None, None]
