"""Pictures of ``brainloom benchmark realism``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from synth.anatomy.labels import label_table
from synth.errors import UserError
from synth.picture import slices
from synth.quality import METRICS
from synth.sample import Sample

NAMES = {
    "cjv": "CJV",
    "cnr": "CNR",
    "snr_gm": "SNR, grey matter",
    "snr_wm": "SNR, white matter",
    "gm_wm_ratio": "GM / WM",
    "csf_wm_ratio": "CSF / WM",
    "inu_range": "bias-field range",
}
BRAIN_MM = 2.0  # of the side-by-side picture
SAGITTAL = 0.68


def ranges(rows: pd.DataFrame, real: pd.DataFrame, path: Path) -> None:
    """A panel per metric: our volumes as points, the real scans' 5–95 % range as a band, their median as a line."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(11, 3.6), layout="constrained")
    rng = np.random.Generator(np.random.Philox(0))  # sideways jitter of the points
    for axis, metric in zip(sheet.subplots(1, len(METRICS)), METRICS, strict=True):
        low, middle, high = real.loc[metric, ["p05", "p50", "p95"]]
        values = rows[metric].to_numpy(float)
        axis.axhspan(low, high, color="#d7e3ea")
        axis.axhline(middle, color="#1f6f8b", lw=1)
        axis.plot(rng.uniform(-0.3, 0.3, len(values)), values, ".", ms=3, color="#b6413a", alpha=0.7)
        axis.set(
            xticks=[],
            xlim=(-0.6, 0.6),
            title=f"{NAMES[metric]}\n{np.mean((values >= low) & (values <= high)):.0%} inside",
        )
        axis.title.set_fontsize(9)
        axis.tick_params(labelsize=8)
    sheet.suptitle(
        "simulated T1-weighted volumes (points) and 1,101 real scans (ABIDE: 5–95 % band, median)", fontsize=10
    )
    sheet.savefig(path, dpi=80)


def real_scan(cohort: Path) -> tuple[npt.NDArray[np.float32], tuple[float, float, float]]:
    """The first T1-weighted scan of a BIDS folder, ``[D, H, W]`` RAS+, and its spacing in mm.

    Raises:
        UserError: no such folder, or no T1-weighted scan in it.
    """
    import nibabel

    from synth.sample import spacing_of

    found = sorted(cohort.rglob("*_T1w.nii*")) if cohort.is_dir() else []
    if not found:
        raise UserError(f"--cohort '{cohort}' holds no *_T1w.nii or *_T1w.nii.gz; expected a BIDS folder")
    try:
        image: Any = nibabel.as_closest_canonical(nibabel.load(found[0]))
        data = np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:
        raise UserError(f"--cohort: '{found[0]}' cannot be read ({type(error).__name__}); it is damaged") from error
    return data, spacing_of(image.affine)


def side_by_side(sample: Sample, scan: tuple[npt.NDArray[np.float32], tuple[float, float, float]], path: Path) -> None:
    """A synthetic volume above a real one, both at 2 mm, at the same window: 0 to 1.3 times white matter. The sagittal
    slice is off the midline and the real scan's face is cut off, so that nobody is recognised."""
    from matplotlib.figure import Figure
    from scipy.ndimage import zoom

    assert sample.label is not None
    inside = np.isin(sample.label, [n for n, label in label_table().items() if label.is_intracranial])
    lines = [np.flatnonzero(inside.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    margin = [round(16 / s) for s in sample.spacing]
    box = tuple(slice(max(line[0] - m, 0), line[-1] + m) for line, m in zip(lines, margin, strict=True))
    pictures = []
    for name, image, spacing in (
        ("synthetic", sample.image[0][box], sample.spacing),
        ("real", scan[0], scan[1]),
    ):
        coarse = zoom(image, [s / BRAIN_MM for s in spacing], order=1)
        pictures.append((name, coarse / white_level(coarse) * (without_face(coarse.shape) if name == "real" else 1)))
    sheet = Figure(figsize=(9, 6.4), facecolor="black", layout="constrained")
    for row, (name, image) in zip(sheet.subplots(2, 3), pictures, strict=True):
        for axis, cut in zip(row, slices(image, SAGITTAL), strict=True):
            axis.imshow(cut, cmap="gray", vmin=0, vmax=1.3)
            axis.axis("off")
        row[0].set_title(name, color="white", loc="left")
    sheet.savefig(path, dpi=80, facecolor="black")


def without_face(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """False in front of and below a slanting plane from the forehead to the back of the jaw; RAS+ ``[D, H, W]``."""
    y, z = np.linspace(0, 1, shape[1])[:, None], np.linspace(0, 1, shape[2])[None]
    kept: npt.NDArray[np.bool_] = np.broadcast_to(z > 0.62 - 0.97 * (1 - y), shape)
    return kept


def white_level(image: npt.NDArray[np.float32]) -> float:
    """White matter of a T1-weighted volume: the highest peak of the histogram above its mean, in the brain's middle."""
    middle = image[tuple(slice(n // 4, -(n // 4)) for n in image.shape)]
    counts, edges = np.histogram(middle[middle > middle.mean()], bins=40)
    at = int(np.argmax(np.convolve(counts, np.ones(3), "same")))
    return float((edges[at] + edges[at + 1]) / 2)
