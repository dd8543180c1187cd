"""Protocol: arms × seeds × splits under one rule, resumable, to results.json and predictions.tsv."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from finetune.cohort import Cohort
from finetune.heads import FineTuning, full_predict, linear_predict
from finetune.layouts import Layout, layouts
from finetune.leaks import refuse_leak, refuse_twins
from finetune.metrics import CLASSIFICATION, REGRESSION, gain, with_interval
from finetune.prepare import Grid, prepare
from finetune.split_files import Rows, write_splits
from finetune.splits import Persons, Split
from finetune.tasks import Task, participants_of
from synth.errors import UserError
from synth.storage import write_atomically

Floats = npt.NDArray[np.float64]
Mode = Literal["frozen", "full"]
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Arm:
    """One initialisation under the protocol. ``weights`` None: a fresh ``backbone``. ``control``: a model without network."""

    name: str
    mode: Mode = "frozen"
    weights: Path | None = None
    backbone: str = "sfcn_s"
    control: Literal["", "volumes", "demographics", "mean"] = ""


@dataclass(frozen=True)
class Protocol:
    """How arms are compared.

    Attributes:
        seeds: repetitions; each draws its own folds or labelled people, and its own initialisation.
        folds: of the cross-validation, used when there is neither ``test_site`` nor ``split``.
        labels: at most so many labelled people to learn from; all if None.
        test_site: people of this site are only tested on.
        test_share: with ``test_site``, share of the other sites kept for testing too.
        split: a TSV with participant_id and split (:func:`finetune.split_files.read_splits`).
        fold_by: folds of participants, or of whole sites.
        grid: volumes' (shape, spacing in mm) for arms without weights.
        fine_tuning: of full arms.
    """

    seeds: int = 1
    folds: int = 5
    labels: int | None = None
    test_site: str | None = None
    test_share: float = 0.4
    split: Path | None = None
    fold_by: Literal["participant", "site"] = "participant"
    grid: Grid = ((40, 48, 40), (4.0, 4.0, 4.0))
    fine_tuning: FineTuning = field(default_factory=FineTuning)


def run_experiment(
    cohort: Cohort, task: Task, arms: Sequence[Arm], protocol: Protocol, out: Path, show: Callable[[int, int], None]
) -> dict[str, Any]:
    """Run every arm and write ``results.json`` and ``predictions.tsv`` to ``out``; what is there already is kept.

    Raises:
        UserError: a cohort or split that does not serve the task, weights that share people with the cohort.
    """
    started = time.perf_counter()
    people, target = participants_of(task, cohort)
    plan = layouts(cohort, task, people, target, protocol)
    bench = Bench(cohort, task, people, target, protocol, out, plan)
    for arm in arms:
        bench.check(arm)
    bench.refuse_other_results()
    predictions: dict[str, dict[str, Floats]] = {}
    total = len(arms) * protocol.seeds
    for number, arm in enumerate(arms):
        seeds = []
        for seed, layout in enumerate(plan):
            seeds.append(bench.kept_or(arm, seed, layout))
            show(number * protocol.seeds + seed + 1, total)
        predictions[arm.name] = {name: np.array([one[name] for one in seeds]) for name in seeds[0]}
    results = {
        "format": "brainloom-results",
        "format_version": FORMAT_VERSION,
        "task": task.name,
        "title": task.title,
        "cohort": describe_cohort(cohort, people, target, task),
        "protocol": _plain(protocol),
        "fingerprint": bench.fingerprint,
        "test_sets": {name: len(next(iter(predictions.values()))[name][0]) for name in bench.tested(plan[0])},
        "train_people": sorted({len(set(bench.who[split.train])) for layout in plan for _, split in layout.splits}),
        "arms": [summarise(arm, task, predictions, target, bench, plan[0]) for arm in arms],
        "anchors": anchors(cohort, task),
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_splits(out / "splits.tsv", Rows(cohort, task, people, target), [layout.pool for layout in plan])
    _write_predictions(out / "predictions.tsv", cohort, people, target, predictions, bench.tested(plan[0]))
    write_atomically(out / "results.json", json.dumps(results, indent=2))
    return results


class Bench:
    """One task on one cohort: prepares images once per grid, runs an arm on a layout, keeps what is done."""

    def __init__(
        self,
        cohort: Cohort,
        task: Task,
        people: list[str],
        target: Floats,
        protocol: Protocol,
        out: Path,
        plan: Sequence[Layout] = (),
    ) -> None:
        self.cohort, self.task, self.people, self.target = cohort, task, people, target
        self.protocol, self.out, self.plan = protocol, out, plan
        self.who = Persons(cohort.people(people)).of_rows
        self._features: dict[Any, npt.NDArray[Any]] = {}
        self._images: dict[Grid, npt.NDArray[np.float32]] = {}
        content: list[Any] = [_known_before(protocol), task.name, people, target.tolist(), cohort.name]
        content += [cohort.choices()] if cohort.choices() else []
        if protocol.split is not None:  # the same name may hold another split tomorrow
            content.append(protocol.split.read_text(errors="replace"))
        self.fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def check(self, arm: Arm) -> None:
        """Raise UserError when an arm cannot run here: weights unreadable or leaking, backbone and grid at odds."""
        from pretrain.backbones import make_backbone
        from pretrain.weights import read_config

        if arm.weights is not None:
            for corpus in read_config(arm.weights).corpora():
                refuse_leak(self.cohort, corpus, str(arm.weights), self.tested_people())
        elif not arm.control:
            make_backbone(arm.backbone, self.protocol.grid[0])

    def tested_people(self) -> set[str] | None:
        """Participants who are tested in some split; None, which is everybody, without a plan."""
        tested = {self.people[at] for layout in self.plan for _, split in layout.splits for at in split.test}
        return set(self.cohort.people(tested)) if self.plan else None

    def refuse_other_results(self) -> None:
        """Raise UserError when ``out`` holds results of another experiment."""
        path = self.out / "results.json"
        if path.exists() and json.loads(path.read_text()).get("fingerprint") != self.fingerprint:
            raise UserError(
                f"'{self.out}' holds results of another experiment (cohort, task or protocol differ); choose another --out"
            )

    def tested(self, layout: Layout) -> dict[str, npt.NDArray[np.int64]]:
        """Test set → positions of its people in order, the same for every seed."""
        sets: dict[str, list[npt.NDArray[np.int64]]] = {}
        for name, split in layout.splits:
            sets.setdefault(name, []).append(split.test)
        return {name: np.sort(np.concatenate(parts)) for name, parts in sets.items()}

    def kept_or(self, arm: Arm, seed: int, layout: Layout) -> dict[str, Floats]:
        """Predictions of one arm and seed, from the file an earlier run left or made now."""
        identity = arm.weights.resolve().name if arm.weights else ""
        if arm.weights is not None:
            identity += hashlib.sha256((arm.weights / "model.safetensors").read_bytes()).hexdigest()
        key = hashlib.sha256(
            json.dumps([self.fingerprint, asdict(arm) | {"weights": identity}, seed], default=str).encode()
        ).hexdigest()
        path = self.out / "arms" / f"{key[:20]}.json"
        if path.exists():
            return {name: np.array(values) for name, values in json.loads(path.read_text()).items()}
        predicted = self.predict(arm, seed, layout)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({name: values.tolist() for name, values in predicted.items()}))
        return predicted

    def predict(self, arm: Arm, seed: int, layout: Layout) -> dict[str, Floats]:
        """Test set → prediction for each of its people, in position order."""
        full: dict[str, Floats] = {name: np.full(len(self.people), np.nan) for name, _ in layout.splits}
        features = None if arm.mode == "full" and not arm.control else self.features(arm, seed)
        for train, parts in _by_training(layout):
            test = np.concatenate([split.test for _, split in parts])
            predicted = self._predict_split(arm, seed, features, train, test)
            for name, split in parts:
                full[name][split.test] = predicted[np.isin(test, split.test)]
        return {name: full[name][who] for name, who in self.tested(layout).items()}

    def _predict_split(
        self,
        arm: Arm,
        seed: int,
        features: npt.NDArray[Any] | None,
        train: npt.NDArray[np.int64],
        test: npt.NDArray[np.int64],
    ) -> Floats:
        import torch

        classes = self.task.is_classification
        if arm.control == "mean":
            return np.full(len(test), self.target[train].mean())
        if features is not None:
            return linear_predict(features[train], self.target[train], features[test], classes, seed)
        backbone, grid = self.backbone(arm, seed)
        images = torch.from_numpy(self.images(grid))
        tuning = self.protocol.fine_tuning
        return full_predict(backbone, images[train], self.target[train], images[test], classes, seed, tuning)

    def backbone(self, arm: Arm, seed: int) -> tuple[Any, Grid]:
        """The arm's backbone as it starts, and the grid it takes."""
        from pretrain.backbones import make_backbone
        from pretrain.weights import load_weights

        if arm.weights is None:
            return make_backbone(arm.backbone, self.protocol.grid[0], seed=seed), self.protocol.grid
        backbone, about = load_weights(arm.weights)
        return backbone, (about.shape, about.spacing)

    def images(self, grid: Grid) -> npt.NDArray[np.float32]:
        """Every participant's volume on ``grid``, prepared once."""
        if grid not in self._images:
            from synth.progress import progress_bar

            with progress_bar(f"prepare {self.cohort.name}", "scans") as show:
                digests: dict[str, str] = {}
                images = prepare(self.cohort, self.people, grid, show, digests)
            splits = (split for layout in self.plan for _, split in layout.splits)
            refuse_twins(self.cohort, self.people, digests, splits)
            self._images[grid] = images
        return self._images[grid]

    def features(self, arm: Arm, seed: int) -> npt.NDArray[Any]:
        """``[people, F]``: a frozen backbone's, or a control's columns."""
        import torch

        from pretrain.train import embed

        if arm.control == "mean":
            return np.zeros((len(self.people), 1))
        if arm.control:
            return control_features(self.cohort, self.people, arm.control, self.task)
        key = (arm.weights, arm.backbone, None if arm.weights else seed)  # weights give the same features at every seed
        if key not in self._features:
            backbone, grid = self.backbone(arm, seed)
            self._features = {key: embed(backbone, torch.from_numpy(self.images(grid))).numpy()}
        return self._features[key]


def _by_training(layout: Layout) -> Iterator[tuple[npt.NDArray[np.int64], list[tuple[str, Split]]]]:
    """Splits with the same training people together, so that a model is trained once for all its test sets."""
    groups: dict[bytes, list[tuple[str, Split]]] = {}
    for name, split in layout.splits:
        groups.setdefault(split.train.tobytes(), []).append((name, split))
    for parts in groups.values():
        yield parts[0][1].train, parts


def control_features(cohort: Cohort, people: list[str], control: str, task: Task) -> npt.NDArray[np.float64]:
    """Columns of a control: log regional volumes (sides summed) with sex, or age and sex (sex alone for brain age)."""
    table = cohort.table.loc[people]
    columns: list[npt.NDArray[np.float64]] = []
    if "sex" in table.columns:
        columns.append((table["sex"].astype(str).str.upper().str[:1] == "M").to_numpy().astype(np.float64))
    if task.is_classification and "age" in table.columns:
        columns.append(table["age"].to_numpy(float))
    if control == "volumes":
        sums: dict[str, npt.NDArray[np.float64]] = {}
        for name in [str(name) for name in table.columns if str(name).startswith("volume_")]:
            structure = name.removeprefix("volume_").removeprefix("left_").removeprefix("right_")
            sums[structure] = sums.get(structure, np.zeros(len(table))) + table[name].fillna(0).to_numpy(float)
        columns += [np.log(np.maximum(values, 1.0)) for values in sums.values()]
    return np.stack(columns, axis=1) if columns else np.zeros((len(table), 1))


def controls(cohort: Cohort, task: Task) -> list[Arm]:
    """The rows every table has: regional volumes + linear model where volumes are known, and a model without a scan."""
    arms = []
    if any(str(name).startswith("volume_") for name in cohort.table.columns):
        arms.append(Arm(f"regional volumes + {'logistic' if task.is_classification else 'ridge'}", control="volumes"))
    if task.is_classification:
        arms.append(Arm("age + sex + logistic", control="demographics"))
    else:
        arms.append(Arm("predicting the mean", control="mean"))
    return arms


def summarise(
    arm: Arm, task: Task, predictions: dict[str, dict[str, Floats]], target: Floats, bench: Bench, layout: Layout
) -> dict[str, Any]:
    """An arm's row: metrics with intervals per test set, gain over scratch where a scratch arm of its backbone ran."""
    metrics = CLASSIFICATION if task.is_classification else REGRESSION
    rows: dict[str, Any] = {}
    for name, who in bench.tested(layout).items():
        ours, whose = predictions[arm.name][name], bench.who[who]
        rows[name] = {metric: with_interval(function, target[who], ours, whose) for metric, function in metrics.items()}
        scratch = predictions.get(f"{arm.backbone}, scratch")
        if scratch is not None and not arm.control and arm.name != f"{arm.backbone}, scratch":
            main = next(iter(metrics))
            rows[name]["gain_over_scratch"] = gain(metrics[main], target[who], ours, scratch[name], whose)
    return {
        "name": arm.name,
        "mode": "control" if arm.control else arm.mode,
        "backbone": arm.backbone if not arm.control else None,
        "weights": _pedigree(arm),
        "metrics": rows,
    }


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
    }


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


def _plain(protocol: Protocol) -> dict[str, Any]:
    fields = asdict(protocol)
    return {
        **fields,
        "split": str(protocol.split) if protocol.split else None,
        "grid": [list(part) for part in protocol.grid],
    }


def _known_before(protocol: Protocol) -> dict[str, Any]:
    """The protocol as earlier versions knew it, so that what they left unfinished goes on."""
    return {name: value for name, value in _plain(protocol).items() if (name, value) != ("fold_by", "participant")}


def _write_predictions(
    path: Path,
    cohort: Cohort,
    people: list[str],
    target: Floats,
    predictions: dict[str, dict[str, Floats]],
    tested: dict[str, npt.NDArray[np.int64]],
) -> None:
    """One row a prediction; where people have several rows the scan's name stands last."""
    lines = ["participant_id\ttest_set\ttarget\tarm\tseed\tprediction" + ("\tscan" if cohort.persons else "")]
    names = cohort.people(people)
    for arm, sets in predictions.items():
        for name, seeds in sets.items():
            for seed, values in enumerate(seeds):
                lines += [
                    f"{names[who]}\t{name}\t{target[who]:g}\t{arm}\t{seed}\t{value:.6g}"
                    + (f"\t{people[who]}" if cohort.persons else "")
                    for who, value in zip(tested[name], values, strict=True)
                ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "\n".join(lines) + "\n")
