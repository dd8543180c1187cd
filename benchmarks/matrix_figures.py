"""The figures of kind: matrix — the main metric of rows, the best first, in words and as curves over the labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, variance
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


def ranked(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The best first."""
    return sorted(rows, key=lambda row: main_value(row)["value"] * (-1 if row["higher_is_better"] else 1))


def _told(row: Mapping[str, Any]) -> str:
    value = main_value(row)
    return f"{value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"


def ranking(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sources by what they are worth: their lead at equal compute, a task counting by its :func:`reliability`.

    A comparison is one task, share of the labels, backbone, objective and mode on the last test set; the lead in it is how far
    a source's metric is ahead of the sources' mean, in its standard errors (the 95 % interval's width by 3.92, root mean
    square over the sources). Each entry: ``source``; ``lead``, the mean over tasks of reliability times the task's mean
    lead; ``plain_lead``, the mean over all comparisons; ``mean_place`` (1 is the best), in which a task at chance counts in
    full; ``first`` (comparisons that it leads), ``comparisons``.
    """
    groups, weights = _comparisons(rows), reliability(rows)
    places: dict[str, list[int]] = {}
    leads: dict[str, dict[str, list[float]]] = {}
    for (task, *_), group in groups.items():
        for row, lead in zip(group, _leads(group), strict=True):
            leads.setdefault(row["source"], {}).setdefault(task, []).append(lead)
        for place, row in enumerate(ranked(group), 1):
            places.setdefault(row["source"], []).append(place)
    found = [
        {
            "source": name,
            "lead": sum(weights[task] * fmean(own) for task, own in leads[name].items()) / len(leads[name]),
            "plain_lead": fmean(lead for own in leads[name].values() for lead in own),
            "mean_place": fmean(all_),
            "first": all_.count(1),
            "comparisons": len(all_),
        }
        for name, all_ in places.items()
    ]
    return sorted(found, key=lambda one: (-float(one["lead"]), float(one["mean_place"])))


def reliability(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Task → the share of the variance between sources that is not error of measurement: 1 - 1 / F, at least 0.

    F is the variance of the sources' leads, mean over the task's comparisons. It is 1 where sources differ by chance alone,
    as in a task that none of them has learned: such a task says nothing of their order, and its leads count for nothing.
    The factor is that of the positive-part James-Stein estimate (James & Stein 1961).
    """
    spread: dict[str, list[float]] = {}
    for (task, *_), group in _comparisons(rows).items():
        spread.setdefault(task, []).append(variance(_leads(group)) if len(group) > 1 else 0.0)
    means = {task: fmean(found) for task, found in spread.items()}
    return {task: 1 - 1 / f if f > 1 else 0.0 for task, f in means.items()}


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    """Rows that differ in nothing but their source, by task and the rest."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("source"):
            key = tuple(row[name] for name in ("task", "percent", "backbone", "objective", "mode"))
            groups.setdefault(key, []).append(row)
    return groups


def _leads(group: Sequence[Mapping[str, Any]]) -> list[float]:
    """How far each row is ahead of their mean, in standard errors; 0 for all where there is no error to measure it in."""
    values = [main_value(row) for row in group]
    mean = fmean(value["value"] for value in values)
    error = math.sqrt(fmean(((value["high"] - value["low"]) / (2 * NORMAL_95)) ** 2 for value in values))
    sign = 1 if group[0]["higher_is_better"] else -1
    return [sign * (value["value"] - mean) / error if error > 0 else 0.0 for value in values]


def ranking_sentences(rows: list[dict[str, Any]]) -> list[str]:
    """The order of the sources in a sentence, and what each task counts for in it; none where there is one source."""
    order = ranking(rows)
    if len(order) < 2:
        return []
    told = ", ".join(
        f"{n}. {one['source']} ({one['lead']:+.2f} standard errors from the sources' mean, first in {one['first']} of "
        f"{one['comparisons']})"
        for n, one in enumerate(order, 1)
    )
    weights = reliability(rows)
    if not any(weights.values()):
        return [f"Sources at equal compute: no task tells them apart; by mean place {told}."]
    counts = ", ".join(f"{task} {weight:.2f}" for task, weight in weights.items())
    return [
        f"Sources at equal compute, best first: {told}. What a task counts for, 0 where sources differ as chance would have them: {counts}."
    ]


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
