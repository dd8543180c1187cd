"""Paired tests between arms: a small family of questions, declared before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from finetune.arms import Arm
from finetune.bench import Bench, Outcome
from finetune.metrics import holm, paired_draws, paired_p
from finetune.summary import Ints, metrics_of, predicted

SIMPLE = ("volumes", "demographics", "mean")
"""The control that arms are tested against is the first of these that ran: chosen before, not by its figure."""
Pair = tuple[str, str, str]


def family(arms: Sequence[Arm]) -> list[Pair]:
    """(arm, other, what the other is) of every test: never all pairs, among which nothing could be significant.

    Each network arm against scratch of its backbone, the untrained frozen one of its backbone, and the simple control;
    arms that were trained before, of one backbone and mode, against each other. No two arms twice.
    """
    networks = [arm for arm in arms if not arm.control]
    simple = next((arm for kind in SIMPLE for arm in arms if arm.control == kind), None)
    asked: list[Pair] = []
    for arm in networks:
        asked += [(arm.name, other.name, "scratch") for other in _fresh(networks, arm.backbone, "full")]
        asked += [(arm.name, other.name, "untrained") for other in _fresh(networks, arm.backbone, "frozen")]
        asked += [(arm.name, simple.name, "control")] if simple else []
    for arm, other in combinations([arm for arm in networks if not arm.is_fresh], 2):
        if (arm.backbone, arm.mode) == (other.backbone, other.mode):
            asked.append((arm.name, other.name, "pre-trained"))
    once = {frozenset(pair[:2]): pair for pair in reversed(asked) if pair[0] != pair[1]}
    return [pair for pair in asked if once.get(frozenset(pair[:2])) is pair]


def _fresh(networks: Sequence[Arm], backbone: str, mode: str) -> list[Arm]:
    return [arm for arm in networks if arm.is_fresh and (arm.backbone, arm.mode) == (backbone, mode)]


def comparisons(
    arms: Sequence[Arm], outcomes: dict[str, list[Outcome]], bench: Bench, tested: dict[str, Ints]
) -> list[dict[str, Any]]:
    """The family's tests on the main metric: difference, interval, p by paired bootstrap, Holm over those of a test set."""
    main, metric = next(iter(metrics_of(bench.task).items()))
    pairs = family(arms)
    names = list(dict.fromkeys(name for pair in pairs for name in pair[:2]))
    found: list[dict[str, Any]] = []
    for test_set, who in tested.items():
        target = bench.target[who]
        said = {name: predicted(outcomes[name], test_set) for name in names}
        draws = paired_draws(metric, target, said, bench.who[who])
        value = {name: float(np.mean([metric(target, one) for one in said[name]])) for name in names}
        ps = [paired_p(draws[a], draws[b]) for a, b, _ in pairs]
        for (a, b, against), p, adjusted in zip(pairs, ps, holm(ps), strict=True):
            low, high = np.nanpercentile(draws[a] - draws[b], [2.5, 97.5])
            difference = {"difference": value[a] - value[b], "low": float(low), "high": float(high)}
            told = {"test_set": test_set, "metric": main, "arm": a, "other": b, "against": against}
            found.append({**told, **difference, "p": p, "p_holm": adjusted})
    return found
