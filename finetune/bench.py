"""One task on one cohort: images prepared once a grid, an arm run on a layout, what is done kept in a small file."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.arms import Arm, Protocol
from finetune.cohort import Cohort
from finetune.controls import planted
from finetune.heads import Fitted, fit_knn, fit_linear
from finetune.layouts import Layout
from finetune.leaks import refuse_leak, refuse_twins
from finetune.metrics import age_correction, corrected, threshold_at
from finetune.prepare import Grid, prepare, warn_if_prepared_otherwise
from finetune.records import Outcome, read_record
from finetune.shuffled import PERMUTATIONS, means_over_splits, penalty_of, permuted_figures, shuffled_labels
from finetune.simple import control_columns
from finetune.splits import Persons, Split
from finetune.tasks import Task
from synth.errors import UserError
from synth.storage import write_atomically

__all__ = ["Bench", "External", "Outcome"]
Floats = npt.NDArray[np.float64]
RECORD_VERSION = 3


@dataclass(frozen=True, eq=False)
class External:
    """A cohort that is only tested on, whole.

    Attributes:
        cohort: its people; ``rows`` and ``target`` of the task.
    """

    cohort: Cohort
    rows: list[str]
    target: Floats


class Bench:
    """One task on one cohort, and on external cohorts whose rows stand behind its own."""

    def __init__(
        self,
        cohort: Cohort,
        task: Task,
        people: list[str],
        target: Floats,
        protocol: Protocol,
        out: Path,
        plan: Sequence[Layout] = (),
        externals: Sequence[External] = (),
    ) -> None:
        self.cohort, self.task, self.people = cohort, task, people
        self.protocol, self.out, self.plan, self.externals = protocol, out, plan, externals
        self.target = np.concatenate([target, *[one.target for one in externals]])
        names = cohort.people(people)
        for one in externals:
            names = names + [f"{one.cohort.name}/{name}" for name in one.cohort.people(one.rows)]
        self.persons = Persons(names)
        self.who = self.persons.of_rows
        self._features: dict[Any, npt.NDArray[Any]] = {}
        self._images: dict[Grid, npt.NDArray[np.float32]] = {}
        content: list[Any] = [protocol.plain(), repr(task), people, self.target.tolist(), cohort.name, names]
        content += [cohort.choices()] if cohort.choices() else []
        content += [cohort.identity(people), *[one.cohort.identity(one.rows) for one in externals]]
        if protocol.split is not None:  # the same name may hold another split tomorrow
            content.append(protocol.split.read_text(errors="replace"))
        self.fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """For workers, who prepare their own images: voxels stay out of Ray's object store."""
        return self.__dict__ | {"_features": {}, "_images": {}}

    def check(self, arm: Arm) -> None:
        """Raise UserError when an arm cannot run here: weights unreadable or leaking, backbone and grid or mode at odds."""
        from finetune.lora import add_adapters
        from pretrain.weights import corpora_of, read_config

        for weights in arm.pretrainings:
            self._refuse_leaks(read_config(weights).corpora(), str(weights))
        if arm.weights is None and not arm.without_network:
            self._refuse_leaks(corpora_of(self.start(arm)), arm.init)
        if arm.control in ("volumes", "demographics"):
            self._columns(arm.control)
        if arm.mode == "lora":
            add_adapters(self.backbone(arm, 0)[0], self.protocol.fine_tuning.rank, 0)

    def _refuse_leaks(self, corpora: Sequence[dict[str, Any]], weights: str) -> None:
        for corpus in corpora:
            refuse_leak(self.cohort, corpus, weights, self.tested_people())
            for one in self.externals:
                refuse_leak(one.cohort, corpus, weights)

    def start(self, arm: Arm) -> dict[str, Any] | None:
        """Record of where a fresh arm's backbone begins; None from scratch. Raises UserError where it does not fit."""
        from pretrain.starts import make_start

        report = make_start(arm.init, arm.backbone, self.protocol.grid[0])[1]
        return None if report is None else report.record()

    def warn_of_preparation(self, arms: Sequence[Arm]) -> None:
        """Warn of weights that saw volumes prepared as a cohort's are not; once for every folder of weights and cohort."""
        from pretrain.weights import read_config

        for place in dict.fromkeys(weights for arm in arms for weights in arm.pretrainings):
            about = read_config(place)
            for cohort in (self.cohort, *(one.cohort for one in self.externals)):
                warn_if_prepared_otherwise(cohort, about.corpus, str(place), (about.shape, about.spacing))

    def tested_people(self) -> set[str] | None:
        """Participants of the cohort who are tested in some split; None, which is everybody, without a plan."""
        tested = {self.people[at] for layout in self.plan for _, split in layout.splits for at in split.test}
        return set(self.cohort.people(tested)) if self.plan else None

    def refuse_other_results(self) -> None:
        """Raise UserError when ``out`` holds results of another experiment."""
        path = self.out / "results.json"
        if path.exists() and json.loads(path.read_text()).get("fingerprint") != self.fingerprint:
            raise UserError(
                f"'{self.out}' holds results of another experiment (cohort, task or protocol differ); choose another --out"
            )

    def parts(self, layout: Layout) -> list[tuple[str, Split]]:
        """The layout's splits, and for each set of training people every external cohort."""
        found, first = list(layout.splits), len(self.people)
        for train, _ in _by_training(layout.splits):
            begin = first
            for one in self.externals:
                found.append((one.cohort.name, Split(train, np.arange(begin, begin + len(one.rows)))))
                begin += len(one.rows)
        return found

    def tested(self, layout: Layout) -> dict[str, npt.NDArray[np.int64]]:
        """Test set → positions of its people in order, the same for every seed."""
        sets: dict[str, list[npt.NDArray[np.int64]]] = {}
        for name, split in self.parts(layout):
            sets.setdefault(name, []).append(split.test)
        return {name: np.unique(np.concatenate(parts)) for name, parts in sets.items()}

    def record_path(self, arm: Arm, seed: int, percent: float) -> Path:
        """Where what one arm, seed and fraction gave is kept."""
        weights = arm.weights_at(seed)
        identity = weights.resolve().name if weights else ""
        if weights is not None:
            identity += hashlib.sha256((weights / "model.safetensors").read_bytes()).hexdigest()
        elif not arm.is_fresh:
            identity += digest_of(arm.init)
        about = {key: value for key, value in asdict(arm).items() if key != "again"} | {"weights": identity}
        content = [RECORD_VERSION, self.fingerprint, about, seed, percent]
        key = hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()
        return self.out / "arms" / f"{key[:20]}.json"

    def kept_or(self, arm: Arm, seed: int, layout: Layout, percent: float = 100) -> Outcome:
        """What one arm, seed and fraction gave, from the file an earlier run left or made now."""
        path = self.record_path(arm, seed, percent)
        if path.exists():
            return read_record(path)
        started = time.perf_counter()
        outcome = self.predict(arm, seed, layout)
        path.parent.mkdir(parents=True, exist_ok=True)
        seconds = round(time.perf_counter() - started, 2)
        weights = arm.weights_at(seed)
        about = {"arm": asdict(replace(arm, again=())) | {"weights": str(weights) if weights else None}}
        record = about | {"seed": seed, "percent": percent} | outcome.record() | {"seconds": seconds}
        write_atomically(path, json.dumps(record))
        return read_record(path)

    def predict(self, arm: Arm, seed: int, layout: Layout) -> Outcome:
        """Train on every split and predict its test people; an external cohort's predictions are the mean over splits."""
        size, parts = len(self.target), self.parts(layout)
        sums = {name: np.zeros((4, size)) for name, _ in parts}  # predictions, aside, prevalence, count
        chosen: list[dict[str, Any]] = []
        permuted: dict[str, list[Floats]] = {}
        features = self.features(arm, seed) if arm.control or arm.mode in ("frozen", "knn") else None
        for train, own in _by_training(parts):
            test = np.concatenate([split.test for _, split in own])
            fitted = self.fit(arm, seed, features, train, test)
            aside, about = self._aside(fitted, test)
            chosen.append({**fitted.chosen, **about})
            for name, split in own:
                here = np.isin(test, split.test)
                own_share, once = np.full(here.sum(), self.target[train].mean()), np.ones(here.sum())
                sums[name][:, split.test] += np.stack([fitted.test[here], aside[here], own_share, once])
            if arm.control == "shuffled" and features is not None:
                tests, count = [split.test for _, split in own], -(-PERMUTATIONS // self.protocol.seeds)
                data, classes = (features, self.target, self.persons), self.task.is_classification
                rows = permuted_figures(*data, train, tests, classes, penalty_of(fitted.chosen), seed, count)
                for (name, _), row in zip(own, rows, strict=True):
                    permuted.setdefault(name, []).append(row)
        means = {name: sums[name][:3, who] / sums[name][3, who] for name, who in self.tested(layout).items()}
        return Outcome(
            {name: said for name, (said, _, _) in means.items()},
            {name: aside for name, (_, aside, _) in means.items()},
            chosen,
            self._site(features, seed) if features is not None and not arm.control and seed == 0 else None,
            permuted={name: means_over_splits(found) for name, found in permuted.items()},
            prevalence={name: share for name, (_, _, share) in means.items()} if self.task.is_classification else {},
        )

    def fit(
        self,
        arm: Arm,
        seed: int,
        features: npt.NDArray[Any] | None,
        train: npt.NDArray[np.int64],
        test: npt.NDArray[np.int64],
    ) -> Fitted:
        """One model: learnt from the rows ``train``, asked about ``test``."""
        classes, target, whose = self.task.is_classification, self.target[train], self.who[train]
        if arm.control == "shuffled":
            own, learnt = self.persons.target(self.target, classes), np.unique(whose)
            target = shuffled_labels(own, learnt, learnt, seed, 0)[whose]
        if arm.control == "mean":
            return Fitted(np.full(len(test), target.mean()), np.full(len(train), target.mean()), target, "training")
        if features is not None:
            fit = fit_knn if arm.mode == "knn" else fit_linear
            return fit(features[train], target, features[test], classes, seed, whose)
        return self._fit_network(arm, seed, target, train, test)

    def _fit_network(
        self, arm: Arm, seed: int, target: Floats, train: npt.NDArray[np.int64], test: npt.NDArray[np.int64]
    ) -> Fitted:
        import torch

        from finetune.lora import add_adapters
        from finetune.tuning import fit_tuned

        options = self.protocol.fine_tuning
        if arm.mode == "lora" or arm.is_fresh:
            options = replace(options, layer_decay=1.0)

        def make() -> Any:
            backbone = self.backbone(arm, seed)[0]
            return add_adapters(backbone, options.rank, seed) if arm.mode == "lora" else backbone

        images = torch.from_numpy(self.images(self.grid(arm)))
        classes = self.task.is_classification
        return fit_tuned(make, images[train], target, images[test], classes, seed, self.who[train], options)

    def _aside(self, fitted: Fitted, test: npt.NDArray[np.int64]) -> tuple[Floats, dict[str, Any]]:
        """Calls at the threshold, or corrected predictions; both rules come from training people alone."""
        if self.task.is_classification:
            threshold = threshold_at(fitted.inner_target, fitted.inner)
            said = (fitted.test > threshold).astype(np.float64)
            return said, {"threshold": threshold, "threshold_from": fitted.source}
        line = age_correction(fitted.inner_target, fitted.inner)
        about = {"correction": list(line), "correction_from": fitted.source}
        return corrected(self.target[test], fitted.test, line), about

    def _site(self, features: npt.NDArray[Any], seed: int) -> dict[str, float] | None:
        from finetune.sites import site_probe

        if "site" not in self.cohort.table.columns:
            return None
        sites = self.cohort.table.loc[self.people, "site"].astype(str).to_numpy()
        return site_probe(features[: len(self.people)], sites, self.who[: len(self.people)], seed)

    def grid(self, arm: Arm) -> Grid:
        """The grid that an arm's backbone takes."""
        from pretrain.weights import read_config

        if arm.weights is None:
            return self.protocol.grid
        about = read_config(arm.weights)
        return about.shape, about.spacing

    def backbone(self, arm: Arm, seed: int) -> tuple[Any, Grid]:
        """The arm's backbone as it starts, and the grid it takes."""
        from pretrain.starts import make_start
        from pretrain.weights import load_weights

        weights = arm.weights_at(seed)
        if weights is None:
            return make_start(arm.init, arm.backbone, self.protocol.grid[0], seed=seed)[0], self.protocol.grid
        backbone, about = load_weights(weights)
        return backbone, (about.shape, about.spacing)

    def images(self, grid: Grid) -> npt.NDArray[np.float32]:
        """Every participant's volume on ``grid``, prepared once; external cohorts' behind the cohort's."""
        if grid not in self._images:
            images, digests = _prepared(self.cohort, self.people, grid)
            splits = (split for layout in self.plan for _, split in layout.splits)
            refuse_twins(self.cohort, self.people, digests, splits)
            found, known = [images], {digest: name for name, digest in digests.items()}
            for one in self.externals:
                images, theirs = _prepared(one.cohort, one.rows, grid)
                _refuse_shared(self.cohort, one.cohort, known, theirs)
                found.append(images)
            self._images[grid] = np.concatenate(found)
        return self._images[grid]

    def features(self, arm: Arm, seed: int) -> npt.NDArray[Any]:
        """``[rows, F]``: a frozen backbone's, or a control's columns."""
        import torch

        from pretrain.train import embed

        if arm.control == "mean":
            return np.zeros((len(self.target), 1))
        if arm.without_network:
            return self._columns(arm.control)
        # weights give the same features at every seed
        weights = arm.weights_at(seed)
        key = (weights, arm.backbone, arm.init, None if weights else seed, arm.control == "planted")
        if key not in self._features:
            backbone, grid = self.backbone(arm, seed)
            images = self.images(grid)
            images = planted(images, self.target) if arm.control == "planted" else images
            with torch.no_grad():
                found = embed(backbone, torch.from_numpy(images)).numpy()
            if not np.isfinite(found).all():  # a head would take them for missing values
                raise UserError(
                    f"features of arm '{arm.name}' are not all finite; its weights have diverged, train anew"
                )
            self._features = {key: found}
        return self._features[key]

    def _columns(self, control: str) -> Floats:
        """A control's columns in all cohorts. Raises UserError where an external one knows other columns."""
        found = [control_columns(self.cohort, self.people, control, self.task)]
        found += [control_columns(one.cohort, one.rows, control, self.task) for one in self.externals]
        for one, columns in zip(self.externals, found[1:], strict=True):
            if set(columns) != set(found[0]):
                raise UserError(
                    f"external cohort '{one.cohort.name}' has not the age, sex or volume columns that cohort "
                    f"'{self.cohort.name}' has, which control {control} needs in both"
                )
        if not found[0]:
            raise UserError(f"cohort '{self.cohort.name}' has no column that control {control} could look at")
        return np.concatenate([np.stack([columns[name] for name in found[0]], axis=1) for columns in found])


def _prepared(cohort: Cohort, rows: list[str], grid: Grid) -> tuple[npt.NDArray[np.float32], dict[str, str]]:
    from synth.progress import progress_bar

    digests: dict[str, str] = {}
    with progress_bar(f"prepare {cohort.name}", "scans") as show:
        return prepare(cohort, rows, grid, show, digests), digests


def _refuse_shared(ours: Cohort, theirs: Cohort, known: dict[str, str], digests: dict[str, str]) -> None:
    for name, digest in digests.items():
        if digest in known:
            raise UserError(
                f"participant {name} of external cohort '{theirs.name}' has the same voxels as {known[digest]} of "
                f"'{ours.name}'; an external cohort must share nobody"
            )


def _by_training(parts: Sequence[tuple[str, Split]]) -> Iterator[tuple[npt.NDArray[np.int64], list[tuple[str, Split]]]]:
    """Splits with the same training people together, so that a model is trained once for all its test sets."""
    groups: dict[bytes, list[tuple[str, Split]]] = {}
    for name, split in parts:
        groups.setdefault(split.train.tobytes(), []).append((name, split))
    for own in groups.values():
        yield own[0][1].train, own


def digest_of(init: str) -> str:
    """Of the files of a start; of a hub id, which has none here, the id."""
    place = Path(init)
    files = sorted(one for one in place.rglob("*") if one.is_file()) if place.is_dir() else [place]
    return "".join(hashlib.sha256(one.read_bytes()).hexdigest() for one in files) if place.exists() else init
