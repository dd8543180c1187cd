"""What a scanner adds to tissue means: texture, blur, bias field, noise, gamma."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
BIAS_KNOTS = 5  # knots per axis of the bias field: about 40 mm apart in a head
WHITE = 90.0  # white matter in the contrast table's units


def finish(
    image: Floats,
    spread: Floats,
    scanner: dict[str, Any],
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
) -> Floats:
    """Texture, blur, bias, noise, gamma; then the 99.5th percentile is 1 and nothing is negative.

    Args:
        image: ``[D, H, W]`` tissue means, white matter near 90 for ``t1w``.
        spread: ``[D, H, W]`` within-tissue SD, same units.
        scanner: ``noise`` (SD, share of white matter), ``bias`` (log SD), ``gamma``, ``blur_mm`` (Gaussian SD).
        spacing: mm.
        rng: the stream of this volume's texture, bias and noise.
    """
    image = image + spread * rng.standard_normal(image.shape, dtype=np.float32)
    sigma = [scanner["blur_mm"] / s for s in spacing]
    if max(sigma) > 0.2:  # narrower than that a Gaussian is one voxel
        from scipy.ndimage import gaussian_filter

        image = gaussian_filter(image, sigma, truncate=3.0)
    image = image * bias_field(image.shape, scanner["bias"], rng)
    image = image + np.float32(scanner["noise"] * WHITE) * rng.standard_normal(image.shape, dtype=np.float32)
    image = np.abs(image)  # magnitude images have no negative values (Rician at low signal)
    image /= max(float(np.percentile(image, 99.5)), 1e-6)
    return np.minimum(image, np.float32(1.5)) ** np.float32(scanner["gamma"])


def bias_field(shape: tuple[int, ...], log_sd: float, rng: np.random.Generator) -> Floats:
    """Smooth multiplicative field: exp of normal knots, linearly interpolated, mean near 1."""
    field = (log_sd * rng.standard_normal((BIAS_KNOTS,) * 3)).astype(np.float32)
    for axis, n in enumerate(shape):
        at = np.linspace(0, BIAS_KNOTS - 1, n, dtype=np.float32)
        weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(BIAS_KNOTS, dtype=np.float32)[None]))
        field = np.moveaxis(np.tensordot(weights, field, axes=(1, axis)), 0, axis)
    return np.exp(field).astype(np.float32)
