"""Results: an arm's row, subgroups, who was in it, and the table of predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.arms import Arm
from finetune.bench import Bench, Outcome
from finetune.cohort import Cohort
from finetune.metrics import (
    CLASSIFICATION,
    REGRESSION,
    Metric,
    calibration,
    gain,
    mean_absolute_error,
    mean_gap,
    sensitivity,
    specificity,
    with_interval,
)
from finetune.shuffled import interval_of_mean
from finetune.tasks import Task
from synth.storage import write_atomically

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Outcomes = dict[str, list[Outcome]]
"""Arm → what each seed gave."""
STAGES = ("hoehn_yahr", "stage", "hy", "NHY")
CALLED = ("balanced_accuracy", "f1")  # of classes called, not of probabilities
FEWEST, GROUP_DRAWS = 5, 200  # people of a subgroup; draws of its interval


def metrics_of(task: Task) -> dict[str, Metric]:
    """The task's metrics, the main one first; years stand in a name only where the unit is years."""
    if task.is_classification:
        return CLASSIFICATION
    return {("mae" if name == "mae_years" and task.unit != "years" else name): m for name, m in REGRESSION.items()}


def predicted(outcomes: Sequence[Outcome], test_set: str) -> Floats:
    """``[seeds, n]``."""
    return np.array([one.predictions[test_set] for one in outcomes])


def called_one(outcomes: Sequence[Outcome], test_set: str) -> Floats:
    """``[seeds, n]``: 1 where the probability is above the training prevalence, which is 0.5 of balanced classes."""
    said = predicted(outcomes, test_set)
    bars = [one.prevalence.get(test_set, np.full(said.shape[1], 0.5)) for one in outcomes]
    return np.asarray(said > np.array(bars), np.float64)


def summarise(arm: Arm, outcomes: Outcomes, bench: Bench, tested: dict[str, Ints]) -> dict[str, Any]:
    """An arm's row: metrics with intervals per test set, gain over scratch where a scratch arm of its backbone ran."""
    rows, curves = {}, {}
    for name, who in tested.items():
        rows[name] = _figures(arm, outcomes, bench, name, who)
        if bench.task.is_classification:
            curves[name] = calibration(bench.target[who], predicted(outcomes[arm.name], name))
    return {
        "name": arm.name,
        "mode": "control" if arm.control else arm.mode,
        "control": arm.control or None,
        "backbone": arm.backbone if not arm.without_network else None,
        "weights": _pedigree(arm) if not arm.control else None,
        "start": _start(arm, bench),
        "metrics": rows,
        "calibration": curves or None,
        "chosen": [one.chosen for one in outcomes[arm.name]],
        "site_probe": outcomes[arm.name][0].site,
        "seconds": round(sum(one.seconds for one in outcomes[arm.name]), 1),
    }


def _figures(arm: Arm, outcomes: Outcomes, bench: Bench, name: str, who: Ints) -> dict[str, dict[str, float]]:
    target, whose, ours = bench.target[who], bench.who[who], predicted(outcomes[arm.name], name)
    aside = np.array([one.aside[name] for one in outcomes[arm.name]])
    metrics = metrics_of(bench.task)
    called = called_one(outcomes[arm.name], name)
    found = {
        metric: with_interval(function, target, called if metric in CALLED else ours, whose)
        for metric, function in metrics.items()
    }
    for start in ("scratch", "untrained, frozen"):
        other = f"{arm.backbone}, {start}"
        if other in outcomes and not arm.control and arm.name != other:
            theirs = predicted(outcomes[other], name)
            key = f"gain_over_{start.partition(',')[0]}"
            found[key] = gain(next(iter(metrics.values())), target, ours, theirs, whose)
    if bench.task.is_classification:
        found["sensitivity_at_90_specificity"] = with_interval(sensitivity, target, aside, whose)
        found["specificity_there"] = with_interval(specificity, target, aside, whose)
    else:
        found["corrected_gap"] = with_interval(mean_gap, target, aside, whose)
        found["corrected_mae"] = with_interval(mean_absolute_error, target, aside, whose)
    if arm.control == "shuffled":  # not of the first permutation alone, which is one random direction
        figures = np.array([value for one in outcomes[arm.name] for value in one.permuted.get(name, [])])
        found["roc_auc" if bench.task.is_classification else "r"] = interval_of_mean(figures)
    return found


def subgroups(arms: Sequence[Arm], outcomes: Outcomes, bench: Bench, tested: dict[str, Ints]) -> list[dict[str, Any]]:
    """The main metric by age band, sex, site and stage: patients of a stage stand against everybody of class 0."""
    main, metric = next(iter(metrics_of(bench.task).items()))
    found = []
    for test_set, who in tested.items():
        for kind, group, inside in _groups(bench, who):
            target, whose = bench.target[who][inside], bench.who[who][inside]
            people = len(np.unique(whose))
            if people < FEWEST or (bench.task.is_classification and len(np.unique(target)) < 2):
                continue
            for arm in (arm for arm in arms if not arm.control):
                ours = predicted(outcomes[arm.name], test_set)[:, inside]
                figure = with_interval(metric, target, ours, whose, GROUP_DRAWS)
                about = {"test_set": test_set, "kind": kind, "group": group, "people": people}
                found.append({**about, "arm": arm.name, "metric": main, **figure})
    return found


def _groups(bench: Bench, who: Ints) -> list[tuple[str, str, npt.NDArray[np.bool_]]]:
    import pandas as pd

    table = _table(bench, who)
    found = []
    if "age" in table.columns:
        bands = pd.to_numeric(table["age"], errors="coerce") // 10 * 10
        found += [
            ("age", f"{band:.0f}-{band + 9:.0f}", (bands == band).to_numpy())
            for band in sorted(bands.dropna().unique())
        ]
    for kind in ("sex", "site"):
        if kind in table.columns:
            words = table[kind].astype(str)
            found += [(kind, word, (words == word).to_numpy()) for word in sorted(words.unique())]
    stage = next((name for name in STAGES if name in table.columns), None)
    if bench.task.is_classification and stage is not None:
        stages, healthy = pd.to_numeric(table[stage], errors="coerce").to_numpy(), bench.target[who] < 0.5
        for one in np.unique(stages[~healthy & np.isfinite(stages) & (stages > 0)]):
            found.append(("stage", f"{one:g}", healthy | (stages == one)))
    return found


def _table(bench: Bench, who: Ints) -> Any:
    """The rows of people, all of one cohort, in that cohort's table."""
    first, sets = 0, [(bench.cohort, bench.people), *((one.cohort, one.rows) for one in bench.externals)]
    while who.max() >= first + len(sets[0][1]):
        first += len(sets.pop(0)[1])
    cohort, rows = sets[0]
    return cohort.table.loc[[rows[at - first] for at in who]]


def _pedigree(arm: Arm) -> dict[str, Any] | None:
    from pretrain.weights import read_config

    if arm.weights is None:
        return None
    about = read_config(arm.weights)
    return {
        "folder": arm.weights.name,
        "objective": about.objective,
        "training": about.training,
        "figures": about.figures,
        "corpus": about.corpus,
        **({"again": [folder.name for folder in arm.again]} if arm.again else {}),
    }


def _start(arm: Arm, bench: Bench) -> dict[str, Any] | None:
    """Of an arm that begins with others' weights and was not pre-trained here."""
    told = None if arm.is_fresh or arm.weights is not None else bench.start(arm)
    return None if told is None else {key: told[key] for key in ("source", "kind", "notes")}


def anchors(cohort: Cohort, task: Task) -> list[dict[str, Any]]:
    """Figures known for this data set from elsewhere, marked as such; none for most."""
    known = json.loads((resources.files("finetune") / "anchors.json").read_text())
    return [row for row in known if cohort.name.startswith(row["data_set"]) and row["task"] == task.name]


def describe_cohort(cohort: Cohort, people: list[str], target: Floats, task: Task) -> dict[str, Any]:
    """Who was in it, for results and report."""
    about: dict[str, Any] = {
        "name": cohort.name,
        "simulated": cohort.simulated,
        "people": len(set(cohort.people(people))),
        **({"scans": len(people)} if cohort.persons else {}),
        **cohort.choices(),
        "parents": cohort.parents,
    }
    if task.is_classification:
        about["patients"] = int(target.sum())
    else:
        about["age"] = {"mean": float(target.mean()), "min": float(target.min()), "max": float(target.max())}
    if "site" in cohort.table.columns:
        about["sites"] = {str(k): int(v) for k, v in cohort.table.loc[people, "site"].value_counts().items()}
    return about


def write_predictions(
    path: Path, bench: Bench, predictions: dict[str, dict[str, Floats]], tested: dict[str, Ints]
) -> None:
    """One row a prediction of the largest fraction; where people have several rows the scan's name stands last."""
    rows = bench.people + [row for one in bench.externals for row in one.rows]
    names = bench.cohort.people(bench.people) + [n for one in bench.externals for n in one.cohort.people(one.rows)]
    scans = bool(bench.cohort.persons)
    lines = ["participant_id\ttest_set\ttarget\tarm\tseed\tprediction" + ("\tscan" if scans else "")]
    for arm, sets in predictions.items():
        for name, seeds in sets.items():
            for seed, values in enumerate(seeds):
                lines += [
                    f"{names[who]}\t{name}\t{bench.target[who]:g}\t{arm}\t{seed}\t{value:.6g}"
                    + (f"\t{rows[who]}" if scans else "")
                    for who, value in zip(tested[name], values, strict=True)
                ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "\n".join(lines) + "\n")
