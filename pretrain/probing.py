"""Probes while training: a few times a run the backbone is looked at through samples it is not trained on.

The model, the order of batches and every random number of training stay as they are: training is bit-identical with
and without.
"""

from __future__ import annotations

import csv
import io
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import numpy.typing as npt
import torch

from pretrain.backbones import Backbone
from pretrain.held_out import HeldOut, evaluating, features_of
from pretrain.objectives.base import Objective
from pretrain.probes import Reading, Targets, alarm, rankme, read_out, spread, targets_of
from synth.corpus import Corpus
from synth.storage import write_atomically
from synth.stream.merged import Merged

Ints = npt.NDArray[np.int64]
TIMES = 4  # probes of a run after the first, which sees untrained weights
FEWEST_SAMPLES, SAMPLES = 64, 256  # volumes a probe looks at, unless another number is asked for
SHARE = 0.05  # of a run's time that probes may take
PASSES = 3  # forward passes that a training step costs: one forward, two backward
SHOWN = 3  # volumes in a picture


@dataclass(frozen=True)
class Outlook:
    """One look at a backbone.

    Attributes:
        readings: of every covariate.
        rankme, spread: of the features of all samples looked at.
        alarm: what is wrong, in words; empty when nothing is.
    """

    readings: tuple[Reading, ...]
    rankme: float
    spread: float
    alarm: str

    def figures(self) -> dict[str, float]:
        """Name → value, for logs: ``r_age``, ``knn_r_age``, ``balanced_accuracy_sex``, …, ``rankme``, ``spread``, ``alarm``."""
        found = {}
        for reading in self.readings:
            found[f"{reading.metric}_{reading.covariate}"] = round(reading.linear, 4)
            found[f"knn_{reading.metric}_{reading.covariate}"] = round(reading.knn, 4)
        return {
            **found,
            "rankme": round(self.rankme, 3),
            "spread": round(self.spread, 5),
            "alarm": float(bool(self.alarm)),
        }


class Probe:
    """Looks at backbones through one corpus: linear models and neighbours are fitted to some of the samples that are
    trained on and tested on some that are not.

    Args:
        corpus: finished, for its covariates are read.
        training, held_out: sample numbers.
        samples: how many are looked at; half of them held out, where there are as many.
    """

    def __init__(self, corpus: Corpus | Merged, training: Ints, held_out: Ints, samples: int = SAMPLES) -> None:
        self.corpus = corpus
        self.held_out = thinned(held_out, samples // 2)
        self.training = thinned(training, samples - len(self.held_out))

    @cached_property
    def targets(self) -> Targets:
        """Covariates of the samples fitted to, then of those tested on: of these alone, a corpus may hold millions."""
        import pandas as pd

        rows = [self.corpus.entry(int(index))["covariates"] for index in (*self.training, *self.held_out)]
        return targets_of(pd.DataFrame(rows))

    def look(self, backbone: Backbone, shuffled: np.random.Generator | None = None) -> Outlook:
        """What the backbone has learnt so far; the backbone stays as it is. ``shuffled`` deals the covariates out anew."""
        device = next(backbone.parameters()).device
        fitted, tested = (
            features_of(backbone, HeldOut(self.corpus, who, device)) for who in (self.training, self.held_out)
        )
        features = np.concatenate([fitted, tested])
        wrong = alarm(features)
        if not np.isfinite(features).all():
            return Outlook((), 0.0, 0.0, wrong)
        targets = self.targets if shuffled is None else self.targets.shuffled(shuffled)
        first, rest = np.arange(len(fitted)), np.arange(len(fitted), len(features))
        readings = read_out(fitted, targets.of(first), tested, targets.of(rest))
        return Outlook(tuple(readings), rankme(features), spread(features), wrong)


def affordable(volumes: int, looks: int) -> int:
    """Samples that each of ``looks`` probes of a run over ``volumes`` looks at: 256, or fewer (64 at least) of a run so
    short that probes would take more than about a twentieth of its time."""
    return max(FEWEST_SAMPLES, min(SAMPLES, round(SHARE * PASSES * volumes / looks)))


def thinned(indices: Ints, most: int) -> Ints:
    """At most ``most`` of them, evenly spaced."""
    if len(indices) <= most:
        return indices
    return indices[np.linspace(0, len(indices) - 1, max(most, 1)).round().astype(np.int64)]


class Probing(lightning.Callback):
    """Looks every ``every`` steps, before the first and after the last, and logs what it sees.

    Figures go to the trainer's loggers and, whole, to ``probes.csv``; pictures of the objective (reconstructions, views,
    segmentations) to ``pictures-STEP.png``, both in the log's folder. A collapse is told on stderr.

    Args:
        probe: how to look.
        every: steps between looks.
        steps: of the run.
        seed: of the pictures' masks and views.
    """

    def __init__(self, probe: Probe, every: int, steps: int, seed: int = 0) -> None:
        self.probe, self.every, self.steps, self.seed = probe, every, steps, seed
        self.history: dict[int, dict[str, float]] = {}
        self.seconds = 0.0  # that looking took in this process

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far; kept in checkpoints, so that a resumed run's log is whole."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.history = dict(state_dict["history"])

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Untrained weights: what training is to be compared with."""
        if trainer.global_step == 0:
            self._look(trainer, module.kept)

    def on_train_batch_end(self, trainer: Any, module: Any, *arguments: Any) -> None:
        """Every ``every`` steps and after the last."""
        step = trainer.global_step
        if step not in self.history and (step % self.every == 0 or step == self.steps):
            self._look(trainer, module.kept)

    def _look(self, trainer: Any, objective: Objective) -> None:
        step, started = trainer.global_step, time.perf_counter()
        outlook = self.probe.look(objective.backbone)
        self.history[step] = outlook.figures()
        folder = Path(trainer.logger.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "probes.csv", self._table())
        self._draw(objective, folder / f"pictures-{step:06d}.png")
        if outlook.alarm and step > 0:
            print(f"brainloom: warning: step {step}: {outlook.alarm}", file=sys.stderr)
        taken = time.perf_counter() - started
        self.seconds += taken
        figures = {**self.history[step], "seconds": round(taken, 2)}
        for logger in trainer.loggers:
            logger.log_metrics({f"probe/{name}": value for name, value in figures.items()}, step=step)

    def _table(self) -> str:
        names = list(dict.fromkeys(name for row in self.history.values() for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", *names], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"step": step, **row} for step, row in sorted(self.history.items()))
        return text.getvalue()

    def _draw(self, objective: Objective, path: Path) -> None:
        from pretrain.pictures import sheet
        from synth.picture import save_png

        device = next(objective.backbone.parameters()).device
        batches = HeldOut(self.probe.corpus, self.probe.held_out[:SHOWN], device, objective.labels)
        with evaluating(objective):
            panels = objective.pictures(next(iter(batches)), torch.Generator().manual_seed(self.seed))
        if panels:
            save_png(sheet(panels), path)

    def summary(self) -> dict[str, float]:
        """For the model card: the last look and, of what the linear models read, the untrained backbone's."""
        if not self.history:
            return {}
        last = self.history[max(self.history)]
        first = self.history.get(0, {})
        shown = {f"probe_{name}": value for name, value in last.items() if not name.startswith(("knn_", "alarm"))}
        return shown | {
            f"probe_{name}_untrained": value
            for name, value in first.items()
            if name.startswith(("r_", "balanced_accuracy_"))
        }
