"""Controls: what a table must hold to be believed, what each must show, and whether it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.arms import Arm
from finetune.cohort import Cohort
from finetune.simple import control_columns, known
from finetune.tasks import Task

Floats = npt.NDArray[np.float64]
BLOB_WIDTH, BLOB_BRIGHT = (
    0.35,
    4.0,
)  # of half the grid; of the 99th percentile: gross, so that only a broken line misses it
FOUND = {True: 0.95, False: 0.9}  # AUC, or r, that a planted signal must reach
EXPECTED = {
    "shuffled": "at chance: the 99 % interval of the mean over permutations holds 0.5 (AUC) or 0 (r)",
    "planted": "found: AUC of 0.95 or more, r of 0.9 or more",
    "other": "beaten by the best network arm",
}


def controls(cohort: Cohort, task: Task, arms: Sequence[Arm] = ()) -> list[Arm]:
    """The rows every table has: regional volumes + linear model where volumes are known, and a model without a scan.

    Which of them a cohort cannot have :func:`finetune.simple.missing_controls` says.

    With ``arms``: for every backbone among them the untrained network, and shuffled labels and a planted signal.
    """
    made = []
    names = {arm.name for arm in arms}
    networks = [arm for arm in arms if not arm.control]
    for backbone in dict.fromkeys(arm.backbone for arm in networks):
        untrained = Arm(f"{backbone}, untrained, frozen", "frozen", None, backbone)
        made += [untrained] if untrained.name not in names else []
    if networks:
        first = next((arm for arm in networks if arm.weights is not None), networks[0])
        made.append(Arm("labels shuffled", "frozen", first.weights, first.backbone, "shuffled"))
        made.append(Arm("planted signal", "frozen", first.weights, first.backbone, "planted"))
    there = known(cohort, task)
    if "volumes" in there:
        made.append(Arm(f"regional volumes + {'logistic' if task.is_classification else 'ridge'}", control="volumes"))
    if task.is_classification:
        told = " + ".join(sorted(there & {"age", "sex"}))
        made += [Arm(f"{told} + logistic", control="demographics")] if told else []
    else:
        made.append(Arm("predicting the mean", control="mean"))
    return made


def control_features(cohort: Cohort, people: list[str], control: str, task: Task) -> Floats:
    """``[people, columns]`` of :func:`finetune.simple.control_columns`, NaN where missing; zeros where nothing is known."""
    columns = list(control_columns(cohort, people, control, task).values())
    return np.stack(columns, axis=1) if columns else np.zeros((len(people), 1))


def planted(images: npt.NDArray[np.float32], target: Floats) -> npt.NDArray[np.float32]:
    """A copy of ``images [N, 1, D, H, W]`` with a smooth blob in the middle, as bright as the target is high in its range."""
    shape = images.shape[2:]
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    blob = np.exp(-sum(axis**2 for axis in axes) / (2 * BLOB_WIDTH**2)).astype(np.float32)
    share = (target - target.min()) / max(float(np.ptp(target)), 1e-9)
    bright = float(np.percentile(images, 99)) or 1.0
    return images + (BLOB_BRIGHT * bright * share).astype(np.float32)[:, None, None, None, None] * blob


def held(
    arms: Sequence[Arm], rows: Sequence[dict[str, Any]], main: str, higher: bool, where: str
) -> list[dict[str, Any]]:
    """For each control its expectation, its figure on test set ``where`` and whether it held; None where nothing compares."""
    sign = 1.0 if higher else -1.0
    tuned = [row["metrics"][where][main]["value"] for arm, row in zip(arms, rows, strict=True) if _is_ours(arm)]
    best = max((sign * value for value in tuned), default=None)
    found = []
    for arm, row in zip(arms, rows, strict=True):
        if _is_ours(arm):
            continue
        kind = arm.control if arm.control in EXPECTED else "other"
        figures = row["metrics"][where]
        if kind == "other":
            ok = None if best is None else bool(sign * figures[main]["value"] < best)
        else:
            ok = as_planned(kind, figures)
        told = {"control": arm.name, "kind": arm.control or "untrained", "test_set": where}
        found.append({**told, "expectation": EXPECTED[kind], "held": ok})
    return found


def _is_ours(arm: Arm) -> bool:
    return not arm.control and not (arm.is_fresh and arm.mode in ("frozen", "knn"))


def as_planned(kind: str, figures: dict[str, Any]) -> bool | None:
    """Whether the ``shuffled`` or ``planted`` control shows what it must; None where there are no figures."""
    classes = "roc_auc" in figures
    figure = figures["roc_auc" if classes else "r"]
    if kind == "planted":
        return bool(figure["value"] >= FOUND[classes])
    if figure["value"] != figure["value"]:
        return None
    return bool(figure["low"] <= (0.5 if classes else 0.0) <= figure["high"])
