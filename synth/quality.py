"""MRIQC's image-quality metrics of a T1-weighted volume in masks that are known.

Definitions are those of MRIQC (Esteban et al. 2017, PLoS ONE 12:e0184661; nipreps/mriqc, mriqc/qc/anatomical.py and
mriqc/interfaces/anatomical.py): computed on the image after N4 (Tustison et al. 2010, IEEE TMI) with white matter's
median at 1000, in tissue masks that are eroded. They reproduce every row of mriqc-learn's abide.tsv from its summary
columns. One difference is left: MRIQC has its masks from a segmentation of the image (FAST), here the caller gives them
or the true label map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from synth.anatomy.labels import Label

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

METRICS = ("cjv", "cnr", "snr_gm", "snr_wm", "gm_wm_ratio", "csf_wm_ratio", "inu_range")
WHITE = ("cerebral_white_matter", "cerebellum_white_matter", "corpus_callosum")
GREY = ("cerebral_cortex", "cerebellum_cortex", "hippocampus", "amygdala", "caudate", "accumbens", "putamen")
FLUID = ("lateral_ventricle", "inferior_lateral_ventricle", "third_ventricle", "fourth_ventricle", "sulcal_csf")
N4_GRID_MM, N4_ITERATIONS = 4.0, (50, 50, 50)  # MRIQC: every fourth voxel of 1 mm
MAD_TO_SD = 1.4826  # of a normal distribution, as statsmodels.robust.scale.mad has it
ERODE_BELOW_MM = 1.9  # MRIQC erodes masks of finer images


@dataclass(frozen=True)
class Summary:
    """Intensities in one mask: median, SD, median absolute deviation (scaled to a normal's SD), voxels."""

    median: float
    sd: float
    mad: float
    voxels: int

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> Summary:
        """Of the values in a mask; NaN when there are none."""
        if len(values) < 2:
            return cls(np.nan, np.nan, np.nan, len(values))
        median = float(np.median(values))
        mad = MAD_TO_SD * float(np.median(np.abs(values - median)))
        return cls(median, float(np.std(values)), mad, len(values))


def cjv(wm: Summary, gm: Summary) -> float:
    """Coefficient of joint variation, (MAD_WM + MAD_GM) / |median_WM - median_GM| (Ganzetti et al. 2016)."""
    return (wm.mad + gm.mad) / abs(wm.median - gm.median)


def cnr(wm: Summary, gm: Summary, air: Summary) -> float:
    """Contrast-to-noise ratio, |median_WM - median_GM| / √(SD_air² + SD_WM² + SD_GM²) (Magnotta & Friedman 2006)."""
    return abs(wm.median - gm.median) / float(np.sqrt(air.sd**2 + wm.sd**2 + gm.sd**2))


def snr(tissue: Summary) -> float:
    """Signal-to-noise ratio inside a tissue, median / (SD · √(n / (n - 1)))."""
    return tissue.median / (tissue.sd * float(np.sqrt(tissue.voxels / (tissue.voxels - 1))))


def real_percentiles() -> pd.DataFrame:
    """metric → p05, p50, p95 of 1,101 T1-weighted scans of ABIDE at about 1 mm."""
    import pandas as pd

    with (resources.files("synth") / "data" / "abide_percentiles.tsv").open() as file:
        return pd.read_csv(file, sep="\t", comment="#").set_index("metric")


def bias_by_n4(
    image: Floats, head: Mask, spacing: Sequence[float] = (1.0, 1.0, 1.0), grid_mm: float = N4_GRID_MM
) -> Floats:
    """``[D, H, W]`` multiplicative bias field by N4, estimated inside the head on a grid of about ``grid_mm``."""
    import SimpleITK as sitk  # noqa: N813  # TorchIO brings it
    from scipy.ndimage import zoom

    step = max(1, round(grid_mm / min(spacing)))
    small = sitk.GetImageFromArray(np.ascontiguousarray(image[step // 2 :: step, step // 2 :: step, step // 2 :: step]))
    inside = sitk.GetImageFromArray(
        np.ascontiguousarray(head[step // 2 :: step, step // 2 :: step, step // 2 :: step].astype(np.uint8))
    )
    correction = sitk.N4BiasFieldCorrectionImageFilter()
    correction.SetNumberOfThreads(1)
    correction.SetMaximumNumberOfIterations(list(N4_ITERATIONS))
    correction.Execute(small, inside)
    coarse = sitk.GetArrayFromImage(correction.GetLogBiasFieldAsImage(small)).astype(np.float32)
    factors = [n / c for n, c in zip(image.shape, coarse.shape, strict=True)]
    field: Floats = np.exp(zoom(coarse, factors, order=1, grid_mode=True, mode="nearest"))
    return field


def inu_range(bias: Floats, brain: Mask) -> float:
    """Range of intensity non-uniformity, |95th - 5th percentile| of the bias field inside the brain."""
    low, high = np.percentile(bias[brain], [5, 95])
    return float(abs(high - low))


def masks(
    label: npt.NDArray[np.integer[Any]], spacing: tuple[float, float, float], table: Mapping[int, Label]
) -> dict[str, Mask]:
    """Masks of white and grey matter and fluid (eroded by the 18 neighbours below 1.9 mm), brain, head and air."""
    from scipy.ndimage import binary_erosion, generate_binary_structure

    numbers = {name: [n for n, entry in table.items() if entry.structure in group] for name, group in _GROUPS.items()}
    found = {name: np.isin(label, numbers[name]) for name in _GROUPS}
    if all(s < ERODE_BELOW_MM for s in spacing):
        neighbours = generate_binary_structure(3, 2)
        found = {name: binary_erosion(mask, neighbours) for name, mask in found.items()}
    inside = [n for n, entry in table.items() if entry.is_intracranial]
    return {**found, "brain": np.isin(label, inside), "head": label > 0, "air": label == 0}


_GROUPS = {"wm": WHITE, "gm": GREY, "csf": FLUID}


def measure(
    image: Floats,
    label: npt.NDArray[np.integer[Any]],
    spacing: tuple[float, float, float],
    table: Mapping[int, Label],
) -> dict[str, float]:
    """Every metric of ``METRICS`` for one volume ``[D, H, W]`` and its label map."""
    return measure_in(image, masks(label, spacing, table), spacing)


def measure_in(
    image: Floats, where: Mapping[str, Mask], spacing: Sequence[float], grid_mm: float = N4_GRID_MM
) -> dict[str, float]:
    """Every metric of ``METRICS`` for one volume ``[D, H, W]``, inside the masks wm, gm, csf, brain, head and air
    (each ``[D, H, W]``, none empty); ``grid_mm``: see :func:`bias_by_n4`."""
    bias = bias_by_n4(image, where["head"], spacing, grid_mm)
    even = image / np.maximum(bias, 1e-3)
    even = even * (1000 / max(float(np.median(even[where["wm"]])), 1e-6))
    wm, gm, csf, air = (Summary.of(even[where[name]]) for name in ("wm", "gm", "csf", "air"))
    return {
        "cjv": cjv(wm, gm),
        "cnr": cnr(wm, gm, air),
        "snr_gm": snr(gm),
        "snr_wm": snr(wm),
        "gm_wm_ratio": gm.median / wm.median,
        "csf_wm_ratio": csf.median / wm.median,
        "inu_range": inu_range(bias, where["brain"]),
    }
