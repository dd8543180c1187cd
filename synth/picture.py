"""Mosaics: volumes beside their label maps, so that a corpus is looked at."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.corpus import Corpus
from synth.errors import UserError


def label_colours(label: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
    """``[…, 3]`` colours, the same for a number in every picture; 0 is black. Left and right partners share none."""
    numbers = np.arange(int(label.max()) + 1, dtype=np.float64)
    hue = np.stack([(numbers * step) % 1.0 for step in (0.61803, 0.75488, 0.56984)], axis=-1)  # low-discrepancy
    colours = (0.25 + 0.75 * hue).astype(np.float32)
    colours[0] = 0
    return colours[np.maximum(label, 0)]


def slices(volume: npt.NDArray[Any], sagittal: float = 0.56) -> list[npt.NDArray[Any]]:
    """Middle axial and coronal slices and the one at the share ``sagittal`` of the width, turned so that up is superior
    (axial: anterior).

    The person's right is on the right of the picture (neurological display): x runs left→right.
    """
    d, h, w = volume.shape[:3]
    cuts = [volume[:, :, int(w * 0.55)], volume[:, h // 2], volume[int(d * sagittal)]]
    return [np.flip(np.swapaxes(cut, 0, 1), axis=0) for cut in cuts]


def figure(corpus: Corpus, indices: list[int]) -> Any:
    """A matplotlib figure: one row per sample, image and label map in three planes."""
    from matplotlib.figure import Figure

    columns = 6 if corpus.has_labels else 3
    sheet = Figure(figsize=(2.1 * columns, 2.3 * len(indices)), facecolor="black")
    axes = sheet.subplots(len(indices), columns, squeeze=False)
    for row, index in zip(axes, indices, strict=True):
        image = corpus.image(index)[0].astype(np.float32)
        low, high = np.percentile(image, [1, 99.7])
        pictures = [(cut, {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1e-6)}) for cut in slices(image)]
        label = corpus.label(index)
        if label is not None:
            pictures += [(cut, {}) for cut in slices(label_colours(label))]
        for axis, (cut, options) in zip(row, pictures, strict=True):
            axis.imshow(cut, interpolation="nearest", **options)
            axis.axis("off")
        row[0].set_title(caption(corpus, index), color="white", fontsize=7, loc="left")
    for text, column in (("L", 0), ("L", 1)):
        axes[0][column].text(0.02, 0.5, text, color="yellow", fontsize=9, transform=axes[0][column].transAxes)
    sheet.tight_layout(pad=0.3)
    return sheet


def caption(corpus: Corpus, index: int) -> str:
    """Index and the person, in a line."""
    covariates = corpus.entry(index)["covariates"]
    shown = [f"#{index}"]
    for name in ("age", "sex", "diagnosis", "site", "anatomy"):
        if name in covariates:
            value = covariates[name]
            shown.append(f"{value:.0f} y" if name == "age" and isinstance(value, float) else str(value))
    return " · ".join(shown)


def save_png(sheet: Any, path: Path) -> None:
    """Write a figure as PNG."""
    try:
        sheet.savefig(path, dpi=110, facecolor=sheet.get_facecolor(), format="png")
    except OSError as error:
        raise UserError(f"cannot write '{path}' ({error.strerror or error}); choose a folder you may write") from error


def png_bytes(sheet: Any, dpi: int = 90) -> bytes:
    """A figure as PNG bytes."""
    buffer = io.BytesIO()
    sheet.savefig(buffer, dpi=dpi, facecolor=sheet.get_facecolor(), format="png")
    return buffer.getvalue()
