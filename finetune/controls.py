"""Controls: what a table must hold to be believed, what each must show, and whether it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.arms import Arm
from finetune.cohort import Cohort
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
    if any(str(name).startswith("volume_") for name in cohort.table.columns):
        made.append(Arm(f"regional volumes + {'logistic' if task.is_classification else 'ridge'}", control="volumes"))
    if task.is_classification:
        made.append(Arm("age + sex + logistic", control="demographics"))
    else:
        made.append(Arm("predicting the mean", control="mean"))
    return made


def control_features(cohort: Cohort, people: list[str], control: str, task: Task) -> Floats:
    """Columns of a control: log regional volumes (sides summed) with sex, or age and sex (sex alone for brain age)."""
    table = cohort.table.loc[people]
    columns: list[Floats] = []
    if "sex" in table.columns:
        columns.append((table["sex"].astype(str).str.upper().str[:1] == "M").to_numpy().astype(np.float64))
    if task.is_classification and "age" in table.columns:
        columns.append(table["age"].to_numpy(float))
    if control == "volumes":
        sums: dict[str, Floats] = {}
        for name in [str(name) for name in table.columns if str(name).startswith("volume_")]:
            structure = name.removeprefix("volume_").removeprefix("left_").removeprefix("right_")
            sums[structure] = sums.get(structure, np.zeros(len(table))) + table[name].fillna(0).to_numpy(float)
        columns += [np.log(np.maximum(values, 1.0)) for values in sums.values()]
    return np.stack(columns, axis=1) if columns else np.zeros((len(table), 1))


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
