"""Artefacts that arise in k-space: ghosts of a moving head, Gibbs ringing, spikes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def motion_path(count: int, amplitude_mm: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """``[count]`` position of the head in mm while each k-space line is taken, in the order of acquisition.

    Breathing-like swing plus a few lasting moves; the middle of k-space, which sets where the head is seen, lies at 0.
    """
    time = np.linspace(0, 1, count)
    path = amplitude_mm * rng.uniform(0.2, 0.6) * np.sin(2 * np.pi * (rng.uniform(3, 30) * time + rng.random()))
    for start in rng.uniform(0, 1, int(rng.integers(1, 4))):
        path = path + amplitude_mm * rng.uniform(-1, 1) * (time > start)
    return path - path[count // 2]


def motion_filter(
    shape: tuple[int, ...], amplitude_mm: float, voxels: tuple[tuple[float, float], ...], rng: np.random.Generator
) -> tuple[int, npt.NDArray[np.complex64]]:
    """The phase-encoding axis, and what every line of k-space along it is multiplied by.

    A shift by d mm while line k is taken multiplies that line by exp(-2πi·k·d) (Fourier's shift theorem).
    """
    axis = int(rng.integers(3))
    path = motion_path(shape[axis], amplitude_mm, rng)
    cycles = np.fft.fftfreq(shape[axis], voxels[axis][0])
    return axis, np.exp(-2j * np.pi * cycles * np.fft.ifftshift(path)).astype(np.complex64)


def move_head(image: Floats, axis: int, factors: npt.NDArray[np.complex64]) -> Floats:
    """Ghosts of a head that moves along ``axis`` during the scan (see :func:`motion_filter`); the magnitude image."""
    from scipy import fft

    lines = fft.fft(image, axis=axis, workers=1)
    lines *= factors.reshape([-1 if a == axis else 1 for a in range(3)])
    moved: Any = np.abs(fft.ifft(lines, axis=axis, workers=1, overwrite_x=True))
    return np.ascontiguousarray(moved, dtype=np.float32)


def ring(image: Floats, kept: float) -> Floats:
    """Gibbs ringing: along every axis the outer 1 - ``kept`` of k-space is left out (zero filling); magnitude."""
    from scipy import fft

    for axis, count in enumerate(image.shape):
        lines = fft.rfft(image, axis=axis, workers=1)
        cut = max(2, int(np.ceil(kept * lines.shape[axis])))
        np.moveaxis(lines, axis, 0)[cut:] = 0
        image = fft.irfft(lines, n=count, axis=axis, workers=1, overwrite_x=True)
    return np.ascontiguousarray(np.abs(image), dtype=np.float32)


def spike_waves(
    shape: tuple[int, ...], amplitude: float, rng: np.random.Generator
) -> list[list[npt.NDArray[np.complex64]]]:
    """One to three plane waves, each as one complex factor per axis; the real part of their product is the wave."""
    waves = []
    for _ in range(int(rng.integers(1, 4))):
        phase = rng.random()
        along = [np.exp(2j * np.pi * rng.uniform(-0.5, 0.5) * np.arange(n)) for n in shape]
        along[0] = along[0] * amplitude * np.exp(2j * np.pi * phase)
        waves.append([factor.astype(np.complex64) for factor in along])
    return waves


def add_spikes(image: Floats, waves: list[list[npt.NDArray[np.complex64]]]) -> Floats:
    """Single points of k-space that are wrong: plane waves across the image (see :func:`spike_waves`); magnitude."""
    spiked = image.copy()
    for depth, height, width in waves:
        plane = height[:, None] * width[None]
        for d, value in enumerate(depth):
            spiked[d] += value.real * plane.real - value.imag * plane.imag
    return np.abs(spiked)
