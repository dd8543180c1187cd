"""Tissue by intensity alone, for references without label maps: a mixture of three normal distributions and depth.

Nothing here knows anatomy. Ventricles are taken to be the dark voxels deep inside, brain the brighter ones below the
surface: of T1-weighted heads only. On LabelMap volumes at 4 mm these correlate with the true volumes at r = 0.75
(ventricles) and 0.84 (brain, by its size); see docs/audit.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from synth.audit.grid import Floats
from synth.quality import Mask

NAME = "Gaussian mixture of three tissues, by intensity and depth (the reference has no label maps)"
DEEP, INSIDE = 0.6, 0.4  # of the greatest depth: where ventricles are looked for, and brain
CUT = 0.6  # of Otsu's threshold: skull and CSF are darker than it
SURE = 0.9  # probability above which a voxel counts for image quality
START = (3, 35, 80)  # percentiles at which the three means start
FLAT = 1e-3  # range of standardised intensities below which there are no tissues
EVERY = 3  # voxels: the fit uses one of so many


@dataclass(frozen=True, eq=False)
class Tissue:
    """One volume: ``head`` ``[D, H, W]``, its ``depth`` from 0 to 1, and the ``probability`` ``[3, D, H, W]`` of dark,
    middle and bright inside; 0 outside."""

    head: Mask
    depth: Floats
    probability: Floats


def head_mask(image: Floats) -> Mask:
    """The largest bright thing, its holes filled."""
    import SimpleITK as sitk  # noqa: N813
    from scipy.ndimage import binary_closing, binary_fill_holes, label

    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(sitk.GetImageFromArray(np.ascontiguousarray(image)))
    filled = binary_fill_holes(binary_closing(image > CUT * otsu.GetThreshold(), iterations=2))
    parts, count = label(filled)
    if count == 0:
        return np.ones(image.shape, bool)
    largest: Mask = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    return largest


def tissue_of(image: Floats, spacing: tuple[float, float, float]) -> Tissue:
    """Dark, middle and bright of one standardised volume."""
    from scipy.ndimage import distance_transform_edt
    from sklearn.mixture import GaussianMixture

    head = head_mask(image)
    depth = distance_transform_edt(np.pad(head, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    depth = (depth / max(float(depth.max()), 1e-6)).astype(np.float32)
    inside = depth > INSIDE
    values = image[inside][:, None].astype(np.float64)
    probability = np.zeros((3, *image.shape), np.float32)
    if np.ptp(values) < FLAT:
        return Tissue(head, depth, probability)
    start = np.percentile(values, START)[:, None] + np.arange(3)[:, None] * 1e-6
    mixture = GaussianMixture(3, means_init=start, random_state=0).fit(values[::EVERY])
    order = np.argsort(mixture.means_.ravel())
    probability[:, inside] = mixture.predict_proba(values)[:, order].T
    return Tissue(head, depth, probability)


def regions_of(tissue: Tissue, voxel_mm3: float) -> dict[str, float]:
    """mm³ of what stands for ventricles and brain."""
    dark, middle, bright = tissue.probability
    return {
        "ventricles": float(dark[tissue.depth > DEEP].sum(dtype=np.float64) * voxel_mm3),
        "brain": float((middle + bright).sum(dtype=np.float64) * voxel_mm3),
    }


def masks_of(tissue: Tissue) -> dict[str, npt.NDArray[np.bool_]]:
    """Masks for :func:`synth.quality.measure_in`."""
    csf, gm, wm = tissue.probability > SURE
    return {"wm": wm, "gm": gm, "csf": csf, "brain": tissue.depth > INSIDE, "head": tissue.head, "air": ~tissue.head}
