"""Where a frozen arm looks: input gradients of its score, averaged per group on the common grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.arms import Arm
from finetune.bench import Bench
from synth.errors import UserError
from synth.storage import write_atomically

Floats = npt.NDArray[np.float64]


def best_frozen(arms: Sequence[Arm], results: dict[str, Any]) -> Arm:
    """The frozen network arm with the best main metric on the first test set. Raises UserError where there is none."""
    where, main = next(iter(results["test_sets"])), results["main_metric"]
    sign = 1.0 if results["higher_is_better"] else -1.0
    figures = {row["name"]: sign * row["metrics"][where][main]["value"] for row in results["arms"]}
    frozen = [arm for arm in arms if arm.mode == "frozen" and not arm.control]
    if not frozen:
        raise UserError("--explain draws maps of frozen arms, and there is none; add --mode frozen")
    return max(frozen, key=lambda arm: figures[arm.name])


def explain(arm: Arm, bench: Bench, out: Path) -> Path:
    """Write ``explanations/<arm>.npz`` (group → ``[D, H, W]``, people of each) and a picture; the path of the npz.

    The model is that of the first seed's first split; the maps are of its test people: the mean of the absolute gradient
    of the linear score with respect to the voxels as they are stored (Simonyan et al. 2014).
    """
    split = bench.plan[0].splits[0][1]
    score = _score_weights(bench, arm, split.train)
    maps = _gradients(bench, arm, score, split.test)
    groups = {name: maps[inside].mean(0) for name, inside in _groups(bench, split.test).items() if inside.any()}
    folder = out / "explanations"
    folder.mkdir(parents=True, exist_ok=True)
    stem = "".join(letter if letter.isalnum() else "-" for letter in arm.name)
    path = folder / f"{stem}.npz"
    np.savez_compressed(path, **groups)
    _picture(groups, bench.images(bench.grid(arm))[split.test].mean((0, 1)), folder / f"{stem}.png")
    names = "\n".join(f"{name}: mean absolute gradient, [D, H, W]" for name in groups)
    write_atomically(folder / "README.txt", f"Input-gradient maps of test people of the first split.\n{names}\n")
    return path


def _score_weights(bench: Bench, arm: Arm, train: npt.NDArray[np.int64]) -> Floats:
    """``[F]``: weights of the linear model on the features as they come from the backbone."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import StandardScaler

    features, target = bench.features(arm, 0)[train], bench.target[train]
    chosen = bench.kept_or(arm, 0, bench.plan[0], max(bench.protocol.fractions)).chosen[0]
    scaler = StandardScaler().fit(features)
    if bench.task.is_classification:
        model: Any = LogisticRegression(C=chosen.get("C", 1.0), class_weight="balanced", max_iter=500)
    else:
        model = Ridge(chosen.get("alpha", 1.0))
    weights: Floats = model.fit(scaler.transform(features), target).coef_.reshape(-1) / scaler.scale_
    return weights


def _gradients(bench: Bench, arm: Arm, weights: Floats, who: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """``[n, D, H, W]``."""
    import torch

    from pretrain.intensity import standardise

    backbone, grid = bench.backbone(arm, 0)
    backbone = backbone.eval().requires_grad_(False)
    direction = torch.tensor(weights, dtype=torch.float32)
    found = []
    for at in who:
        image = torch.from_numpy(bench.images(grid)[at : at + 1]).clone().requires_grad_(True)
        (backbone(standardise(image)).float() @ direction).sum().backward()
        assert image.grad is not None
        found.append(image.grad.abs()[0, 0].numpy())
    return np.stack(found)


def _groups(bench: Bench, who: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.bool_]]:
    target = bench.target[who]
    if bench.task.is_classification:
        return {"+".join(bench.task.negatives): target < 0.5, str(bench.task.positive): target > 0.5}
    middle = float(np.median(target))
    return {f"below_{middle:g}": target < middle, f"from_{middle:g}": target >= middle}


def _picture(groups: dict[str, npt.NDArray[np.float32]], mean: npt.NDArray[np.float32], path: Path) -> None:
    """Middle slices of each group's map over the mean image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(7.5, 2.6 * len(groups)), layout="constrained")
    FigureCanvasAgg(sheet)
    axes = sheet.subplots(len(groups), 3, squeeze=False)
    for row, (name, one) in zip(axes, groups.items(), strict=True):
        for axis, along in zip(row, range(3), strict=True):
            middle = one.shape[along] // 2
            axis.imshow(np.take(mean, middle, along).T, cmap="gray", origin="lower")
            axis.imshow(np.take(one, middle, along).T, cmap="magma", alpha=0.6, origin="lower", vmin=0, vmax=one.max())
            axis.set_axis_off()
        row[0].set_title(name, fontsize=9)
    sheet.savefig(path, dpi=100)
