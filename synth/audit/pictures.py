"""Pictures of an audit, drawn without a display."""

from __future__ import annotations

from typing import Any

import numpy as np

from synth.audit.findings import Findings
from synth.audit.grid import Floats, Volumes, some
from synth.audit.groups import NAMES
from synth.audit.image_quality import NAMES as METRIC_NAMES
from synth.audit.listening import RESPONSES, always_there, asked_of, numbers
from synth.picture import slices

INK, MADE, REAL, APART, BAND = "#1d2733", "#b6413a", "#1f6f8b", "#8a6d1f", "#d7e3ea"
COLOURS = {"synthetic": MADE, "reference": REAL, "held-out": APART}
BRIGHT = 1.3  # standardised intensity shown white
ROWS = 4  # volumes of each corpus in the mosaic


def axes_of(columns: int, width: float = 3.0, height: float = 2.9, rows: int = 1) -> tuple[Any, Any]:
    """A white sheet and its ``[rows, columns]`` axes."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(width * columns, height * rows), facecolor="white", layout="constrained")
    axes = sheet.subplots(rows, columns, squeeze=False)
    for axis in axes.ravel():
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=8)
    return sheet, axes


def _brain_picture(axis: Any, cut: Floats, title: str = "") -> None:
    axis.imshow(cut, cmap="gray", vmin=0, vmax=BRIGHT, interpolation="nearest")
    axis.axis("off")
    if title:
        axis.set_title(title, color="white", fontsize=8, loc="left")


def dark_sheet(rows: int, columns: int) -> tuple[Any, Any]:
    """A black sheet and its axes."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(1.9 * columns, 2.1 * rows), facecolor="black", layout="constrained")
    return sheet, sheet.subplots(rows, columns, squeeze=False)


def mosaic(found: Findings) -> Any:
    """Samples on the left, reference volumes on the right."""
    sheet, axes = dark_sheet(ROWS, 6)
    for first, volumes in ((0, found.synthetic), (3, found.reference)):
        for row, index in enumerate(some(len(volumes), ROWS)):
            for column, cut in enumerate(slices(volumes.image(index))):
                title = f"{volumes.role} #{index}" if column == 0 else ""
                _brain_picture(axes[row][first + column], cut, title)
    return sheet


def aligned(volumes: Volumes, pair: dict[str, Any]) -> Floats:
    """A sample as it lies on its neighbour: mirrored and shifted back."""
    from scipy.ndimage import shift

    image = volumes.image(pair["sample"])
    image = image[::-1] if pair["mirrored"] else image
    moved: Floats = shift(image, [-s for s in pair["shift_voxels"]], order=1, mode="constant", cval=0.0)
    return moved


def closest_pair(found: Findings, pair: dict[str, Any]) -> Any:
    """The sample above, its nearest reference volume below; three planes."""
    sheet, axes = dark_sheet(2, 3)
    images = (aligned(found.synthetic, pair), found.reference.image(pair["reference"]))
    names = (f"sample {pair['sample']}", f"reference {pair['reference']}")
    for row, (image, name) in enumerate(zip(images, names, strict=True)):
        for column, cut in enumerate(slices(image)):
            _brain_picture(axes[row][column], cut, name if column == 0 else "")
    return sheet


def ratios(found: Findings) -> Any:
    """Histograms of the ratio, samples against volumes that are no copies, with the threshold; pixels and features."""
    sheet, axes = axes_of(2, 4.6)
    clean = "held-out" if found.held_out is not None else "reference"
    for axis, space in zip(axes[0], (found.copies.pixels, found.copies.features), strict=True):
        values = np.concatenate([space.samples.ratio, space.clean])
        bins = np.linspace(min(float(values.min()), space.threshold) * 0.98, float(values.max()) * 1.02, 41).tolist()
        for name, ratio in ((clean, space.clean), ("synthetic", space.samples.ratio)):
            axis.hist(
                ratio, bins, weights=np.full(len(ratio), 100 / len(ratio)), color=COLOURS[name], alpha=0.6, label=name
            )
        axis.axvline(space.threshold, color=INK, ls="--", lw=1.2, label="threshold")
        axis.set_xlabel("distance to the nearest, over that to the next", fontsize=8)
        axis.set_title(space.name, fontsize=9)
    axes[0][0].set_ylabel("% of volumes", fontsize=8)
    axes[0][0].legend(fontsize=8, frameon=False)
    return sheet


def feature_map(found: Findings) -> Any:
    """Leading principal axes of the features, and MS-SSIM between pairs."""
    sheet, axes = axes_of(2, 4.2)
    for role, points in found.axes.items():
        axes[0][0].plot(points[:, 0], points[:, 1], ".", ms=4, alpha=0.6, color=COLOURS[role], label=role)
    axes[0][0].set_xlabel("first principal axis of the features", fontsize=8)
    axes[0][0].set_ylabel("second", fontsize=8)
    axes[0][0].legend(fontsize=8, frameon=False)
    bins = np.linspace(min(v.min() for v in found.likeness.values()), 1, 31).tolist()
    for role, values in found.likeness.items():
        weights = np.full(len(values), 100 / len(values))
        axes[0][1].hist(values, bins, weights=weights, histtype="step", lw=1.6, color=COLOURS[role], label=role)
    axes[0][1].legend(fontsize=8, frameon=False, loc="upper left")
    axes[0][1].set_xlabel("MS-SSIM of two volumes of one corpus", fontsize=8)
    axes[0][1].set_ylabel("% of pairs", fontsize=8)
    return sheet


def volumes(found: Findings) -> Any:
    """Every region's volume: points and median of samples and reference, in ml."""
    names = [name for name in NAMES if name in found.made.mm3]
    sheet, axes = axes_of(len(names), 1.5)
    for axis, name in zip(axes[0], names, strict=True):
        _columns(axis, {"synthetic": found.made.mm3[name] / 1000, "reference": found.real.mm3[name] / 1000})
        axis.set_title(f"{NAMES[name]}".replace(" ", "\n", 1), fontsize=8)
    axes[0][0].set_ylabel("ml", fontsize=8)
    return sheet


def _columns(axis: Any, columns: dict[str, Any]) -> None:
    rng = np.random.Generator(np.random.Philox(0))  # sideways jitter of the points
    for place, (role, values) in enumerate(columns.items()):
        axis.plot(place + rng.uniform(-0.28, 0.28, len(values)), values, ".", ms=3, alpha=0.5, color=COLOURS[role])
        if len(values):
            axis.hlines(np.median(values), place - 0.36, place + 0.36, color=INK, lw=1.6)
    axis.set(xlim=(-0.5, len(columns) - 0.5), xticks=range(len(columns)))
    axis.set_xticklabels([{"synthetic": "syn.", "reference": "ref."}[role] for role in columns], fontsize=8)


def asked(found: Findings) -> Any | None:
    """Volumes asked against volumes measured, samples and reference; None where no volume was asked for."""
    expected = always_there(found.reference)
    made, real = asked_of(found.synthetic, found.made, expected), asked_of(found.reference, found.real, expected)
    if not made:
        return None
    columns = min(4, len(made))
    sheet, axes = axes_of(columns, 2.6, 2.5, -(-len(made) // columns))
    for axis in axes.ravel()[len(made) :]:
        axis.axis("off")
    for axis, (name, one) in zip(axes.ravel(), made.items(), strict=False):
        if name in real:
            axis.plot(real[name].asked / 1000, real[name].measured / 1000, ".", ms=3, alpha=0.4, color=REAL)
        axis.plot(one.asked / 1000, one.measured / 1000, ".", ms=4, alpha=0.7, color=MADE)
        low, high = float(one.asked.min() / 1000), float(one.asked.max() / 1000)
        axis.plot([low, high], [low, high], color=INK, lw=1, ls="--")
        axis.set_title(NAMES[name], fontsize=8)
        axis.set_xlabel("asked, ml", fontsize=8)
    for row in axes:
        row[0].set_ylabel("measured, ml", fontsize=8)
    return sheet


def with_age(found: Findings) -> Any | None:
    """Ventricles and brain against the age asked for; None without ages."""
    regions = [name for name in RESPONSES if name in found.made.trusted]
    if not regions:
        return None
    sheet, axes = axes_of(len(regions), 3.8)
    drawn = False
    for axis, name in zip(axes[0], regions, strict=True):
        for source, one in ((found.reference, found.real), (found.synthetic, found.made)):
            ages, there = numbers(source, one, "age")
            if there.sum() < 2 or ages[there].std() == 0:
                continue
            values = one.mm3[name][there] / 1000
            axis.plot(ages[there], values, ".", ms=4, alpha=0.5, color=COLOURS[source.role], label=source.role)
            ends = np.array([ages[there].min(), ages[there].max()])
            axis.plot(ends, np.polyval(np.polyfit(ages[there], values, 1), ends), color=COLOURS[source.role], lw=1.8)
            drawn = drawn or source is found.synthetic
        axis.set_title(NAMES[name], fontsize=9)
        axis.set_xlabel("age asked for, years", fontsize=8)
    axes[0][0].set_ylabel("measured, ml", fontsize=8)
    axes[0][0].legend(fontsize=8, frameon=False)
    return sheet if drawn else None


def quality(found: Findings) -> Any | None:
    """A panel per metric: samples and reference as points, the range of real scans as a band; None without metrics."""
    if not len(next(iter(found.quality.synthetic.values()))):
        return None
    sheet, axes = axes_of(len(METRIC_NAMES), 1.6)
    for axis, (metric, name) in zip(axes[0], METRIC_NAMES.items(), strict=True):
        real = found.results["quality"]["metrics"][metric]["real_scans_1mm"]
        axis.axhspan(real["p05"], real["p95"], color=BAND)
        _columns(axis, {"synthetic": found.quality.synthetic[metric], "reference": found.quality.reference[metric]})
        axis.set_title(name.replace(", ", ",\n"), fontsize=8)
    return sheet
