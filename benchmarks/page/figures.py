"""Figures of one experiment, each with its data: forest, label efficiency, ROC, calibration, ages, subgroups."""

from __future__ import annotations

from collections import defaultdict
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.page.story import best, kind_of, leaders, main_metric, value_of
from benchmarks.page.svg import WIDTH, Panel, picture, ticks
from benchmarks.page.tables import figure, named, shown

ROW = 38
Floats = npt.NDArray[np.float64]
Predictions = list[dict[str, str]]
DIAGONAL = ((0.0, 1.0), (0.0, 1.0))


def forest(results: dict[str, Any]) -> str:
    """Every arm's main metric with its interval, a panel per test set."""
    metric, _ = main_metric(results)
    panels, rows = [], []
    for test_set, people in results["test_sets"].items():
        known = [(arm, value) for arm in results["arms"] if (value := value_of(arm, test_set, metric)) is not None]
        panels.append(_forest_panel(f"{test_set}, {people} people: {named(metric)}", known, metric))
        rows += [(arm["name"], test_set, value) for arm, value in known]
    says = "Dots: mean over seeds; bars: 95 % interval over people and seeds. Dotted: chance."
    return figure("Arms", panels, says, f"{results['task']} arms", ("arm", "test set", named(metric)), rows)


def _forest_panel(title: str, known: list[tuple[dict[str, Any], dict[str, float]]], metric: str) -> str:
    low = min([value["low"] for _, value in known] + ([0.5] if metric == "roc_auc" else []))
    high = max(value["high"] for _, value in known)
    edge = 0.04 * (high - low or 1)
    start, scale = low - edge, (WIDTH - 8) / (high - low + 2 * edge)
    bottom = 34 + ROW * len(known)

    def x(value: float) -> float:
        return 4 + (value - start) * scale

    parts = [f'<text class="title" x="4" y="15">{escape(title)}</text>']
    if metric == "roc_auc":
        parts.append(f'<line class="chance" x1="{x(0.5):.1f}" x2="{x(0.5):.1f}" y1="24" y2="{bottom}"/>')
    for row, (arm, value) in enumerate(known):
        y, kind = 40 + ROW * row, kind_of(arm)
        parts.append(f'<text class="{kind}" x="4" y="{y}">{escape(arm["name"])}</text>')
        parts.append(f'<text x="{WIDTH - 4}" y="{y}" text-anchor="end">{value["value"]:.{_digits(metric)}f}</text>')
        parts.append(
            f'<line class="bar {kind}" x1="{x(value["low"]):.1f}" x2="{x(value["high"]):.1f}" y1="{y + 11}" y2="{y + 11}"/>'
            f'<circle class="dot {kind}" cx="{x(value["value"]):.1f}" cy="{y + 11}" r="5"><title>{escape(shown(value))}</title></circle>'
        )
    parts += [f'<text x="{x(t):.1f}" y="{bottom + 16}" text-anchor="middle">{t:g}</text>' for t in ticks(low, high, 5)]
    return picture(title, "".join(parts), bottom + 22)


def _digits(metric: str) -> int:
    return 1 if metric.startswith("mae") else 2


def share_points(results: dict[str, Any], arm: str, test_set: str, metric: str) -> list[tuple[float, dict[str, float]]]:
    """(percent of the labels, value) of an arm, in order; empty where only one percentage was run."""
    points = []
    for one in results.get("fractions", []):
        value = value_of({"metrics": one["arms"].get(arm, {})}, test_set, metric)
        if value is not None:
            points.append((float(one["percent"]), value))
    return sorted(points, key=lambda point: point[0]) if len(points) > 1 else []


def label_efficiency(results: dict[str, Any]) -> str:
    """The main metric over the share of labelled people; empty without several shares."""
    metric, _ = main_metric(results)
    panels, rows = [], []
    for test_set in results["test_sets"]:
        lines = [(arm, share_points(results, arm["name"], test_set, metric)) for arm in leaders(results, test_set)]
        lines = [(arm, points) for arm, points in lines if points]
        if not lines:
            continue
        values = [value[end] for _, points in lines for _, value in points for end in ("low", "high")]
        panel = Panel(
            f"Label efficiency, {test_set}", (0, 100), (min(values), max(values)), ("% of labels", named(metric))
        )
        for arm, points in lines:
            xs, kind = [percent for percent, _ in points], kind_of(arm)
            panel.band(xs, [v["low"] for _, v in points], [v["high"] for _, v in points], kind)
            panel.line(xs, [v["value"] for _, v in points], kind, arm["name"])
            panel.label(arm["name"], kind)
            rows += [(arm["name"], test_set, percent, value) for percent, value in points]
        panels.append(panel.svg())
    head = ("arm", "test set", "% of labels", named(metric))
    says = "The best arm of each kind; bands are 95 % intervals."
    return figure("Label efficiency", panels, says, f"{results['task']} label efficiency", head, rows) if panels else ""


def people_of(rows: Predictions, arm: str, test_set: str) -> tuple[Floats, Floats]:
    """(target, prediction averaged over seeds) ``[people]`` each of one arm on one test set."""
    people: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row["arm"] == arm and row["test_set"] == test_set:
            key = row.get("scan") or row["participant_id"]
            people[key].append((float(row["target"]), float(row["prediction"])))
    means = np.array([np.mean(values, axis=0) for values in people.values()]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def roc(results: dict[str, Any], predictions: Predictions) -> str:
    """ROC curves of the best arm of each kind, a panel per test set."""
    from sklearn.metrics import roc_curve

    panels, rows = [], []
    for test_set in results["test_sets"]:
        panel = Panel(f"ROC curve, {test_set}", *DIAGONAL, ("1 − specificity", "sensitivity"))
        panel.line((0, 1), (0, 1), "chance")
        for arm in leaders(results, test_set):
            target, score = people_of(predictions, arm["name"], test_set)
            if len(set(target)) == 2:
                false, true, _ = roc_curve(target, score)
                panel.line(false, true, kind_of(arm), arm["name"])
                panel.label(arm["name"], kind_of(arm))
                rows += [(arm["name"], test_set, float(f), float(t)) for f, t in zip(false, true, strict=True)]
        panels.append(panel.svg())
    head = ("arm", "test set", "1 − specificity", "sensitivity")
    says = f"{', '.join(results['test_sets'])}; the best arm of each kind, predictions averaged over seeds."
    return figure("ROC curves", panels, says, f"{results['task']} ROC", head, rows) if rows else ""


def calibration(results: dict[str, Any], predictions: Predictions) -> str:
    """Said against seen probability, up to ten groups of equally many people."""
    from sklearn.calibration import calibration_curve

    panels, rows = [], []
    for test_set in results["test_sets"]:
        panel = Panel(f"Calibration, {test_set}", *DIAGONAL, ("predicted probability", "share of patients"))
        panel.line((0, 1), (0, 1), "chance")
        for arm in leaders(results, test_set):
            target, score = people_of(predictions, arm["name"], test_set)
            if len(set(target)) < 2 or score.min() < 0 or score.max() > 1:
                continue
            bins = int(np.clip(len(target) // 10, 2, 10))
            seen, said = calibration_curve(target, score, n_bins=bins, strategy="quantile")
            panel.line(said, seen, kind_of(arm), arm["name"])
            for x, y in zip(said, seen, strict=True):
                panel.dot(x, y, kind_of(arm), f"{arm['name']}: said {x:.2f}, seen {y:.2f}", 3)
                rows.append((arm["name"], test_set, float(x), float(y)))
            panel.label(arm["name"], kind_of(arm))
        panels.append(panel.svg())
    head = ("arm", "test set", "predicted", "observed")
    says = f"{', '.join(results['test_sets'])}; on the dotted line a model is as sure as it should be."
    return figure("Calibration", panels, says, f"{results['task']} calibration", head, rows) if rows else ""


def ages(results: dict[str, Any], predictions: Predictions) -> str:
    """Predicted against true age of the best arm, a dot per person."""
    arm = best(results, ("pretrained",)) or best(results, ("scratch", "untrained"))
    if arm is None:
        return ""
    panels, rows = [], []
    for test_set in results["test_sets"]:
        target, said = people_of(predictions, arm["name"], test_set)
        if not len(target):
            continue
        span = (float(min(target.min(), said.min())) - 1, float(max(target.max(), said.max())) + 1)
        panel = Panel(
            f"Predicted against true age, {test_set}", span, span, ("true age, years", "predicted age, years")
        )
        panel.line(span, span, "chance")
        for x, y in zip(target, said, strict=True):
            panel.dot(x, y, kind_of(arm) + " faint", f"{x:.1f} years, predicted {y:.1f}", 3.5)
            rows.append((test_set, float(x), float(y)))
        panels.append(panel.svg())
    if not rows:
        return ""
    says = f"{arm['name']}; a dot is one person, averaged over seeds."
    return figure("Predicted and true age", panels, says, "ages", ("test set", "true age", "predicted age"), rows)


def subgroup_rows(results: dict[str, Any]) -> list[tuple[str, str, str, str, dict[str, float]]]:
    """(arm, test set, kind of group, group, value of the main metric) of every subgroup the results know."""
    metric, _ = main_metric(results)
    return [
        (one["arm"], one["test_set"], one["kind"], f"{one['group']} ({one['people']} people)", one)
        for one in results.get("subgroups", [])
        if one["metric"] == metric and one["arm"] is not None
    ]


def subgroups(results: dict[str, Any]) -> str:
    """The best arm of each kind in every subgroup; empty where results know none."""
    rows, metric = subgroup_rows(results), main_metric(results)[0]
    panels = []
    for test_set in results["test_sets"]:
        for arm in leaders(results, test_set)[:2]:
            ours = [row for row in rows if row[:2] == (arm["name"], test_set)]
            bars = [({**arm, "name": f"{row[2]} {row[3]}".strip()}, row[4]) for row in ours]
            if bars:
                panels.append(_forest_panel(f"{arm['name']}, {test_set}: {named(metric)}", bars, metric))
    head = ("arm", "test set", "attribute", "group", named(metric))
    says = "By age band, sex and site; small groups have wide intervals."
    return figure("Subgroups", panels, says, f"{results['task']} subgroups", head, rows) if panels else ""
