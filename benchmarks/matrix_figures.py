"""The figures of kind: matrix — the main metric of rows, the best first, in words and as curves over the labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def main_value(row: Mapping[str, Any]) -> dict[str, float]:
    """The main metric on the last test set."""
    found: dict[str, float] = list(row["metrics"].values())[-1][row["main_metric"]]
    return found


def sentences(rows: list[dict[str, Any]]) -> list[str]:
    """Per task and share of the labels: the best start of each backbone, scratch, untrained, the best control."""
    said = []
    for task, share in dict.fromkeys((row["task"], row["percent"]) for row in rows):
        here = [row for row in rows if (row["task"], row["percent"]) == (task, share)]
        said.append(f"{task}, {share} % of the labels:")
        said += [f"  {_told(row):<30} {row['name']}" for row in ranked(here)]
    return said


def ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best first."""
    return sorted(rows, key=lambda row: main_value(row)["value"] * (-1 if row["higher_is_better"] else 1))


def _told(row: Mapping[str, Any]) -> str:
    value = main_value(row)
    return f"{value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"


def ranking(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sources by what they are worth: their place among the sources, averaged over every comparison at equal compute.

    A comparison is one task, share of the labels, backbone, objective and mode on the last test set. Each entry: ``source``,
    ``mean_place`` (1 is the best), ``first`` (comparisons that it leads), ``comparisons``.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("source"):
            key = tuple(row[name] for name in ("task", "percent", "backbone", "objective", "mode"))
            groups.setdefault(key, []).append(row)
    places: dict[str, list[int]] = {}
    for group in groups.values():
        for place, row in enumerate(ranked(group), 1):
            places.setdefault(row["source"], []).append(place)
    found = [
        {"source": name, "mean_place": sum(all_) / len(all_), "first": all_.count(1), "comparisons": len(all_)}
        for name, all_ in places.items()
    ]
    return sorted(found, key=lambda one: float(one["mean_place"]))


def ranking_sentences(rows: list[dict[str, Any]]) -> list[str]:
    """The order of the sources in a sentence; none where there is one source."""
    order = ranking(rows)
    if len(order) < 2:
        return []
    told = ", ".join(
        f"{n}. {one['source']} (mean place {one['mean_place']:.2f}, first in {one['first']} of {one['comparisons']})"
        for n, one in enumerate(order, 1)
    )
    return [f"Sources at equal compute, best first: {told}."]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Label efficiency: a panel a task and backbone, a line an arm; controls in grey."""
    from matplotlib.figure import Figure

    from synth.picture import save_png

    backbones = list(dict.fromkeys(row["backbone"] for row in rows if row["backbone"]))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    sheet = Figure(figsize=(4.6 * len(backbones), 3.8 * len(tasks)), layout="constrained")
    panels = sheet.subplots(len(tasks), len(backbones), squeeze=False)
    for task, across in zip(tasks, panels, strict=True):
        for backbone, axis in zip(backbones, across, strict=True):
            shown = [row for row in rows if row["task"] == task and row["backbone"] in (backbone, None)]
            for name in dict.fromkeys(row["name"] for row in shown):
                line = [row for row in shown if row["name"] == name]
                control = line[0]["mode"] == "control"
                axis.plot(
                    [row["percent"] for row in line],
                    [main_value(row)["value"] for row in line],
                    color="0.6" if control else None,
                    linestyle="--" if control else "-",
                    marker="o",
                    markersize=3,
                    label=name.removeprefix(f"{backbone}, ").removesuffix(", frozen"),
                )
            axis.set(
                title=f"{task}, {backbone}", xlabel="percent of the labels", xticks=sorted({r["percent"] for r in rows})
            )
            axis.set_ylabel(shown[0]["main_metric"].replace("_", " "))
            axis.legend(fontsize=6, frameon=False)
    save_png(sheet, path)
