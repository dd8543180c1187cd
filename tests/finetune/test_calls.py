"""Calls: above the training prevalence of calibrated probabilities, which is above one half of balanced ones."""

from __future__ import annotations

import numpy as np

from finetune.bench import Outcome
from finetune.heads import unbalanced
from finetune.metrics import balanced_accuracy, f1
from finetune.summary import called_one


def test_balanced_accuracy_and_f1_do_not_change_with_the_prior() -> None:
    rng = np.random.Generator(np.random.Philox(5))
    target, balanced = (rng.random(200) < 0.2).astype(float), rng.random(200)
    prevalence = np.where(np.arange(200) < 100, 0.18, 0.22)
    said = np.array([unbalanced(p, share) for p, share in zip(balanced, prevalence, strict=True)])
    called = called_one([Outcome({"cv": said}, {}, [], prevalence={"cv": prevalence})], "cv")[0]
    for metric in (balanced_accuracy, f1):
        assert metric(target, called) == metric(target, balanced) != metric(target, said)
