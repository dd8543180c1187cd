"""Protocol: arms × fractions × seeds × splits under one rule, resumable, to results.json and predictions.tsv."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.arms import MODES, Arm, Mode, Protocol
from finetune.bench import Bench, External, Outcome
from finetune.cohort import Cohort
from finetune.comparisons import comparisons
from finetune.controls import control_features, controls, held
from finetune.layouts import Layout, layouts
from finetune.leaks import refuse_shared
from finetune.simple import missing_controls
from finetune.split_files import Rows, write_splits
from finetune.summary import (
    anchors,
    describe_cohort,
    metrics_of,
    predicted,
    subgroups,
    summarise,
    write_predictions,
)
from finetune.tasks import Task, participants_of
from synth.errors import UserError
from synth.storage import write_atomically

__all__ = [
    "MODES",
    "Arm",
    "Bench",
    "External",
    "Layout",
    "Mode",
    "Protocol",
    "control_features",
    "controls",
    "layouts",
    "run_experiment",
]
Floats = npt.NDArray[np.float64]
FORMAT_VERSION = 3


def run_experiment(
    cohort: Cohort,
    task: Task,
    arms: Sequence[Arm],
    protocol: Protocol,
    out: Path,
    show: Callable[[int, int], None],
    workers: int = 0,
    externals: Sequence[Cohort] = (),
) -> dict[str, Any]:
    """Run every arm and write ``results.json`` and ``predictions.tsv`` to ``out``; what is there already is kept.

    Args:
        cohort: the people.
        task: what is predicted.
        arms: to compare; names differ.
        protocol: how.
        out: folder of the results.
        show: told how many arms × fractions × seeds are done, of how many.
        workers: Ray workers; 0 works in this process.
        externals: cohorts that are only tested on.

    Raises:
        UserError: a cohort or split that does not serve the task, weights that share people with the cohort.
    """
    started = time.perf_counter()
    people, target = participants_of(task, cohort)
    plans = {
        percent: layouts(cohort, task, people, target, protocol, percent) for percent in sorted(set(protocol.fractions))
    }
    percents = list(plans)
    plan = plans[percents[-1]]
    bench = Bench(cohort, task, people, target, protocol, out, plan, _externals(cohort, task, externals))
    if len({arm.name for arm in arms}) < len(arms):
        raise UserError("two arms have one name; expected each weights folder and mode once")
    for arm in arms:
        bench.check(arm)
    bench.refuse_other_results()
    bench.warn_of_preparation(arms)
    outcomes = _outcomes(bench, arms, plans, show, workers)
    results = _results(bench, arms, plans, outcomes, target)
    results["seconds"] = round(time.perf_counter() - started, 1)
    write_splits(out / "splits.tsv", Rows(cohort, task, people, target), [layout.pool for layout in plan])
    tested = bench.tested(plan[0])
    main = {arm.name: {name: predicted(outcomes[percents[-1]][arm.name], name) for name in tested} for arm in arms}
    write_predictions(out / "predictions.tsv", bench, main, tested)
    write_atomically(out / "results.json", json.dumps(results, indent=2))
    return results


def bench_of(cohort: Cohort, task: Task, protocol: Protocol, out: Path, externals: Sequence[Cohort] = ()) -> Bench:
    """The bench of an experiment, its plan that of the largest fraction. Raises UserError as :func:`run_experiment`."""
    people, target = participants_of(task, cohort)
    plan = layouts(cohort, task, people, target, protocol, max(protocol.fractions))
    return Bench(cohort, task, people, target, protocol, out, plan, _externals(cohort, task, externals))


def _externals(cohort: Cohort, task: Task, others: Sequence[Cohort]) -> list[External]:
    names = {cohort.name}
    for other in others:
        if other.name in names:
            raise UserError(f"two cohorts are called '{other.name}'; expected external cohorts with names of their own")
        names.add(other.name)
        refuse_shared(cohort, other)
    return [External(other, *participants_of(task, other)) for other in others]


def _outcomes(
    bench: Bench,
    arms: Sequence[Arm],
    plans: dict[float, list[Layout]],
    show: Callable[[int, int], None],
    workers: int,
) -> dict[float, dict[str, list[Outcome]]]:
    """Fraction → arm → what each seed gave; features of a fresh backbone serve all fractions of a seed."""
    jobs = [(arm, seed, percent) for arm in arms for seed in range(bench.protocol.seeds) for percent in plans]
    if workers:
        from finetune.fan import fan_out

        todo = [job for job in jobs if not bench.record_path(*job).exists()]
        fan_out(bench, [(*job, plans[job[2]][job[1]]) for job in todo], workers, show)
    found: dict[float, dict[str, list[Outcome]]] = {percent: {} for percent in plans}
    for done, (arm, seed, percent) in enumerate(jobs, 1):
        outcome = bench.kept_or(arm, seed, plans[percent][seed], percent)
        found[percent].setdefault(arm.name, []).append(outcome)
        show(done, len(jobs))
    return found


def _results(
    bench: Bench,
    arms: Sequence[Arm],
    plans: dict[float, list[Layout]],
    outcomes: dict[float, dict[str, list[Outcome]]],
    target: Floats,
) -> dict[str, Any]:
    task, percents = bench.task, list(plans)
    plan, whole = plans[percents[-1]], outcomes[percents[-1]]
    tested = bench.tested(plan[0])
    rows = {percent: [summarise(arm, outcomes[percent], bench, tested) for arm in arms] for percent in percents}
    main = next(iter(metrics_of(task)))
    return {
        "format": "brainloom-results",
        "format_version": FORMAT_VERSION,
        "task": task.name,
        "title": task.title,
        "unit": None if task.is_classification else task.unit,
        "main_metric": main,
        "higher_is_better": task.is_classification,
        "cohort": describe_cohort(bench.cohort, bench.people, target, task),
        "external": [describe_cohort(one.cohort, one.rows, one.target, task) for one in bench.externals],
        "protocol": bench.protocol.plain(),
        "fingerprint": bench.fingerprint,
        "test_sets": {name: len(who) for name, who in tested.items()},
        "train_people": _train_people(bench, plan),
        "arms": rows[percents[-1]],
        "fractions": [
            {
                "percent": percent,
                "train_people": _train_people(bench, plans[percent]),
                "arms": {row["name"]: row["metrics"] for row in rows[percent]},
            }
            for percent in percents
        ],
        "comparisons": comparisons(arms, whole, bench, tested),
        "subgroups": subgroups(arms, whole, bench, tested),
        "controls_hold": held(arms, rows[percents[-1]], main, task.is_classification, next(iter(tested))),
        "missing_controls": missing_controls(bench.cohort, task, {arm.control for arm in arms}),
        "anchors": anchors(bench.cohort, task),
    }


def _train_people(bench: Bench, plan: Sequence[Layout]) -> list[int]:
    return sorted({len(set(bench.who[split.train])) for layout in plan for _, split in layout.splits})
