"""From tissue to voxels: the grid of nodes a volume is rendered through, then what scanner and scan do to the image.

Order, as in a real acquisition: tissue with texture and bias field (the kernel), point spread, acquired voxels and thick
slices, k-space artefacts, noise, interpolation back to the output grid, scaling, gamma, quantisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.anatomy.morphometry import Reader
from synth.anatomy.source import Anatomy
from synth.anatomy.warp import spline_field
from synth.keys import rng_for

Floats = npt.NDArray[np.float32]
BIAS_KNOTS_MM = 70.0  # distance of the bias field's knots: smooth enough for N4 to undo most of it, as in real scans
RANDOM_BIAS_KNOTS_MM = 45.0  # of the random contrast: four across a head, as in SynthSeg
NODE_MM = 3.0  # distance of the nodes between which the kernel interpolates warp, bias field and coarse texture
SAMPLE_MM = 2.0  # between the samples on which volumes are measured while they are brought about
COARSEST_SAMPLE_MM = 4.0
BRAIN_MARGIN_MM = 6.0
POINT_SPREAD = 0.45  # least SD of the point spread in voxels, where a voxel is sampled at its middle alone
SLICE_PROFILE = 1 / 2.355  # SD of a Gaussian whose full width at half maximum is 1
QUANTILE = 0.995
CURVE_END, CURVE_STEPS = 1.5, 1024
SCALING_VOXELS = 40_000  # voxels from which the scale is estimated


@dataclass(frozen=True, eq=False)
class Nodes:
    """Where every ``step``-th output voxel reads the anatomy, and the smooth fields there.

    ``values``: ``[A, B, C, 5]`` float32; source x, y, z in anatomy voxels, gain of the bias field, coarse texture.
    """

    values: Floats
    step: int

    def smallest_jacobian(self) -> float:
        """Least determinant of the edges at any node's corner, against the mean one: above 0 nothing folds."""
        at = self.values[..., :3].astype(np.float64)
        corner = at[:-1, :-1, :-1]
        edges = (at[1:, :-1, :-1] - corner, at[:-1, 1:, :-1] - corner, at[:-1, :-1, 1:] - corner)
        determinants = np.linalg.det(np.stack(edges, axis=-1))
        return float((determinants / determinants.mean()).min())  # a mirrored head has negative ones throughout


@dataclass(frozen=True, eq=False)
class NodeGrid:
    """The nodes of an output grid: how many, how far apart, and where they read the anatomy.

    Attributes:
        shape, spacing: of the output grid, voxels and mm.
        matrix: 3×4 float32, output voxel → anatomy voxel.
        low, cell: of the displacement's grid: anatomy voxel at the middle of its first cell, voxels a cell; float32.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    matrix: Floats
    low: Floats
    cell: Floats
    every: int | None = None

    @property
    def step(self) -> int:
        """Output voxels between nodes."""
        return self.every or int(np.clip(round(NODE_MM / max(self.spacing)), 1, 4))

    @property
    def counts(self) -> tuple[int, ...]:
        """Nodes along each axis."""
        return tuple((n - 1) // self.step + 2 for n in self.shape)

    def reader(self, anatomy: Anatomy) -> Reader:
        """This grid carried on around the whole brain, whatever the field of view: voxels and nodes lie where this one's
        do, for a thin structure's volume changes with them. Samples are 2 mm apart or, where voxels are coarser, in
        every voxel of up to 4 mm."""
        finer = int(np.ceil(max(self.spacing) / COARSEST_SAMPLE_MM))
        stride = max(1, int(SAMPLE_MM / max(self.spacing)))
        matrix = self.matrix.astype(np.float64)
        matrix[:, :3] /= finer
        middle = np.array(anatomy.centre)
        reach = [
            (high - low) / 2 + BRAIN_MARGIN_MM / s
            for (low, high), s in zip(anatomy.brain, anatomy.spacing, strict=True)
        ]
        corners = np.array([(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) * reach
        step = self.step * finer
        places = (middle + corners - matrix[:, 3]) @ np.linalg.inv(
            matrix[:, :3]
        ).T  # this grid's voxels, or parts of them
        first = np.floor(places.min(0) / step) * step
        matrix[:, 3] += matrix[:, :3] @ first
        a, b, c = (int(n) + 1 for n in np.ceil(places.max(0) - first))
        shape = (a, b, c)
        own = replace(self, shape=shape, matrix=matrix.astype(np.float32), every=step)
        return Reader(own.positions, matrix, shape, step, stride, max(self.spacing))

    def positions(self, moved: Floats) -> Floats:
        """``[A, B, C, 5]``, its first three channels filled: the anatomy voxel that each node reads.

        ``moved``: ``[X, Y, Z, 3]`` pull-back displacement in anatomy voxels.
        """
        from synth.appearance.kernel import CHANNELS, fill_nodes

        values = np.empty((*self.counts, CHANNELS), np.float32)
        fill_nodes(self.matrix, moved, self.low, self.cell, self.step, values)
        return values

    def nodes(self, moved: Floats, bias: float, rng: np.random.Generator, knots_mm: float = BIAS_KNOTS_MM) -> Nodes:
        """The nodes of one volume; ``bias``: SD of the log bias field, ``knots_mm``: distance of its knots."""
        values = self.positions(moved)
        extent = [n * self.step * s for n, s in zip(self.counts, self.spacing, strict=True)]
        values[..., 3] = bias_field(self.counts, extent, bias, rng, knots_mm)
        values[..., 4] = rng.standard_normal(self.counts, dtype=np.float32)
        return Nodes(values, self.step)


def bias_field(
    counts: tuple[int, ...],
    extent_mm: list[float],
    log_sd: float,
    rng: np.random.Generator,
    knots_mm: float = BIAS_KNOTS_MM,
) -> Floats:
    """Smooth multiplicative field ``[*counts]``: exp of normal knots, cubic B-spline between them, median near 1."""
    knots = [max(2, round(mm / knots_mm) + 1) for mm in extent_mm]
    return np.exp(spline_field(rng, counts, knots)[..., 0] * np.float32(log_sd))


def sampling_points(matrix: Floats, spacing: tuple[float, float, float]) -> Floats:
    """``[P, 3]`` anatomy-voxel offsets that one output voxel's intensity is averaged over: 1 to 1.25 mm, 4, from 2.5 mm 8."""
    coarse = max(spacing)
    corners = np.array([(a, b, c) for a in (1, -1) for b in (1, -1) for c in (1, -1)], np.float32)
    if coarse <= 1.25:
        return np.zeros((1, 3), np.float32)
    if coarse < 2.5:
        corners = corners[corners.prod(1) > 0]  # a tetrahedron
    return np.ascontiguousarray(0.25 * corners @ matrix[:, :3].T, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Acquisition:
    """Every decision between tissue and voxels, drawn: what :func:`acquire`, or its GPU twin, carries out.

    Attributes:
        blur: per axis, half of a symmetric point-spread filter, middle first.
        voxels: per axis, distance of the acquired samples and SD of their profile, mm; SD 0 where nothing changes.
        shape: of the acquired image.
        motion: axis and factors of the k-space lines; ``kept``: share of k-space; ``waves``: spikes; each or None.
        gaussian, rician: SD of the noise; ``seed``: of it.
    """

    blur: tuple[Floats, ...]
    voxels: tuple[tuple[float, float], ...]
    shape: tuple[int, ...]
    motion: tuple[int, Any] | None
    kept: float | None
    waves: list[list[Any]] | None
    gaussian: float
    rician: float
    seed: int


def plan_acquisition(
    shape: tuple[int, ...], scanner: Mapping[str, Any], spacing: tuple[float, float, float], level: float, seed: int
) -> Acquisition:
    """Decide on point spread, voxels, artefacts and noise of one scan.

    Args:
        shape: of the output grid; ``spacing``: mm.
        scanner: strengths as drawn (``None``: does not apply); see ``synth.appearance.priors.EFFECTS``.
        level: intensity that shares (noise, spikes) refer to.
        seed: of artefacts and noise.
    """
    from synth.appearance import kspace

    rng = rng_for(seed, 0, "acquisition")
    voxels = _acquired_voxels(scanner, spacing, rng)
    least = POINT_SPREAD if max(spacing) <= 1.25 else 0.0  # coarser voxels are averages of several points already
    wide = [
        max((scanner["blur"] or 0.0) / s, least) if v[1] == 0 else 0.0 for s, v in zip(spacing, voxels, strict=True)
    ]
    acquired = tuple(
        _acquired_count(n, s, distance) if sigma else n
        for n, s, (distance, sigma) in zip(shape, spacing, voxels, strict=True)
    )
    motion, waves = None, None
    if scanner["motion"] is not None:
        motion = kspace.motion_filter(acquired, scanner["motion"], voxels, rng)
    if scanner["spikes"] is not None:
        waves = kspace.spike_waves(acquired, scanner["spikes"] * level, rng)
    gaussian, rician = ((scanner[name] or 0.0) * level for name in ("noise", "rician"))
    noise_seed = int(rng.integers(2**63))
    blur = tuple(_taps(sigma) for sigma in wide)
    return Acquisition(blur, voxels, acquired, motion, scanner["gibbs"], waves, gaussian, rician, noise_seed)


def acquire(image: Floats, plan: Acquisition, spacing: tuple[float, float, float]) -> Floats:
    """What the scanner makes of ``image [D, H, W]`` (which is overwritten), on the same grid."""
    from synth.appearance import kernel, kspace

    _spread(image, plan.blur)
    acquired = image
    for axis, samples in downsampling(image.shape, plan, spacing):
        acquired = _resample(acquired, axis, *samples)
    if plan.motion is not None:
        acquired = kspace.move_head(acquired, *plan.motion)
    if plan.kept is not None:
        acquired = kspace.ring(acquired, plan.kept)
    if plan.waves is not None:
        acquired = kspace.add_spikes(acquired, plan.waves)
    noise = np.float32(plan.gaussian), np.float32(plan.rician)
    kernel.add_noise(acquired, *noise, np.uint64(plan.seed), kernel.normal_table())
    for axis, samples in upsampling(image.shape, plan, spacing):
        acquired = _resample(acquired, axis, *samples)
    return acquired


def _acquired_voxels(
    scanner: Mapping[str, Any], spacing: tuple[float, float, float], rng: np.random.Generator
) -> tuple[tuple[float, float], ...]:
    """Per axis: distance of the acquired samples and SD of their profile, mm; (spacing, 0) where nothing changes."""
    share, thickness, slice_axis = rng.random(3), rng.uniform(0.7, 1.0, 3), int(rng.integers(3))
    voxels = []
    for axis, s in enumerate(spacing):
        distance = s
        if scanner["slices"] is not None:
            distance = max(s, scanner["slices"]) if axis == slice_axis else s
        elif scanner["resolution"] is not None:
            distance = max(s, s + (scanner["resolution"] - s) * (0.5 + 0.5 * share[axis]))
        coarser = distance > 1.05 * s
        voxels.append((distance, SLICE_PROFILE * distance * thickness[axis]) if coarser else (s, 0.0))
    return tuple(voxels)


def _spread(image: Floats, taps: tuple[Floats, ...]) -> None:
    """Point spread, in place; an axis that is sampled more coarsely gets its profile there instead."""
    from synth.appearance import kernel

    if len(taps[1]) > 1 or len(taps[2]) > 1:
        kernel.blur_planes(image, taps[1], taps[2])
    if len(taps[0]) > 1:
        kernel.blur_depth(image, taps[0])


def _taps(sigma: float) -> Floats:
    """Half of a symmetric Gaussian filter, its middle first, to 2.5 SD; [1] where it would do nothing."""
    if sigma < 0.2:
        return np.ones(1, np.float32)
    half = np.exp(-0.5 * (np.arange(int(np.ceil(2.5 * sigma)) + 1) / sigma) ** 2)
    return (half / (half[0] + 2 * half[1:].sum())).astype(np.float32)


def _weights(centres: npt.NDArray[np.float64], count: int, weight: Any, reach: float) -> Samples:
    """First input sample and weights of every output sample; outside the grid the last sample repeats."""
    width = int(2 * np.ceil(reach) + 1)
    first = np.floor(centres - reach).astype(np.int64)
    taps = first[:, None] + np.arange(width)[None]
    value = weight(taps - centres[:, None])
    value /= value.sum(1, keepdims=True)
    width = min(width, count)
    start = np.clip(first, 0, count - width)
    out = np.zeros((len(centres), width))
    rows = np.broadcast_to(np.arange(len(centres))[:, None], taps.shape)
    np.add.at(out, (rows, np.clip(np.clip(taps, 0, count - 1) - start[:, None], 0, width - 1)), value)
    return start, out.astype(np.float32)


def _centres(count: int, step: float, onto: int) -> npt.NDArray[np.float64]:
    """Positions of ``count`` samples ``step`` apart about the middle of a line of ``onto`` samples."""
    return np.linspace(-step, step, count) * (count - 1) / 2 + (onto - 1) / 2


def _acquired_count(n: int, spacing: float, distance: float) -> int:
    return max(2, int(np.ceil(n * spacing / distance)))


Samples = tuple[npt.NDArray[np.int64], Floats]  # first input sample, and weights, of every output sample


def downsampling(
    shape: tuple[int, ...], plan: Acquisition, spacing: tuple[float, float, float]
) -> list[tuple[int, Samples]]:
    """Axes that are acquired more coarsely, and how: Gaussian profiles ``distance`` apart."""
    steps = []
    for axis, (distance, sigma) in enumerate(plan.voxels):
        if sigma > 0:
            s = spacing[axis]
            wide = max(sigma / s, 0.5)
            centres = _centres(plan.shape[axis], distance / s, shape[axis])
            weight = partial(_gaussian, sigma=wide)
            steps.append((axis, _weights(centres, shape[axis], weight, 2.5 * wide)))
    return steps


def upsampling(
    shape: tuple[int, ...], plan: Acquisition, spacing: tuple[float, float, float]
) -> list[tuple[int, Samples]]:
    """The same axes, back to the output grid: linear interpolation."""
    steps = []
    for axis, (distance, sigma) in enumerate(plan.voxels):
        if sigma > 0:
            centres = _centres(shape[axis], spacing[axis] / distance, plan.shape[axis])
            steps.append((axis, _weights(centres, plan.shape[axis], _hat, 1.0)))
    return steps


def _gaussian(t: Any, sigma: float) -> Any:
    return np.exp(-0.5 * (t / sigma) ** 2)


def _hat(t: Any) -> Any:
    return np.maximum(1 - np.abs(t), 0)


def _resample(image: Floats, axis: int, starts: Any, weights: Floats) -> Floats:
    from synth.appearance import kernel

    before, after = int(np.prod(image.shape[:axis])), int(np.prod(image.shape[axis + 1 :]))
    out = np.empty((before, len(starts), after), np.float32)
    if after == 1:  # along the last axis a line is a row of a matrix
        kernel.resample_rows(image.reshape(before, -1), starts, weights, out.reshape(before, -1))
    else:
        kernel.resample_axis(image.reshape(before, image.shape[axis], after), starts, weights, out)
    return out.reshape(*image.shape[:axis], len(starts), *image.shape[axis + 1 :])


def scaling_step(voxels: int) -> int:
    """The scale is estimated from every n-th voxel; n is odd, so that it walks through every column."""
    return max(1, voxels // SCALING_VOXELS) | 1


def scale_of(image: Floats) -> float:
    """1 / the 99.5th percentile of a fixed sample of the voxels."""
    sample = image.reshape(-1)[:: scaling_step(image.size)]
    return 1 / max(float(np.quantile(sample, QUANTILE)), 1e-6)


def tone_curve(gamma: float | None) -> Floats:
    """Output at 1,024 steps a unit of the input, from 0 to 1.5."""
    at = np.arange(int(CURVE_END * CURVE_STEPS) + 1) / CURVE_STEPS
    curve: Floats = (at ** (gamma or 1.0)).astype(np.float32)
    return curve


def finish(image: Floats, scanner: Mapping[str, Any]) -> None:
    """Scale so that the 99.5th percentile is 1, gamma, quantisation; in place."""
    from synth.appearance import kernel

    levels = int(scanner["quantise"] or 0)
    kernel.apply_tone(image, np.float32(scale_of(image)), tone_curve(scanner["gamma"]), levels)
