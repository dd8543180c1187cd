"""The figures of kind: matrix — the main metric of rows, the best first, in words and as curves over the labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NORMAL_95 = 1.959964


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
    """Sources by what they are worth: their lead, averaged over every comparison at equal compute.

    A comparison is one task, share of the labels, backbone, objective and mode on the last test set; the lead in it is how far
    a source's metric is ahead of the sources' mean, in its standard errors (the 95 % interval's width by 3.92, root mean
    square over the sources). So a task in which nobody is told from anybody counts for little, where a place would count in
    full. Each entry: ``source``, ``lead``, ``mean_place`` (1 is the best), ``first`` (comparisons that it leads),
    ``comparisons``.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("source"):
            key = tuple(row[name] for name in ("task", "percent", "backbone", "objective", "mode"))
            groups.setdefault(key, []).append(row)
    places: dict[str, list[int]] = {}
    leads: dict[str, list[float]] = {}
    for group in groups.values():
        for row, lead in zip(group, _leads(group), strict=True):
            leads.setdefault(row["source"], []).append(lead)
        for place, row in enumerate(ranked(group), 1):
            places.setdefault(row["source"], []).append(place)
    found = [
        {
            "source": name,
            "lead": sum(leads[name]) / len(leads[name]),
            "mean_place": sum(all_) / len(all_),
            "first": all_.count(1),
            "comparisons": len(all_),
        }
        for name, all_ in places.items()
    ]
    return sorted(found, key=lambda one: -float(one["lead"]))


def _leads(group: Sequence[Mapping[str, Any]]) -> list[float]:
    """How far each row is ahead of their mean, in standard errors; 0 for all where there is no error to measure it in."""
    values = [main_value(row) for row in group]
    mean = sum(value["value"] for value in values) / len(values)
    error = math.sqrt(sum(((value["high"] - value["low"]) / (2 * NORMAL_95)) ** 2 for value in values) / len(values))
    sign = 1 if group[0]["higher_is_better"] else -1
    return [sign * (value["value"] - mean) / error if error > 0 else 0.0 for value in values]


def ranking_sentences(rows: list[dict[str, Any]]) -> list[str]:
    """The order of the sources in a sentence; none where there is one source."""
    order = ranking(rows)
    if len(order) < 2:
        return []
    told = ", ".join(
        f"{n}. {one['source']} ({one['lead']:+.2f} standard errors from the sources' mean, first in {one['first']} of "
        f"{one['comparisons']})"
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
