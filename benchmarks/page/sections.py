"""Sections of the report page."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page import figures, tables
from benchmarks.page.story import Story, kind_of, main_metric, read_predictions, value_of
from benchmarks.page.svg import Panel
from pretrain.weights import read_config
from synth.corpus import Corpus
from synth.provenance import origin


def said_plainly(results: list[dict[str, Any]], story: Story) -> str:
    """What was simulated and what was real, in words."""
    lines = []
    for path in story.corpora:
        corpus = Corpus(path)
        generator = corpus.header.recipe["generator"]
        made = f"{len(corpus)} volumes made by the generator {generator['class_path']}, seed {corpus.header.seed}"
        shown = (
            "scans of real people, none of which is shown here"
            if origin(corpus) == "real"
            else "no person was scanned for them"
        )
        lines.append(f"The corpus {path.name} holds {made}: {shown}.")
    for name, simulated in {one["cohort"]["name"]: one["cohort"]["simulated"] for one in results}.items():
        lines.append(
            f"The cohort {name} is simulated: its people, their ages, diagnoses and scanners were drawn by a generator from "
            "published effect sizes. What is measured on it shows that the pipeline works; it is never evidence about patients."
            if simulated
            else f"The cohort {name} holds real people; the scans were prepared on this machine and no single one of them is shown here."
        )
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="warning"><strong>What was simulated</strong><ul>{items}</ul></div>'


def experiment(results: dict[str, Any], folder: Path, number: int) -> str:
    """One experiment: its tables, its figures, and what else its results know."""
    about, people = results["cohort"], results["train_people"]
    labels = f"{people[0]}" if len(set(people)) == 1 else f"{people[0]}–{people[-1]}"
    predictions, metric = read_predictions(folder), main_metric(results)[0]
    parts = [
        f'<section><h2 id="run-{number}">{escape(results["title"])}</h2>',
        f"<p>{about['people']} {'simulated' if about['simulated'] else 'real'} people of {escape(about['name'])}; each model "
        f"learnt from {labels} labelled people; {results['protocol']['seeds']} seed(s), each with its own labelled people and "
        "initialisation; 95 % intervals by bootstrap over people and seeds.</p>",
        *(arms(results, name) for name in results["test_sets"]),
        figures.forest(results),
        figures.label_efficiency(results),
        figures.roc(results, predictions) if metric == "roc_auc" else "",
        figures.calibration(results, predictions) if metric == "roc_auc" else "",
        figures.ages(results, predictions) if metric == "mae_years" else "",
        figures.subgroups(results),
        *(records(results, name) for name in ("comparisons", "controls_hold")),
        site_probes(results),
        explanations(folder),
        *(anchor(row) for row in results.get("anchors", [])),
    ]
    return "".join(parts) + "</section>"


def anchor(row: dict[str, Any]) -> str:
    """A figure known from elsewhere."""
    return (
        f"<p>Anchor from elsewhere, not measured here: {escape(row['name'])}, {row['mae_years']} years MAE "
        f"({escape(row['source'])}).</p>"
    )


def arms(results: dict[str, Any], test_set: str) -> str:
    """Arms as rows, metrics with intervals as columns, the best value of the main metric in bold."""
    metric, higher = main_metric(results)
    known = [name for arm in results["arms"] for name in arm["metrics"].get(test_set, {})]
    order = list(tables.METRICS)
    names = sorted(
        {name for name in known if any(value_of(arm, test_set, name) for arm in results["arms"])},
        key=lambda name: order.index(name) if name in order else len(order),
    )
    values = [(value_of(arm, test_set, metric) or {"value": np.nan})["value"] for arm in results["arms"]]
    top = np.nanmax(values) if higher else np.nanmin(values)
    rows = [[arm["name"], *(value_of(arm, test_set, name) for name in names)] for arm in results["arms"]]
    classes = [
        kind_of(arm) + (" best" if value == top else "") for arm, value in zip(results["arms"], values, strict=True)
    ]
    caption = f"{test_set}, {results['test_sets'][test_set]} people tested"
    return tables.table(caption, ["arm", *map(tables.named, names)], rows, classes)


def records(results: dict[str, Any], name: str) -> str:
    """A list of flat records (paired tests, controls) as a table; empty where there is none."""
    given = results.get(name)
    if not isinstance(given, list) or not given or not all(isinstance(one, dict) for one in given):
        return ""
    head = list(dict.fromkeys(key for one in given for key in one))
    rows: list[Sequence[Any]] = [[one.get(key) for key in head] for one in given]
    return tables.data(f"{results['task']} {name.replace('_', ' ')}", [key.replace("_", " ") for key in head], rows)


def site_probes(results: dict[str, Any]) -> str:
    """How well every arm's frozen features tell the site; empty where it was not asked."""
    known = [(arm["name"], arm["site_probe"]) for arm in results["arms"] if arm.get("site_probe")]
    rows = [(name, one["balanced_accuracy"], one["chance"]) for name, one in known]
    head = ("arm", "balanced accuracy", "chance")
    return tables.data(f"{results['task']} site told from features", head, rows) if rows else ""


def explanations(folder: Path) -> str:
    """Where frozen arms look, averaged over the people of a group; the maps are one click away. Empty where none was drawn."""
    parts = []
    for picture in sorted(folder.glob("explanations/*.png")):
        image, maps = (base64.b64encode(one.read_bytes()).decode() for one in (picture, picture.with_suffix(".npz")))
        about = (
            "Mean absolute gradient of the score with respect to the voxels, over the mean image of the tested people"
        )
        parts.append(
            f'<figure><h3>Where {escape(picture.stem)} looks</h3><img alt="{about}, a row a group" '
            f'src="data:image/png;base64,{image}"><figcaption>{about}; sagittal, coronal, axial. '
            f'<a download="{escape(picture.stem)}.npz" href="data:application/zip;base64,{maps}">Maps, a NumPy array a '
            "group</a></figcaption></figure>"
        )
    return "".join(parts)


def learning(story: Story) -> str:
    """Pre-training: loss curves and figures on held-out synthetic volumes."""
    if not story.weights:
        return ""
    panels, rows = [], []
    for folder in story.weights:
        path = folder / "log" / "version_0" / "metrics.csv"
        logged = list(csv.DictReader(path.open())) if path.is_file() else []
        points = [(int(row["step"]), float(row["loss"])) for row in logged if row.get("loss")]
        if len(points) > 1:
            steps, losses = zip(*points, strict=True)
            span = (min(losses), max(losses))
            panel = Panel(f"Training loss, {folder.name}", (steps[0], steps[-1]), span, ("step", "loss"))
            panel.line(steps, losses, "pretrained", folder.name)
            panels.append(panel.svg())
            rows += [(folder.name, *point) for point in points]
    drawn = tables.figure("Loss", panels, "Training loss over steps.", "loss", ("weights", "step", "loss"), rows)
    said = "".join(map(_weights, story.weights))
    return f'<section aria-labelledby="learning"><h2 id="learning">Pre-training</h2>{drawn if rows else ""}{said}</section>'


def _weights(folder: Path) -> str:
    about = read_config(folder)
    shown = ", ".join(f"{escape(name)} {escape(str(value))}" for name, value in about.figures.items())
    speed = about.training.get("volumes_per_second")
    return (
        f"<p><strong>{escape(folder.name)}</strong>: {escape(about.backbone)}, {escape(about.objective)}, "
        f"{about.training.get('steps')} steps of {about.training.get('batch_size')}, {speed} volumes/s. Held-out: {shown}.</p>"
    )


def provenance(results: dict[str, dict[str, Any]], story: Story) -> dict[str, Any]:
    """Everything needed to make it again, seeds included; ``results`` by the name of their run."""
    corpora = {path.name: Corpus(path) for path in story.corpora}
    return {
        "corpora": {
            name: {**one.header.recipe, "seed": one.header.seed, "count": len(one), "versions": one.header.versions}
            for name, one in corpora.items()
        },
        "weights": {folder.name: read_config(folder).training for folder in story.weights},
        "protocol": {name: one["protocol"] for name, one in results.items()},
        "cohorts": {name: one["cohort"].get("parents", []) for name, one in results.items()},
        "fingerprints": {name: one.get("fingerprint") for name, one in results.items()},
        "versions": {name: version(name) for name in ("brainloom", "torch", "monai", "scikit-learn")},
    }


def recipe(content: dict[str, Any]) -> str:
    """Provenance as it is, one click away."""
    text = escape(json.dumps(content, indent=1))
    return (
        '<section aria-labelledby="recipe"><h2 id="recipe">Recipe</h2><p>Generators, weights, protocol and every seed.</p>'
        f'<details><summary>Everything needed to make it again</summary><pre tabindex="0">{text}</pre></details></section>'
    )


def timings(results: list[dict[str, Any]], story: Story) -> str:
    """Seconds per stage."""
    seconds = {**story.timings} or {f"finetune {one['task']}": one["seconds"] for one in results}
    rows = [(name, round(spent)) for name, spent in seconds.items()] + [("in all", round(sum(seconds.values())))]
    head = ("stage", "seconds")
    return f'<section aria-labelledby="timings"><h2 id="timings">Timings</h2>{tables.table("Seconds", head, rows)}</section>'
