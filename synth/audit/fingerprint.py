"""What two volumes are compared by: their detail, without brightness, and a fingerprint of it that no shift changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from synth.audit.grid import Floats

FINE, COARSE = 0.7, 2.0  # SD in voxels of the band of detail: finer is mostly noise, coarser is every head's
LOCAL = 3.0  # SD in voxels of the neighbourhood over which contrast is evened out
FLOOR = 0.5  # of the volume's own contrast, added before dividing: air stays quiet
EDGE = 0.2  # of every axis over which the window falls to 0
KEPT = 0.5  # of the frequencies along every axis
RINGS = 8  # of spatial frequency whose mean is set to 1: blur and sharpness are gone


def detail(volume: Floats) -> Floats:
    """The band of detail of ``[D, H, W]``, its local contrast evened out. Gain, offset and slow bias fields drop out."""
    from scipy.ndimage import gaussian_filter

    band = gaussian_filter(volume, FINE) - gaussian_filter(volume, COARSE)
    local = np.sqrt(gaussian_filter(band * band, LOCAL))
    overall = float(np.sqrt(np.mean(band * band)))
    evened: Floats = (band / (local + FLOOR * overall + 1e-12)).astype(np.float32)
    return evened


@lru_cache(maxsize=4)
def window(shape: Sequence[int]) -> Floats:
    """``[D, H, W]`` weights, 1 in the middle and falling to 0 at the edges (a Tukey window)."""
    from scipy.signal.windows import tukey

    x, y, z = (tukey(n, 2 * EDGE).astype(np.float32) for n in shape)
    tapered: Floats = x[:, None, None] * y[None, :, None] * z[None, None, :]
    return tapered


def spectrum(evened: Floats) -> npt.NDArray[np.complex64]:
    """Half spectrum ``[D, H, W // 2 + 1]`` of windowed detail."""
    from scipy.fft import rfftn

    result: npt.NDArray[np.complex64] = rfftn(evened * window(evened.shape))
    return result


def low_frequencies(half: npt.NDArray[np.generic], shape: Sequence[int]) -> npt.NDArray[np.generic]:
    """The ``KEPT`` share of a half spectrum's frequencies along every axis."""
    d, h, w = (max(2, int(n * KEPT / 2)) for n in shape)
    half = np.concatenate([half[:d], half[-d:]], axis=0)
    return np.concatenate([half[:, :h], half[:, -h:]], axis=1)[:, :, :w]


@lru_cache(maxsize=4)
def rings(shape: Sequence[int]) -> npt.NDArray[np.intp]:
    """Ring of spatial frequency, 0 to ``RINGS`` - 1, of every entry of a fingerprint."""
    from scipy.fft import fftfreq, rfftfreq

    x, y, z = fftfreq(shape[0]), fftfreq(shape[1]), rfftfreq(shape[2])
    radius = np.sqrt(x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2)
    kept = low_frequencies(radius, shape).astype(np.float64).ravel()
    found: npt.NDArray[np.intp] = np.minimum((kept / (kept.max() + 1e-9) * RINGS).astype(np.intp), RINGS - 1)
    return found


def fingerprint(evened: Floats) -> Floats:
    """``[F]`` magnitudes of the low frequencies of detail, each divided by its ring's mean.

    A shift changes only phases, a blur only the rings' means: neither changes the fingerprint.
    """
    magnitude = np.abs(low_frequencies(spectrum(evened), evened.shape)).ravel()
    ring = rings(evened.shape)
    mean = np.bincount(ring, magnitude, RINGS) / np.maximum(np.bincount(ring, minlength=RINGS), 1)
    result: Floats = (magnitude / (mean[ring] + 1e-12)).astype(np.float32)
    return result


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and SD ``[F]`` of the reference's fingerprints: what all heads share says nothing about one of them."""

    mean: Floats
    sd: Floats

    @classmethod
    def of(cls, raw: Floats) -> Scale:
        """Of fingerprints ``[N, F]``."""
        return cls(raw.mean(axis=0), raw.std(axis=0) + 1e-6)

    def __call__(self, raw: Floats) -> Floats:
        """Fingerprints ``[..., F]`` centred, scaled and of length 1: their dot product is a correlation."""
        scaled = (raw - self.mean) / self.sd
        result: Floats = scaled / (np.linalg.norm(scaled, axis=-1, keepdims=True) + 1e-12)
        return result
