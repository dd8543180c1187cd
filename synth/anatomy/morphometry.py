"""From volumes asked for to a smooth displacement inside a fixed skull.

Every structure's wanted log volume change is a divergence; sulcal CSF takes the negative of the sum. A Poisson equation
solved by FFT gives a potential whose gradient is a stationary velocity field with that divergence; scaling and squaring
(Arsigny et al. 2006, MICCAI) makes it a diffeomorphism. A small response matrix per anatomy corrects for the blur of
the grid, so that thin structures get what was asked for as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.anatomy.labels import Label
from synth.anatomy.source import Anatomy
from synth.anatomy.warp import block_mean, integrate, mean_jacobian

GRID_MM = 3.0
MARGIN_MM = 18.0
SMOOTH_MM = 2.5
RIDGE = 0.001
LOG_LIMIT = 1.6  # a change of more than e^±1.6 is cut: past it the field would tear thin structures
SQUARINGS = 4
CORRECTION_LIMIT = 0.4
CSF, SHELL = "sulcal_csf", "head outside"
SKULL_WEIGHT = 30.0  # how much dearer a litre of intracranial change is than a structure missed

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Field:
    """The velocity grid of one anatomy: a box around the brain at about ``GRID_MM``.

    Attributes:
        low: first voxel of the box in the anatomy's index array; ``step`` voxels a cell along each axis.
        shape: cells along each axis.
        structures: those that can be asked for, then ``CSF`` and ``SHELL`` (head outside the brain's space).
        of_label: label position → structure position, or -1.
        members: ``[cells…]`` int16, structure position at each cell's middle, or -1.
        response: ``[S, S]``, mean divergence in structure t for a unit source in structure s.
        millilitres: ``[S]`` volumes in the anatomy.
    """

    low: tuple[int, int, int]
    step: tuple[int, int, int]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    structures: tuple[str, ...]
    of_label: npt.NDArray[np.int16]
    members: npt.NDArray[np.int16]
    response: npt.NDArray[np.float64]
    millilitres: npt.NDArray[np.float64]

    @property
    def cell_mm(self) -> tuple[float, float, float]:
        """Cell size in mm."""
        return tuple(n * s for n, s in zip(self.step, self.spacing, strict=True))  # type: ignore[return-value]


@lru_cache(maxsize=32)
def velocity_grid(anatomy: Anatomy, structures: tuple[str, ...]) -> Field:
    """The velocity grid of an anatomy for ``structures`` (those absent from it are left out), then CSF and shell."""
    names = (*(s for s in structures if anatomy.volumes.get(s, 0) > 0 and s != CSF), CSF, SHELL)
    step = [max(1, round(GRID_MM / s)) for s in anatomy.spacing]
    low, shape = [], []
    for axis, (n, s) in enumerate(zip(step, anatomy.spacing, strict=True)):
        first, last = anatomy.brain[axis]
        margin = int(np.ceil(MARGIN_MM / s))
        low.append(first - margin)
        shape.append(_fast(int(np.ceil((last + margin - low[-1]) / n))))
    of_label = np.array(
        [_position(x, names) for x in anatomy.labels],
        dtype=np.int16,
    )
    box = Field(
        (low[0], low[1], low[2]),
        (step[0], step[1], step[2]),
        (shape[0], shape[1], shape[2]),
        anatomy.spacing,
        names,
        of_label,
        _members(anatomy, of_label, low, step, shape),
        np.eye(len(names)),
        _millilitres(anatomy, of_label, len(names)),
    )
    return Field(**{**box.__dict__, "response": _response(anatomy, box)})


def _position(label: Label, names: tuple[str, ...]) -> int:
    """Which source a label belongs to, or -1: brain that is not asked for, and background."""
    if not label.is_intracranial:
        return names.index(SHELL) if label.number else -1
    return names.index(label.structure) if label.structure in names else -1


def _members(
    anatomy: Anatomy, of_label: npt.NDArray[np.int16], low: list[int], step: list[int], shape: list[int]
) -> npt.NDArray[np.int16]:
    middles = [np.arange(n) * s + a + s // 2 for n, s, a in zip(shape, step, low, strict=True)]
    held = [(m >= 0) & (m < n) for m, n in zip(middles, anatomy.index.shape, strict=True)]
    clipped = [np.clip(m, 0, n - 1) for m, n in zip(middles, anatomy.index.shape, strict=True)]
    inside = held[0][:, None, None] & held[1][None, :, None] & held[2][None, None, :]
    return np.where(inside, of_label[anatomy.index[np.ix_(*clipped)]], -1).astype(np.int16)


def _millilitres(anatomy: Anatomy, of_label: npt.NDArray[np.int16], count: int) -> npt.NDArray[np.float64]:
    voxels = np.bincount(anatomy.index.ravel(), minlength=len(of_label))
    volumes = np.bincount(of_label[of_label >= 0], voxels[of_label >= 0], minlength=count)
    return np.maximum(volumes * float(np.prod(anatomy.spacing)), 1.0) / 1000


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


def asked_changes(box: Field, wanted: dict[str, float]) -> npt.NDArray[np.float64]:
    """Log volume change asked of every structure: what is wanted within ±``LOG_LIMIT`` (0 where nothing is), of sulcal
    CSF what the others gain or lose, of the head outside nothing."""
    asked = np.array([np.clip(wanted.get(s, 0.0), -LOG_LIMIT, LOG_LIMIT) for s in box.structures])
    gained = float(((np.exp(asked) - 1) * box.millilitres)[:-2].sum())
    asked[-2] = np.log(max(1 - gained / box.millilitres[-2], 0.3))
    return asked


def sources(box: Field, asked: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Source strength per structure that realises the log changes asked for, to first order.

    Least squares on the response matrix; what the blur lets leak into the skull is held back there, so that the space
    inside keeps its size. The sources sum to zero.
    """
    weight = box.millilitres**0.25  # large structures are met more exactly where the grid cannot serve all
    weight[-1] = 0.0  # the head outside takes what is left over
    inside = box.millilitres / box.millilitres[:-1].sum()
    inside[-1] = 0.0
    everything = box.millilitres / box.millilitres.sum()
    matrix = np.vstack(
        [box.response * weight[:, None], SKULL_WEIGHT * inside @ box.response, SKULL_WEIGHT * everything]
    )
    goal = np.concatenate([asked * weight, [SKULL_WEIGHT * float(inside @ asked), 0.0]])
    normal = matrix.T @ matrix + RIDGE * np.eye(len(asked)) * np.mean(weight) ** 2
    strength: Any = np.linalg.solve(normal, matrix.T @ goal)
    strength[-1] -= (strength * box.millilitres).sum() / box.millilitres[-1]
    return strength


def morphometry_velocity(anatomy: Anatomy, box: Field, wanted: dict[str, float], corrections: int = 1) -> Floats:
    """``[cells…, 3]`` velocity in mm that brings the structures to their wanted log volume changes.

    The first-order solution falls short of large changes (tissue flows out of where its source is); each correction
    measures what the flow realised, as the mean Jacobian per structure, and asks for the difference once more.
    """
    asked = asked_changes(box, wanted)
    aim = asked.copy()
    flow = velocity(anatomy, box, sources(box, aim))
    for _ in range(corrections):
        forward = integrate(_in_cells(flow, box), SQUARINGS)
        realised = np.log(np.maximum(mean_jacobian(forward, box.members, len(asked)), 0.05))
        missing = np.clip(asked - realised, -CORRECTION_LIMIT, CORRECTION_LIMIT)
        missing[-1] = 0.0
        aim = aim + missing
        flow = velocity(anatomy, box, sources(box, aim))
    return flow


def velocity(anatomy: Anatomy, box: Field, strength: npt.NDArray[np.float64]) -> Floats:
    """``[cells…, 3]`` velocity in mm whose divergence is the blurred sum of sources: gradient of a Poisson solution."""
    from scipy import fft

    of_label = np.where(box.of_label >= 0, np.append(strength, 0.0)[box.of_label], 0.0).astype(np.float32)
    cells = block_mean(anatomy.index, of_label, box.low, box.step, box.shape)
    x, y, z = _frequencies(box)
    square = x**2 + y**2 + z**2
    square[0, 0, 0] = 1.0
    potential = fft.rfftn(cells, workers=1) * (-np.exp(-0.5 * SMOOTH_MM**2 * square) / square).astype(np.float32)
    potential[0, 0, 0] = 0.0
    gradient = [fft.irfftn(1j * k.astype(np.float32) * potential, s=cells.shape, workers=1) for k in (x, y, z)]
    return np.stack(gradient, axis=-1).astype(np.float32)


def random_velocity(rng: np.random.Generator, box: Field, amplitude_mm: float, length_mm: float) -> Floats:
    """``[cells…, 3]`` smooth Gaussian random velocity in mm: SD ``amplitude_mm``, correlation length ``length_mm``."""
    from scipy import fft

    x, y, z = _frequencies(box)
    kernel = np.exp(-0.25 * length_mm**2 * (x**2 + y**2 + z**2)).astype(np.float32)
    noise = rng.standard_normal((3, *box.shape), dtype=np.float32)
    field: Floats = fft.irfftn(
        fft.rfftn(noise, axes=(1, 2, 3), workers=1) * kernel, s=box.shape, axes=(1, 2, 3), workers=1
    )
    twice = np.full(kernel.shape[2], 2.0)  # a real FFT keeps one of each conjugate pair
    twice[0] = 1.0
    if box.shape[2] % 2 == 0:
        twice[-1] = 1.0
    expected = np.sqrt(
        float((kernel**2 * twice).sum() / np.prod(box.shape))
    )  # SD of filtered white noise, so that amplitude_mm is what it says
    return np.moveaxis(field * np.float32(amplitude_mm / max(expected, 1e-9)), 0, -1)


def _in_cells(field_mm: Floats, box: Field) -> Floats:
    return np.divide(field_mm, np.array(box.cell_mm, dtype=np.float32), dtype=np.float32)


def displacement(field_mm: Floats, box: Field) -> Floats:
    """Pull-back displacement exp(-v) - id in voxels of the anatomy, ``[cells…, 3]``: where to read, not where it went."""
    moved = integrate(-_in_cells(field_mm, box), SQUARINGS)
    return moved * np.array(box.step, dtype=np.float32)
