"""What a report is made of, and how results.json of any format version is read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.weights import CONFIG
from synth.errors import UserError

FORMAT = "brainloom-report"
CHECKS = ("shuffled", "planted")  # controls of the line itself, with which no arm is compared
DEPTH = 3  # a run's folder keeps its results at most so deep: RUN/results/TASK


@dataclass(frozen=True, eq=False)
class Story:
    """What a report is made of: experiments (results.json folders), corpora, weights, seconds per stage, more findings."""

    experiments: list[Path] = field(default_factory=list)
    corpora: list[Path] = field(default_factory=list)
    weights: list[Path] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    @staticmethod
    def of(folders: list[Path]) -> Story:
        """Sort folders by what they hold; of a whole run's folder what lies inside is taken.

        Raises:
            UserError: a folder that holds nothing of the kind, results of another command, no results at all.
        """
        story = Story()
        for folder in folders:
            found = [one for one in inside(folder) if story.add(one)]
            if not found:
                raise UserError(
                    f"'{folder}' holds no results.json, weights or corpus; expected folders made by brainloom"
                )
        if not story.experiments:
            raise UserError("no folder with results.json was given; run brainloom finetune run first")
        return story

    def add(self, folder: Path) -> bool:
        """Take a folder in; False when it is nothing a report is made of. Raises UserError for results of speed."""
        if (folder / "results.json").is_file():
            content = json.loads((folder / "results.json").read_text())
            if "benchmark" in content:
                raise UserError(
                    f"'{folder}' was made by brainloom benchmark speed; a report takes folders of finetune run, "
                    "weights and corpora"
                )
            if "arms" not in content:
                return False
            self.experiments.append(folder)
        elif (folder / CONFIG).is_file():
            self.weights.append(folder)
        elif (folder / "zarr.json").is_file():
            self.corpora.append(folder)
        else:
            return False
        return True


def inside(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The folder itself if it holds something, or else those inside it that do; a report's own folder is looked into."""
    held = any((folder / name).is_file() for name in (CONFIG, "zarr.json"))
    results = folder / "results.json"
    if held or (results.is_file() and json.loads(results.read_text()).get("format") != FORMAT):
        yield folder
    elif depth and folder.is_dir():
        for child in sorted(folder.iterdir()):
            if child.is_dir():
                yield from inside(child, depth - 1)


def read_results(folder: Path) -> dict[str, Any]:
    """One experiment's results.json."""
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return content


def read_predictions(folder: Path) -> list[dict[str, str]]:
    """Rows of predictions.tsv, which are those of the largest fraction of the labels; empty where there is no such file."""
    path = folder / "predictions.tsv"
    if not path.is_file():
        return []
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def kind_of(arm: dict[str, Any]) -> str:
    """Which colour an arm has: control, check (shuffled labels, planted signal), scratch, untrained or pretrained."""
    if arm.get("control") in CHECKS:
        return "check"
    if arm["mode"] == "control":
        return "control"
    if arm["weights"] is not None or arm.get("start"):
        return "pretrained"
    return "untrained" if arm["mode"] in ("frozen", "knn") else "scratch"


def main_metric(results: dict[str, Any]) -> tuple[str, bool]:
    """(name of the metric arms are ranked by, whether higher is better)."""
    if "main_metric" in results:
        return results["main_metric"], results["higher_is_better"]
    names = [name for arm in results["arms"] for one in arm["metrics"].values() for name in one]
    return ("roc_auc", True) if "roc_auc" in names else ("mae_years", False)


def value_of(arm: dict[str, Any], test_set: str, metric: str) -> dict[str, float] | None:
    """A metric with its interval, or None where the arm has none of that name."""
    value = arm["metrics"].get(test_set, {}).get(metric)
    return value if isinstance(value, dict) and {"value", "low", "high"} <= set(value) else None


def hardest_set(results: dict[str, Any]) -> str:
    """The test set the finding speaks of: the held-out site where there is one."""
    return list(results["test_sets"])[-1]


def best(results: dict[str, Any], kinds: tuple[str, ...], test_set: str | None = None) -> dict[str, Any] | None:
    """The best arm of some kinds on a test set (the hardest if not given), or None."""
    metric, higher = main_metric(results)
    where = test_set or hardest_set(results)
    ranked = [
        (value["value"] * (1 if higher else -1), arm)
        for arm in results["arms"]
        if kind_of(arm) in kinds and (value := value_of(arm, where, metric)) is not None
    ]
    return max(ranked, key=lambda pair: pair[0])[1] if ranked else None


def leaders(results: dict[str, Any], test_set: str) -> list[dict[str, Any]]:
    """The best arm of every kind: what curves are drawn of, so that a figure has at most four lines."""
    found = (best(results, (kind,), test_set) for kind in ("pretrained", "scratch", "untrained", "control"))
    return [arm for arm in found if arm is not None]
