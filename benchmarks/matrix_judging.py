"""Judging for kind: matrix — whom the tasks are asked of, which arms are compared, and one row an arm and share of the labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.arms import MODE_NAMES, MODES, Arm, Protocol
from finetune.cohort import Cohort, load_cohort
from finetune.columns import column_map
from finetune.explain import best_frozen, explain
from finetune.protocol import bench_of, controls, run_experiment
from finetune.tasks import Task, participants_of
from synth.errors import UserError
from synth.progress import progress_bar


@dataclass(frozen=True)
class Asked:
    """Whom a task is asked of.

    Attributes:
        folder: BIDS folder or corpus.
        columns: its column map, as ``finetune run --columns`` takes it.
        external: of a cohort that is only tested on, the same two.
    """

    folder: Path
    columns: str = ""
    external: tuple[Path, str] | None = None

    def both(self) -> list[tuple[Path, str]]:
        """Folders with their columns, the one to learn from first."""
        return [(self.folder, self.columns), *([self.external] if self.external else [])]

    def cohorts(self) -> list[Cohort]:
        """Read. Raises UserError for one that cannot be."""
        return [_read(folder, columns) for folder, columns in self.both()]

    def check(self, task: Task) -> None:
        """Raise UserError for cohorts that cannot be read or do not serve the task."""
        for cohort in self.cohorts():
            participants_of(task, cohort)

    def placed(self, make: Any) -> Asked:
        """The same people elsewhere: ``make(folder)`` says where."""
        external = None if self.external is None else (make(self.external[0]), self.external[1])
        return replace(self, folder=make(self.folder), external=external)


def _read(folder: Path, columns: str) -> Cohort:
    return load_cohort(folder, column_map([word for word in columns.split(",") if word]))


def corpus_name(folder: Path) -> str:
    """Of the corpus made of a BIDS folder; two folders may be called bids."""
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:6]
    return f"{folder.name}-{key}.zarr"


def arms_of(
    backbone: str,
    inits: Mapping[str, Mapping[str, str]],
    weights: Mapping[str, Sequence[Path]],
    modes: Sequence[str],
    beside: bool = True,
) -> list[Arm]:
    """Every start in every mode, by name, those of ``inits`` and of pre-trained ``weights``, a folder for each seed of pre-training;
    ``beside`` them scratch and untrained."""
    arms = []
    if beside:
        arms += [Arm(f"{backbone}, scratch", "full", None, backbone)]
        arms += [Arm(f"{backbone}, untrained, frozen", "frozen", None, backbone)]
    started = {
        name: Arm("", "frozen", None, backbone, init=one[backbone]) for name, one in inits.items() if backbone in one
    }
    started |= {name: Arm("", "frozen", first, backbone, again=tuple(more)) for name, (first, *more) in weights.items()}
    for name, arm in started.items():
        arms += [
            replace(arm, name=f"{backbone}, {name}, {MODE_NAMES[mode]}", mode=mode) for mode in MODES if mode in modes
        ]
    return arms


def judged(
    asked: Asked, task: Task, arms: Sequence[Arm], protocol: Protocol, out: Path, workers: int = 0, beside: bool = True
) -> Iterator[dict[str, Any]]:
    """Run a task's experiment in ``out``; its rows. ``beside``: with its controls and a map of where the best frozen arm looks.

    Raises:
        UserError: as :func:`finetune.protocol.run_experiment`.
    """
    people, *others = asked.cohorts()
    everybody = [*arms, *(controls(people, task, arms) if beside else [])]
    with progress_bar(task.name, "arms × seeds") as show:
        found = run_experiment(people, task, everybody, protocol, out, show, workers, others)
    if beside and not any(out.glob("explanations/*.png")):  # the last file of an explanation
        explain(best_frozen(everybody, found), bench_of(people, task, protocol, out, others), out)
    about = {arm["name"]: arm for arm in found["arms"]}
    for share in found["fractions"]:
        for name, metrics in share["arms"].items():
            told = {key: about[name][key] for key in ("name", "mode", "control", "backbone")}
            told["weights"] = (about[name]["weights"] or {}).get("folder")
            yield {
                "task": task.name,
                "main_metric": found["main_metric"],
                "higher_is_better": found["higher_is_better"],
                "percent": share["percent"],
                "learnt_from": share["train_people"],
                **told,
                "metrics": metrics,
            }


def check_starts(inits: Mapping[str, Mapping[str, str]], shape: Sequence[int]) -> None:
    """Raise UserError for a start that is not there or does not fit its backbone, before hours are spent."""
    from pretrain.starts import make_start

    d, h, w = shape
    for word, init in [pair for one in inits.values() for pair in one.items()]:
        make_start(init, word, (d, h, w))


def servable(tasks: Sequence[Task], asked: Mapping[str, Asked]) -> dict[str, str]:
    """Task → why its cohort does not serve it; raises UserError where that is so of every task."""
    found = {}
    for task in tasks:
        try:
            asked[task.name].check(task)
        except UserError as error:
            found[task.name] = str(error)
    if len(found) == len(tasks):
        raise UserError(next(iter(found.values())))
    return found
