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

from finetune.cohort import Cohort, refuse_leak
from finetune.heads import FineTuning, full_predict, linear_predict
from finetune.metrics import CLASSIFICATION, REGRESSION, gain, with_interval
from finetune.prepare import Grid, prepare
from finetune.splits import Split, folds, pick_labels, read_split, site_split, stratify
from finetune.tasks import Task, participants_of
from synth.errors import UserError
from synth.storage import write_atomically

Floats = npt.NDArray[np.float64]
Mode = Literal["frozen", "full"]
CROSS_VALIDATION, SAME_SITES, HELD_OUT_SITE, TEST = "cross-validation", "same site", "held-out site", "test"
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
        split: a TSV with participant_id and split.
        grid: volumes' (shape, spacing in mm) for arms without weights.
        fine_tuning: of full arms.
    """

    seeds: int = 1
    folds: int = 5
    labels: int | None = None
    test_site: str | None = None
    test_share: float = 0.4
    split: Path | None = None
    grid: Grid = ((40, 48, 40), (4.0, 4.0, 4.0))
    fine_tuning: FineTuning = field(default_factory=FineTuning)


@dataclass(frozen=True, eq=False)
class Layout:
    """One seed's training and test people: every (name of the test set, split)."""

    splits: list[tuple[str, Split]]


def layouts(cohort: Cohort, task: Task, people: list[str], target: Floats, protocol: Protocol) -> list[Layout]:
    """What is trained and tested in each seed. Raises UserError for a split that cannot be made."""
    classes = task.is_classification

    def labelled(pool: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
        return pool if protocol.labels is None else pick_labels(pool, target, classes, protocol.labels, seed)

    seeds = range(protocol.seeds)
    if protocol.split is not None:
        fixed = read_split(protocol.split, people)
        return [Layout([(TEST, Split(labelled(fixed.train, seed), fixed.test))]) for seed in seeds]
    if protocol.test_site is not None:
        here, away = site_split(cohort, people, protocol.test_site)
        pool, kept = _share(here, target, classes, protocol.test_share)
        return [
            Layout(
                [(SAME_SITES, Split(labelled(pool, seed), kept)), (HELD_OUT_SITE, Split(labelled(pool, seed), away))]
            )
            for seed in seeds
        ]
    smallest = int(np.bincount(stratify(target, classes)).min())
    if not 2 <= protocol.folds <= smallest:
        raise UserError(
            f"--folds is {protocol.folds}; expected 2 to {smallest} for the {len(people)} people of this task"
        )
    made = []
    for seed in seeds:
        parts = folds(target, classes, protocol.folds, seed)
        made.append(Layout([(CROSS_VALIDATION, Split(labelled(part.train, seed), part.test)) for part in parts]))
    return made


def _share(here: npt.NDArray[np.int64], target: Floats, classes: bool, share: float) -> tuple[Any, Any]:
    """(training pool, kept for testing), the same for every seed, so that seeds differ in labels alone."""
    kept = pick_labels(here, target, classes, round(share * len(here)), seed=2**31)
    return np.setdiff1d(here, kept), kept


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
    bench = Bench(cohort, task, people, target, protocol, out)
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
        "train_people": sorted({len(split.train) for layout in plan for _, split in layout.splits}),
        "arms": [summarise(arm, task, predictions, target, bench, plan[0]) for arm in arms],
        "anchors": anchors(cohort, task),
        "seconds": round(time.perf_counter() - started, 1),
    }
    _write_predictions(out / "predictions.tsv", people, target, predictions, bench.tested(plan[0]))
    write_atomically(out / "results.json", json.dumps(results, indent=2))
    return results


class Bench:
    """One task on one cohort: prepares images once per grid, runs an arm on a layout, keeps what is done."""

    def __init__(
        self, cohort: Cohort, task: Task, people: list[str], target: Floats, protocol: Protocol, out: Path
    ) -> None:
        self.cohort, self.task, self.people, self.target = cohort, task, people, target
        self.protocol, self.out = protocol, out
        self._features: dict[Any, npt.NDArray[Any]] = {}
        self._images: dict[Grid, npt.NDArray[np.float32]] = {}
        content = [_plain(protocol), task.name, people, target.tolist(), cohort.name]
        self.fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def check(self, arm: Arm) -> None:
        """Raise UserError when an arm cannot run here: weights unreadable or leaking, backbone and grid at odds."""
        from pretrain.backbones import make_backbone
        from pretrain.weights import read_config

        if arm.weights is not None:
            for corpus in read_config(arm.weights).corpora():
                refuse_leak(self.cohort, corpus, str(arm.weights))
        elif not arm.control:
            make_backbone(arm.backbone, self.protocol.grid[0])

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
                self._images[grid] = prepare(self.cohort, self.people, grid, show)
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
        ours = predictions[arm.name][name]
        rows[name] = {metric: with_interval(function, target[who], ours) for metric, function in metrics.items()}
        scratch = predictions.get(f"{arm.backbone}, scratch")
        if scratch is not None and not arm.control and arm.name != f"{arm.backbone}, scratch":
            main = next(iter(metrics))
            rows[name]["gain_over_scratch"] = gain(metrics[main], target[who], ours, scratch[name])
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
        "people": len(people),
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


def _write_predictions(
    path: Path,
    people: list[str],
    target: Floats,
    predictions: dict[str, dict[str, Floats]],
    tested: dict[str, npt.NDArray[np.int64]],
) -> None:
    lines = ["participant_id\ttest_set\ttarget\tarm\tseed\tprediction"]
    for arm, sets in predictions.items():
        for name, seeds in sets.items():
            for seed, values in enumerate(seeds):
                lines += [
                    f"{people[who]}\t{name}\t{target[who]:g}\t{arm}\t{seed}\t{value:.6g}"
                    for who, value in zip(tested[name], values, strict=True)
                ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "\n".join(lines) + "\n")
