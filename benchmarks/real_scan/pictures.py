"""Pictures: every real image beside what the network found and what it is compared with, and the training curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.real_scan.classes import GREY_MATTER, NAMES, WHITE_MATTER, members
from benchmarks.real_scan.images import Scan
from synth.picture import save_png

COLOURS = {  # RGB, 0 to 1
    "white_matter": (0.93, 0.93, 0.90),
    "grey_matter": (0.52, 0.55, 0.60),
    "lateral_ventricle": (0.20, 0.45, 0.95),
    "hippocampus": (0.98, 0.80, 0.15),
    "thalamus": (0.15, 0.70, 0.35),
    "putamen": (0.90, 0.35, 0.65),
    "caudate": (0.55, 0.85, 0.95),
}
OTHERS = {"csf": (0.12, 0.22, 0.42), "brainstem": (0.62, 0.48, 0.36)}
SMOOTHED_OVER = 50  # steps
CUTS = ((0, 0.35), (1, 0.47), (2, 0.45))  # axis and where on it: sagittal, coronal, axial


def save_scans(path: Path, scans: Sequence[Scan], found: dict[str, npt.NDArray[np.intp]]) -> None:
    """One row per image: three slices, each as image, segmentation, reference. The person's right is on the right."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(15, 2.35 * len(scans) + 0.5), facecolor="black")
    axes = sheet.subplots(len(scans), 9, squeeze=False)
    for row, scan in zip(axes, scans, strict=True):
        panels = (_grey(scan.image), paint_found(found[scan.name]), paint_references(scan))
        for column, axis in enumerate(row):
            axis.imshow(_cut(panels[column % 3], *CUTS[column // 3]), interpolation="nearest")
            axis.axis("off")
            word = ("", "segmentation", "reference")[column % 3] or scan.name
            axis.set_title(word, color="white", fontsize=9)
    for column, (name, colour) in enumerate({**COLOURS, **OTHERS}.items()):
        sheet.text(0.02 + 0.108 * column, 0.01, f"■ {name.replace('_', ' ')}", color=colour, fontsize=9)
    sheet.subplots_adjust(0.005, 0.06, 0.995, 0.94, 0.02, 0.12)
    save_png(sheet, path)


def paint_found(found: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """``[D, H, W, 3]`` colours of classes ``[D, H, W]``; the tissues lie under the structures."""
    lookup = np.zeros((len(NAMES), 3), np.float32)
    for names, colour in ((WHITE_MATTER, COLOURS["white_matter"]), (GREY_MATTER, COLOURS["grey_matter"])):
        lookup[members(names)] = colour
    for name, colour in {**COLOURS, **OTHERS}.items():
        if name in NAMES:
            lookup[NAMES.index(name)] = colour
    return lookup[found]


def paint_references(scan: Scan) -> npt.NDArray[np.float32]:
    """``[D, H, W, 3]`` colours of what the scan is compared with."""
    painted = np.zeros((*scan.image.shape, 3), np.float32)
    for name, colour in COLOURS.items():
        painted[scan.references[name]] = colour
    return painted


def save_losses(path: Path, losses: Sequence[float], seconds: float) -> None:
    """Loss over steps, and its running mean."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(7, 3.2), facecolor="white", layout="constrained")
    axis = sheet.subplots()
    axis.plot(losses, color="#b8c4ce", lw=0.6)
    width = min(SMOOTHED_OVER, len(losses))
    if width:
        mean = np.convolve(losses, np.ones(width) / width, "valid")
        axis.plot(np.arange(len(mean)) + width - 1, mean, color="#1f6f8b", lw=1.6)
    axis.set(xlabel="step (one volume each)", ylabel="loss: 1 − Dice + cross-entropy")
    axis.set_title(f"{len(losses)} synthetic volumes in {seconds / 60:.1f} minutes", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    save_png(sheet, path)


def _grey(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    low, high = np.percentile(image, [1, 99.7])
    return np.repeat(np.clip((image - low) / max(float(high - low), 1e-6), 0, 1)[..., None], 3, axis=-1)


def _cut(volume: npt.NDArray[Any], axis: int, share: float) -> npt.NDArray[Any]:
    """One slice ``[rows, columns, 3]``, superior (axial: anterior) up."""
    cut = np.take(volume, int(volume.shape[axis] * share), axis)
    return np.flip(np.swapaxes(cut, 0, 1), axis=0)
