"""benchmark speed train: both sides of a group have the same work to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.speed import train
from benchmarks.speed.train_steps import Step, normalised_patches, utilisation
from pretrain.backbones.base import count_parameters
from tests.conftest import Run

EDGE = 32


@pytest.mark.parametrize("group", [g for g in train.GROUPS if g != train.AUTOENCODER])
def test_both_sides_are_equally_large(group: str) -> None:
    ours, theirs = (Step(group, EDGE, "fp32", 1, side) for side in (True, False))
    assert ours.image.shape == theirs.image.shape
    assert count_parameters(ours.module) == pytest.approx(count_parameters(theirs.module), rel=0.01)


def test_both_maes_hide_as_much_and_have_losses_of_the_same_size() -> None:
    ours, theirs = (Step(train.MAE, EDGE, "fp32", 2, side) for side in (True, False))
    with torch.no_grad():
        a, b = (float(step.loss(step.image, 0)) for step in (ours, theirs))
        mask = theirs.module(theirs.image)[1]
    assert float(mask.float().mean()) == pytest.approx(ours.module.masked)  # type: ignore[arg-type]
    assert 0.5 < a / b < 2


def test_the_patches_are_ours() -> None:
    step = Step(train.MAE, EDGE, "fp32", 1, True)
    patches: Any = step.module.backbone.patches(step.image)  # type: ignore[operator]
    expected = (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-2).sqrt()
    assert torch.equal(normalised_patches(step.image), expected)


def test_a_step_changes_the_weights() -> None:
    step = Step(train.DENSENET, EDGE, "fp32", 2, True)  # batch norm needs two
    before = [p.detach().clone() for p in step.module.parameters()]
    step(0)
    assert sum(not torch.equal(a, b) for a, b in zip(before, step.module.parameters(), strict=True)) > len(before) / 2


def test_ratios_are_monai_s_time_by_ours_and_none_where_it_failed() -> None:
    def row(side: int, precision: str, ms: list[float]) -> dict[str, Any]:
        return {"name": train.name_of(train.MAE, precision, side), "ms_all": ms, "ms_median": sorted(ms)[1]}

    failed = {"name": train.name_of(train.MAE, "bf16", 1), "skipped": "failed"}
    found = train.ratios([row(0, "fp32", [1, 2, 4]), row(1, "fp32", [2, 4, 4]), row(0, "bf16", [1, 1, 1]), failed])
    assert found[f"{train.MAE}, fp32"] == 2 and found[f"{train.MAE}, bf16"] is None
    assert found["mae_bf16_over_fp32"] == 4
    assert len(train.sentences(found)) == 2


def test_utilisation_is_a_share_of_the_data_sheet_s_peak() -> None:
    assert utilisation(989e12, 2.0, "NVIDIA H100 80GB HBM3")["flop_utilisation"] == 0.5
    assert utilisation(1.0, 1.0, "unheard of")["flop_utilisation"] is None


@pytest.mark.timeout(300)  # rows are processes of their own, each of which imports torch and MONAI
def test_one_run_writes_rows_ratios_and_a_chart(tmp_path: Path, run: Run) -> None:
    words = ("--size", 32, "--repeats", 7, "--only", "DenseNet121")
    answer = run("benchmark", "speed", "train", "--out", tmp_path / "speed", *words)
    assert answer.code == 0, answer.err
    results = json.loads((tmp_path / "speed" / "results.json").read_text())
    assert [row["kind"] for row in results["rows"]] == ["ours", "peer"] * 2
    assert results["ratios"][f"{train.DENSENET}, fp32"] > 0 and (tmp_path / "speed" / "speed.png").exists()
