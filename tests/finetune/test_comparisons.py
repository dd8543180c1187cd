"""Tests between arms: few questions, fixed before, with p-values small enough to outlive their correction."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from finetune import metrics
from finetune.arms import Arm
from finetune.bench import Outcome
from finetune.comparisons import comparisons, family
from finetune.metrics import mean_absolute_error, paired_draws, paired_p, roc_auc
from finetune.tasks import TASKS

SCRATCH, FROZEN = Arm("scratch", "full"), Arm("untrained")
PRETRAINED = [Arm(f"weights {number}", "frozen", Path(str(number))) for number in range(6)]
CONTROLS = [Arm("shuffle", control="shuffled"), Arm("age", control="demographics"), Arm("volumes", control="volumes")]


def test_the_family_asks_about_scratch_untrained_one_control_and_pretraining_alone() -> None:
    other = Arm("other weights", "full", Path("7"), backbone="vit_xs")
    asked = family([SCRATCH, FROZEN, PRETRAINED[0], PRETRAINED[1], other, *CONTROLS])
    assert set(asked) == {
        ("scratch", "untrained", "untrained"),
        ("scratch", "volumes", "control"),
        ("untrained", "volumes", "control"),
        *((f"weights {n}", "scratch", "scratch") for n in (0, 1)),
        *((f"weights {n}", "untrained", "untrained") for n in (0, 1)),
        *((f"weights {n}", "volumes", "control") for n in (0, 1)),
        ("weights 0", "weights 1", "pre-trained"),
        ("other weights", "volumes", "control"),
    }
    assert len({frozenset(pair[:2]) for pair in asked}) == len(asked)


def test_one_good_arm_of_ten_is_significant_after_the_correction() -> None:
    arms = [SCRATCH, FROZEN, *PRETRAINED, *CONTROLS[1:]]
    rng = np.random.Generator(np.random.Philox(1))
    target = (np.arange(80) % 2).astype(float)

    def outcome(gain: float) -> list[Outcome]:
        return [Outcome({"cv": gain * target + rng.standard_normal(80)}, {}, []) for _ in range(2)]

    outcomes = {arm.name: outcome(4.0 if arm.name == "weights 3" else 0.5) for arm in arms}
    bench: Any = SimpleNamespace(task=TASKS["ad"], target=target, who=np.arange(80))
    found = {(one["arm"], one["other"]): one for one in comparisons(arms, outcomes, bench, {"cv": np.arange(80)})}
    good = found["weights 3", "scratch"]
    assert good["low"] > 0 and good["p"] <= good["p_holm"] < 0.01
    assert found["weights 2", "scratch"]["p_holm"] > 0.05
    assert all(one["p_holm"] >= one["p"] for one in found.values())


@pytest.mark.parametrize("metric", [roc_auc, mean_absolute_error])
def test_weighted_draws_are_the_metric_of_the_people_drawn(metric: Any) -> None:
    rng = np.random.Generator(np.random.Philox(2))
    target, said = (np.arange(12) % 3 == 0).astype(float), np.round(rng.standard_normal((1, 12)), 1)
    whose = np.repeat(np.arange(6), 2)
    counts = rng.multinomial(6, np.full(6, 1 / 6), 50)
    many = metrics._weighted_auc if metric is roc_auc else metrics._weighted_error
    weights = counts[:, whose].astype(float)
    expected = [metric(np.repeat(target, row.astype(int)), np.repeat(said[0], row.astype(int))) for row in weights]
    assert many(target, said[0], weights) == pytest.approx(np.array(expected), nan_ok=True)


def test_p_is_uniform_enough_where_arms_do_not_differ() -> None:
    rng, target = np.random.Generator(np.random.Philox(3)), (np.arange(60) % 2).astype(float)
    ps = []
    for _ in range(60):
        shared = target + rng.standard_normal(60)
        said = {name: (shared + rng.standard_normal(60))[None] for name in ("a", "b")}
        draws = paired_draws(roc_auc, target, said, draws=1000)
        ps.append(paired_p(draws["a"], draws["b"]))
    assert np.mean(np.array(ps) < 0.05) <= 0.15 and np.mean(np.array(ps) > 0.5) > 0.25
