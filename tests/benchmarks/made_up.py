"""Made-up results of both formats, small and deterministic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from synth.keys import rng_for

SETS = {"same site": 40, "held-out site": 40}
ARMS = (("pre, frozen", "frozen", {"folder": "w"}), ("net, scratch", "full", None), ("net, untrained", "frozen", None))


def interval(value: float, half: float = 0.05) -> dict[str, float]:
    return {"value": value, "low": round(value - half, 6), "high": round(value + half, 6)}


def experiment(task: str, version: int = 1, control: float = 0.6) -> dict[str, Any]:
    """A results.json: three arms and a control on two test sets."""
    metric = "mae_years" if task == "age" else "roc_auc"
    arms = []
    for at, (name, mode, weights) in enumerate([*ARMS, ("age + sex + logistic", "control", None)]):
        value = control if mode == "control" else 0.8 - 0.1 * at
        metrics = {where: {metric: interval(10 * value if task == "age" else value)} for where in SETS}
        arm: dict[str, Any] = {"name": name, "mode": mode, "weights": weights, "metrics": metrics}
        if version == 2:
            arm["control"] = "demographics" if mode == "control" else None
            arm["site_probe"] = {"balanced_accuracy": 0.6, "chance": 0.5}
        arms.append(arm)
    more = _second_version(arms, metric) if version == 2 else {}
    return {
        "format": "brainloom-results",
        "format_version": version,
        "task": task,
        "title": f"The task {task}",
        "cohort": {"name": "people.zarr", "simulated": True, "people": 80, "parents": []},
        "protocol": {"seeds": 2},
        "fingerprint": task,
        "test_sets": dict(SETS),
        "train_people": [40],
        "arms": arms,
        "anchors": [],
        "seconds": 1.0,
        **more,
    }


def _second_version(arms: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    """What format version 2 adds, see docs/results.md."""
    first = {"test_set": next(iter(SETS)), "metric": metric}

    def shrunk(arm: dict[str, Any], percent: int) -> dict[str, Any]:
        value = next(iter(arm["metrics"].values()))[metric]["value"]
        return {where: {metric: interval(0.5 + (value - 0.5) * percent / 100)} for where in SETS}

    return {
        "main_metric": metric,
        "higher_is_better": metric == "roc_auc",
        "fractions": [
            {"percent": percent, "train_people": [percent], "arms": {a["name"]: shrunk(a, percent) for a in arms}}
            for percent in (5, 10, 25, 50, 100)
        ],
        "comparisons": [
            {**first, "arm": "pre, frozen", "other": "net, scratch", "difference": 0.1, "p": 0.01, "p_holm": 0.02}
        ],
        "subgroups": [
            {
                "test_set": where,
                "kind": "age",
                "group": group,
                "people": 9,
                "arm": arm["name"],
                "metric": metric,
                **interval(0.6),
            }
            for where in SETS
            for group in ("60–70", "70–80")
            for arm in arms
        ],
        "controls_hold": [
            {"control": "age + sex + logistic", "kind": "demographics", **first, "expectation": "worse", "held": True}
        ],
    }


def write_experiment(results: dict[str, Any], folder: Path) -> Path:
    """Write results.json and predictions.tsv as finetune run does."""
    rng = rng_for(0, 0, "made-up predictions")
    lines = ["participant_id\ttest_set\ttarget\tarm\tseed\tprediction"]
    for arm in results["arms"]:
        for where, count in SETS.items():
            for person in range(count):
                target = 50.0 + person if results["task"] == "age" else float(person % 2)
                said = (
                    target + rng.normal(0, 5) if results["task"] == "age" else 0.25 + 0.3 * target + 0.4 * rng.random()
                )
                lines += [f"p{person}\t{where}\t{target:g}\t{arm['name']}\t{seed}\t{said:.4f}" for seed in range(2)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.tsv").write_text("\n".join(lines) + "\n")
    (folder / "results.json").write_text(json.dumps(results))
    return folder
