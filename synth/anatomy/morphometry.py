"""From volumes asked for to a smooth displacement inside a fixed skull.

Every structure's wanted log volume change is a divergence; sulcal CSF takes the negative of the sum. A Poisson equation
solved by FFT gives a potential whose gradient is a stationary velocity field with that divergence; scaling and squaring
(Arsigny et al. 2006, MICCAI) makes it a diffeomorphism. What the flow, with the individual's random warp in it, does to
each structure is counted through the grid that the image is read with, and what is missing is asked for again until
little is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.anatomy.labels import Label
from synth.anatomy.source import Anatomy
from synth.anatomy.warp import (
    block_mean,
    compose,
    gradient_of,
    integrate,
    jacobians,
    spline_field,
    spread,
    survey,
    voxels_of,
)

GRID_MM = 3.0
COARSE_GRID_MM = 6.0  # where the person need not be exact
MARGIN_MM = 18.0
SMOOTH_MM = 2.0  # SD of the blur of the sources, at least 0.7 cells
RIDGE = 0.001
LOG_LIMIT = 3.0  # a change of more than e^±3 is cut: past it the field would tear thin structures
TINY_ML = 4.0  # structures that may be twice as far off
FIRST_STEP = 1.2
SMALL_ML = 15.0  # structures whose every voxel is counted while volumes are brought about
SMALL_MARGIN_MM = 5.0
CLOSE_ENOUGH = 0.02  # log units
FINE_MM = 1.5  # voxel size up to which that holds; larger ones may be off in proportion
LEAST_JACOBIAN = 0.0004  # of the pull-back, where it is interpolated: above 0 nothing folds
ROOMY_JACOBIAN = 0.2
MOST_RAISED = 4.0
SCALES = (1.0, 0.4, 0.15)  # of a step that is tried
CORRECTION_LIMIT = 0.8
STALE = 0.5  # a structure this far (log volume) from where responses were computed: they are computed again
CSF, SHELL = "sulcal_csf", "head outside"
SKULL_WEIGHT = 30.0  # how much dearer a litre of intracranial change is than a structure missed

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Field:
    """The velocity grid of one anatomy: a box around the brain.

    Attributes:
        anatomy: whose it is.
        low: first voxel of the box in the anatomy's index array; ``step`` voxels a cell along each axis.
        shape: cells along each axis.
        structures: those that can be asked for, then ``CSF`` and ``SHELL`` (head outside the brain's space).
        of_label: label position → structure position, or -1.
    """

    anatomy: Anatomy
    low: tuple[int, int, int]
    step: tuple[int, int, int]
    shape: tuple[int, int, int]
    structures: tuple[str, ...]
    of_label: npt.NDArray[np.int16]

    @property
    def cell_mm(self) -> tuple[float, float, float]:
        """Cell size in mm."""
        return tuple(n * s for n, s in zip(self.step, self.anatomy.spacing, strict=True))  # type: ignore[return-value]

    @cached_property
    def shares(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int16], Floats]:
        """Cell (flat), structure and the structure's share of the cell, wherever it has one."""
        cells, which, share = [], [], []
        for position in range(len(self.structures)):
            of_label = (self.of_label == position).astype(np.float32)
            fraction = block_mean(self.anatomy.index, of_label, self.low, self.step, self.shape).ravel()
            (held,) = np.nonzero(fraction)
            cells.append(held.astype(np.int32))
            which.append(np.full(len(held), position, np.int16))
            share.append(fraction[held])
        return np.concatenate(cells), np.concatenate(which), np.concatenate(share)

    @cached_property
    def millilitres(self) -> Doubles:
        """``[S]`` volumes in the anatomy."""
        voxels = np.bincount(self.anatomy.index.ravel(), minlength=len(self.of_label))
        held = self.of_label >= 0
        volumes = np.bincount(self.of_label[held], voxels[held], minlength=len(self.structures))
        return np.maximum(volumes * float(np.prod(self.anatomy.spacing)), 1.0) / 1000

    @cached_property
    def small_structures(self) -> tuple[tuple[float, float], ...]:
        """First and last anatomy voxel, by axis, of a box around the structures below ``SMALL_ML``, with a margin."""
        small = np.isin(self.of_label, np.flatnonzero(self.millilitres[:-2] < SMALL_ML))[self.anatomy.index]
        if not small.any():
            return ((0.0, 0.0),) * 3
        lines = [np.flatnonzero(small.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        margins = [SMALL_MARGIN_MM / s for s in self.anatomy.spacing]
        return tuple((line[0] - m, line[-1] + m) for line, m in zip(lines, margins, strict=True))

    @cached_property
    def response(self) -> Doubles:
        """``[S, S]`` mean divergence left in structure t by a unit source in structure s: overlap after the blur."""
        cells, which, share = self.shares
        count, size = len(self.structures), int(np.prod(self.shape))
        fraction = np.zeros((count, size), np.float32)
        fraction[which, cells] = share
        response = np.empty((count, count))
        for s in range(count):
            blurred = _filtered(fraction[s].reshape(self.shape), self, _blur_kernel(self)).ravel()
            response[:, s] = fraction @ blurred
        return response / np.maximum(fraction.sum(1, dtype=np.float64), 1e-6)[:, None]


@lru_cache(maxsize=64)
def velocity_grid(anatomy: Anatomy, structures: tuple[str, ...], grid_mm: float = GRID_MM) -> Field:
    """The velocity grid of an anatomy for ``structures`` (those absent from it are left out), then CSF and shell."""
    names = (*(s for s in structures if anatomy.volumes.get(s, 0) > 0 and s != CSF), CSF, SHELL)
    step = [max(1, round(grid_mm / s)) for s in anatomy.spacing]
    low, shape = [], []
    for axis, (n, s) in enumerate(zip(step, anatomy.spacing, strict=True)):
        first, last = anatomy.brain[axis]
        margin = int(np.ceil(MARGIN_MM / s))
        low.append(first - margin)
        shape.append(_fast(int(np.ceil((last + margin - low[-1]) / n))))
    of_label = np.array([_position(label, names) for label in anatomy.labels], dtype=np.int16)
    return Field(anatomy, tuple(low), tuple(step), tuple(shape), names, of_label)  # type: ignore[arg-type]


def _position(label: Label, names: tuple[str, ...]) -> int:
    """Which source a label belongs to, or -1: brain that is not asked for, and background."""
    if not label.is_intracranial:
        return names.index(SHELL) if label.number else -1
    return names.index(label.structure) if label.structure in names else -1


def _fast(n: int) -> int:
    from scipy.fft import next_fast_len

    return int(next_fast_len(n, real=True))


def _square_frequencies(box: Field) -> Doubles:
    """Squared angular frequencies (rad²/mm²) of a real FFT over the box."""
    x, y = (2 * np.pi * np.fft.fftfreq(n, d) for n, d in zip(box.shape[:2], box.cell_mm[:2], strict=True))
    z = 2 * np.pi * np.fft.rfftfreq(box.shape[2], box.cell_mm[2])
    square: Doubles = x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2
    return square


@lru_cache(maxsize=64)
def _blur_kernel(box: Field) -> Floats:
    smooth = max(SMOOTH_MM, 0.7 * max(box.cell_mm))
    return np.exp(-0.5 * smooth**2 * _square_frequencies(box)).astype(np.float32)


@lru_cache(maxsize=64)
def _poisson_kernel(box: Field) -> Floats:
    """Source → potential whose gradient has it as its divergence, for central differences."""
    terms = [
        (np.sin(2 * np.pi * np.fft.fftfreq(n)) / d) ** 2 for n, d in zip(box.shape[:2], box.cell_mm[:2], strict=True)
    ]
    z = (np.sin(2 * np.pi * np.fft.rfftfreq(box.shape[2])) / box.cell_mm[2]) ** 2
    square = terms[0][:, None, None] + terms[1][None, :, None] + z[None, None, :]
    exact = _square_frequencies(box)
    square = np.maximum(square, 0.3 * exact)  # central differences do not see the highest frequencies
    square[0, 0, 0] = 1.0
    kernel = -1 / square
    kernel[0, 0, 0] = 0.0
    return kernel.astype(np.float32)


@lru_cache(maxsize=64)
def _potential_kernel(box: Field) -> Floats:
    """Both in one: source → potential of the blurred source."""
    return _poisson_kernel(box) * _blur_kernel(box)


def _filtered(cells: Floats, box: Field, kernel: Floats) -> Floats:
    from scipy import fft

    spectrum = fft.rfftn(cells, workers=1)
    spectrum *= kernel
    filtered: Floats = fft.irfftn(spectrum, s=box.shape, workers=1, overwrite_x=True)
    return filtered.astype(np.float32, copy=False)


def asked_changes(box: Field, wanted: dict[str, float]) -> Doubles:
    """Log volume change asked of every structure: what is wanted within ±``LOG_LIMIT`` (0 where nothing is), of sulcal
    CSF what the others gain or lose, of the head outside nothing."""
    asked = np.array([np.clip(wanted.get(s, 0.0), -LOG_LIMIT, LOG_LIMIT) for s in box.structures])
    gained = float(((np.exp(asked) - 1) * box.millilitres)[:-2].sum())
    asked[-2] = np.log(max(1 - gained / box.millilitres[-2], 0.2))
    return asked


def sources(box: Field, asked: Doubles, response: Doubles | None = None) -> Doubles:
    """Source strength per structure that realises the log changes asked for, to first order.

    Least squares on the ``response`` matrix (the anatomy's own unless given); what the blur lets leak into the skull is held back there, so that the space
    inside keeps its size. The sources sum to zero.
    """
    weight = box.millilitres**0.25  # large structures are met more exactly where the grid cannot serve all
    weight[-1] = 0.0  # the head outside takes what is left over
    inside = box.millilitres / box.millilitres[:-1].sum()
    inside[-1] = 0.0
    everything = box.millilitres / box.millilitres.sum()
    response = box.response if response is None else response
    matrix = np.vstack([response * weight[:, None], SKULL_WEIGHT * inside @ response, SKULL_WEIGHT * everything])
    goal = np.concatenate([asked * weight, [SKULL_WEIGHT * float(inside @ asked), 0.0]])
    normal = matrix.T @ matrix + RIDGE * np.eye(len(asked)) * np.mean(weight) ** 2
    strength: Any = np.linalg.solve(normal, matrix.T @ goal)
    strength[-1] -= (strength * box.millilitres).sum() / box.millilitres[-1]
    return strength


def source_cells(box: Field, strength: Doubles) -> Floats:
    """``[cells…]`` sum of the sources, each spread over its structure in the anatomy as it is."""
    cells, which, share = box.shares
    size = int(np.prod(box.shape))
    return np.bincount(cells, strength[which] * share, minlength=size).astype(np.float32).reshape(box.shape)


def velocity(box: Field, source: Floats, still: Floats | None = None) -> Floats:
    """``[cells…, 3]`` velocity in mm whose divergence is the blurred ``source [cells…]``: gradient of a Poisson solution.

    Where given, ``still`` is the share of its growth that a cell may take, after the blur.
    """
    if still is None:
        return gradient_of(_filtered(source, box, _potential_kernel(box)), box.cell_mm)
    blurred = _filtered(source, box, _blur_kernel(box))
    blurred *= np.where(blurred > 0, still, np.float32(1))
    return gradient_of(_filtered(blurred, box, _poisson_kernel(box)), box.cell_mm)


@dataclass(frozen=True, eq=False)
class Reader:
    """A grid that reads an anatomy through nodes, as the image will, and holds the whole brain.

    Attributes:
        fill: pull-back displacement ``[cells…, 3]`` in anatomy voxels → nodes ``[A, B, C, ≥3]``, anatomy voxels.
        matrix: 3×4, voxel of the grid → anatomy voxel, without displacement.
        shape: voxels of the grid; ``step``: voxels between nodes; ``voxel_mm``: of the image; ``stride``: voxels between samples.
    """

    fill: Callable[[Floats], Floats]
    matrix: Doubles
    shape: tuple[int, int, int]
    step: int
    stride: int
    voxel_mm: float

    def _inner(self, box: Field) -> npt.NDArray[np.int64]:
        """``[3, 2]`` the voxels that hold the small structures, where every voxel counts."""
        corners = np.array(list(itertools.product(*box.small_structures)), float)
        places = (corners - self.matrix[:, 3]) @ np.linalg.inv(self.matrix[:, :3]).T
        low, high = np.floor(places.min(0)), np.ceil(places.max(0)) + 1
        return np.clip(np.stack([low, high], 1), 0, np.array(self.shape)[:, None]).astype(np.int64)

    def survey(self, box: Field, moved: Floats) -> Samples:
        """Which structure lies where, once moved."""
        frame = self.matrix / np.array(box.step)[:, None]
        frame[:, 3] += (0.5 - np.array(box.low)) / np.array(box.step) - 0.5
        inner = self._inner(box)
        most = int(np.prod(inner[:, 1] - inner[:, 0])) + int(np.prod([n // self.stride + 1 for n in self.shape]))
        where, which, weights = np.empty(most, np.int32), np.empty(most, np.int16), np.empty(most, np.float32)
        seen = np.zeros(box.shape, np.float32)
        count = survey(
            box.anatomy.index,
            box.of_label,
            self.fill(moved),
            self.step,
            frame.astype(np.float32),
            self.stride,
            self.shape,
            inner,
            (where, which, weights, seen),
        )
        voxel_ml = abs(float(np.linalg.det(self.matrix[:, :3]))) * float(np.prod(box.anatomy.spacing)) / 1000
        return Samples(where[:count], which[:count], weights[:count], seen, voxel_ml)


@dataclass(frozen=True, eq=False)
class Samples:
    """What a survey saw: cell, structure and voxels stood for of every sample ``[N]``, and voxels looked at by cell."""

    where: npt.NDArray[np.int32]
    which: npt.NDArray[np.int16]
    weights: Floats
    seen: Floats
    voxel_ml: float

    def room(self, box: Field, jacobian: Floats) -> tuple[Doubles, Floats, Doubles]:
        """``[S]`` log volume against the anatomy's; the share of a growing structure's source that each cell may take,
        less where it has grown most; by how much to raise the rest."""
        still = np.clip((jacobian - LEAST_JACOBIAN) / (ROOMY_JACOBIAN - LEAST_JACOBIAN), 0, 1).astype(np.float32)
        voxels = voxels_of(self.where, self.which, self.weights, still, len(box.structures))
        raised = np.minimum(voxels[:, 0] / np.maximum(voxels[:, 1], 1e-6), MOST_RAISED)
        return np.log(np.maximum(voxels[:, 0], 0.5) * self.voxel_ml / box.millilitres), still, raised

    def responses(self, box: Field, columns: npt.NDArray[np.intp], response: Doubles) -> Doubles:
        """``response`` with these structures' columns computed where everything now lies."""
        count, fresh = len(box.structures), response.copy()
        anywhere, nobody = np.ones(box.shape, np.float32), np.zeros(count, np.bool_)
        for column in columns:
            unit = (np.arange(count) == column).astype(np.float64)
            blurred = _filtered(self.source(unit, anywhere, nobody), box, _blur_kernel(box))
            voxels = voxels_of(self.where, self.which, self.weights, blurred, count)
            fresh[:, column] = voxels[:, 1] / np.maximum(voxels[:, 0], 1e-6)
        return fresh

    def source(self, strength: Doubles, still: Floats, growing: npt.NDArray[np.bool_]) -> Floats:
        """``[cells…]`` sum of the sources where the structures now lie."""
        spread_out: Floats = spread(
            self.where, self.which, self.weights, self.seen, strength.astype(np.float32), still, growing
        )
        return spread_out


def person_displacement(
    box: Field, wanted: dict[str, float], own: Floats | None, reader: Reader | None = None, corrections: int = 0
) -> Floats:
    """``[cells…, 3]`` pull-back displacement, in voxels of the anatomy, that brings structures to their wanted volumes.

    The first flow holds the individual's ``own`` warp (velocity, mm). It falls short of large changes, since tissue
    flows out of where its source is. Each correction looks through the ``reader`` at what came out, and adds a flow
    whose sources are the structures where they now lie, for what is still missing; at most ``corrections`` times.
    The best of them all is kept. A flow that would squeeze or stretch any place too far is taken in smaller steps, or
    not at all.
    """
    asked = asked_changes(box, wanted)
    first = np.clip(asked, -FIRST_STEP, FIRST_STEP) if corrections else asked
    flow = velocity(box, source_cells(box, sources(box, first)))
    moved = integrate(_in_cells(-flow if own is None else -(flow + own), box))
    cell = np.array(box.step, dtype=np.float32)
    if reader is None:
        return moved * cell
    jacobian = jacobians(moved)
    close = CLOSE_ENOUGH * max(1.0, reader.voxel_mm / FINE_MM)  # coarse voxels cannot tell
    tolerance = np.where(box.millilitres < TINY_ML, 2 * close, close)
    best, before, damping = (np.inf, moved), np.zeros(len(asked)), np.ones(len(asked))
    full = np.zeros(len(asked), bool)
    response, known = box.response, np.zeros(len(asked))
    for turn in range(corrections + 1):
        samples = reader.survey(box, moved * cell)
        now, still, raised = samples.room(box, jacobian)
        missing = asked - now
        missing[-1] = 0.0
        far = (np.abs(missing) / tolerance)[:-2]
        best = min(best, (float(np.sqrt((far**2).mean())), moved), key=lambda pair: pair[0])
        if far.max(initial=0) < 1 or turn == corrections:
            break
        missing[full] = 0.0
        if np.abs(now - known)[:-2].max(initial=0) > STALE:
            changed = (np.abs(now - known) > STALE) | (box.millilitres < SMALL_ML)
            response, known = samples.responses(box, np.flatnonzero(changed[:-1]), response), now
        over = missing * before < 0  # a structure that went past its aim takes smaller steps
        damping = np.where(over, 0.5 * damping, np.minimum(1.25 * damping, 1.0))
        before = missing
        for scale in SCALES:
            strength = sources(box, scale * np.clip(damping * missing, -CORRECTION_LIMIT, CORRECTION_LIMIT), response)
            growing = strength > 0
            strength = strength * np.where(growing, raised, 1.0)
            flow = velocity(box, samples.source(strength, still, growing), still)
            further = compose(integrate(_in_cells(-flow, box)), moved)
            if (trial := jacobians(further)).min() > LEAST_JACOBIAN:
                moved, jacobian = further, trial
                full[:] = False
                break
        else:
            full |= missing > 0  # no more room for these; the others go on
    return best[1] * cell


def random_velocity(rng: np.random.Generator, box: Field, amplitude_mm: float, length_mm: float) -> Floats:
    """``[cells…, 3]`` smooth random velocity in mm: SD ``amplitude_mm``, correlation exp(-r²/2·length_mm²), nearly.

    Normal knots 1.22 · ``length_mm`` apart under a cubic B-spline, whose autocorrelation is near that Gaussian.
    """
    knots = [max(2, round(n * d / (1.22 * length_mm)) + 1) for n, d in zip(box.shape, box.cell_mm, strict=True)]
    return spline_field(rng, box.shape, knots, 3) * np.float32(amplitude_mm)


def _in_cells(field_mm: Floats, box: Field) -> Floats:
    return np.divide(field_mm, np.array(box.cell_mm, dtype=np.float32), dtype=np.float32)
