"""Figures of the report: drawn without a display, returned as SVG or PNG text ready to embed."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from synth.corpus import Corpus
from synth.picture import figure, png_bytes

INK, FAINT = "#1d2733", "#8a97a6"
COLOURS = {"control": "#8a97a6", "scratch": "#c2571a", "untrained": "#d9a441", "pretrained": "#1f6f8b"}


def kind_of(arm: dict[str, Any]) -> str:
    """Which colour an arm has: control, scratch, untrained or pretrained."""
    if arm["mode"] == "control":
        return "control"
    if arm["weights"] is not None:
        return "pretrained"
    return "scratch" if arm["mode"] == "full" else "untrained"


def _axes(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    axes = sheet.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=8)
    return sheet, axes


def _svg(sheet: Any) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "brainloom", "svg.fonttype": "none", "font.family": "sans-serif"}):
        sheet.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def forest(results: dict[str, Any]) -> str:
    """One panel per test set: every arm's main metric with its 95 % interval; chance or nothing marked."""
    metric = next(iter(results["arms"][0]["metrics"][next(iter(results["test_sets"]))]))
    sets = list(results["test_sets"])
    sheet, axes = _axes(4.6 * len(sets) + 1.6, 0.32 * len(results["arms"]) + 1.1, len(sets))
    for axis, name in zip(axes, sets, strict=True):
        for row, arm in enumerate(reversed(results["arms"])):
            value = arm["metrics"][name][metric]
            colour = COLOURS[kind_of(arm)]
            axis.plot([value["low"], value["high"]], [row, row], color=colour, lw=2.5, solid_capstyle="round")
            axis.plot(value["value"], row, "o", color=colour, ms=6)
        axis.set_yticks(range(len(results["arms"])), [arm["name"] for arm in reversed(results["arms"])])
        axis.set_title(f"{name} ({results['test_sets'][name]} people)", fontsize=9, color=INK)
        if metric == "roc_auc":
            axis.axvline(0.5, color=FAINT, ls=":", lw=1)
        axis.set_xlabel({"roc_auc": "ROC-AUC", "mae_years": "mean absolute error, years"}[metric], fontsize=8)
    for axis in axes[1:]:
        axis.set_yticklabels([])
    return _svg(sheet)


def curves(logs: dict[str, Path]) -> str | None:
    """Training loss over steps, one panel per weights folder; None when no log is there."""
    series = {}
    for name, path in logs.items():
        if path.is_file():
            with path.open() as file:
                rows = [row for row in csv.DictReader(file) if row.get("loss")]
            if rows:
                series[name] = ([int(row["step"]) for row in rows], [float(row["loss"]) for row in rows])
    if not series:
        return None
    sheet, axes = _axes(3.4 * len(series), 2.5, len(series))
    for axis, (name, (steps, losses)) in zip(axes, series.items(), strict=True):
        axis.plot(steps, losses, color="#b9c6d2", lw=1)
        width = max(1, len(losses) // 20)
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        axis.plot(steps[width - 1 :], smooth, color=COLOURS["pretrained"], lw=2)
        axis.set_title(name, fontsize=9, color=INK)
        axis.set_xlabel("step", fontsize=8)
        axis.set_ylabel("loss", fontsize=8)
    return _svg(sheet)


def age_scatter(rows: list[dict[str, str]], arm: str) -> str | None:
    """Predicted against true age of one arm, a dot per person (mean over seeds), a colour per test set."""
    chosen = [row for row in rows if row["arm"] == arm]
    if not chosen:
        return None
    people: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in chosen:
        people.setdefault((row["test_set"], row["participant_id"]), []).append(
            (float(row["target"]), float(row["prediction"]))
        )
    sheet, axes = _axes(4.2, 3.8)
    for colour, test_set in zip(("#1f6f8b", "#c2571a", "#5b8c5a"), sorted({key[0] for key in people}), strict=False):
        points = np.array([np.mean(values, axis=0) for key, values in people.items() if key[0] == test_set])
        axes[0].plot(points[:, 0], points[:, 1], "o", ms=4, alpha=0.7, color=colour, label=test_set)
    low, high = axes[0].get_xlim()
    axes[0].plot([low, high], [low, high], color=FAINT, lw=1, ls=":")
    axes[0].set_xlabel("true age, years", fontsize=8)
    axes[0].set_ylabel("predicted age, years", fontsize=8)
    axes[0].legend(fontsize=7, frameon=False)
    return _svg(sheet)


def mosaic(corpus: Corpus, rows: int = 4) -> str:
    """PNG data address of volumes beside their label maps, spread over the corpus."""
    step = max(1, len(corpus) // rows)
    picture = png_bytes(figure(corpus, list(range(0, len(corpus), step))[:rows]))
    return "data:image/png;base64," + base64.b64encode(picture).decode()
