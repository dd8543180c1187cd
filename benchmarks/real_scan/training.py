"""Training on volumes that are made as they are asked for; goes on from its checkpoint after a kill."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.real_scan.network import CellUNet, dice_cross_entropy
from benchmarks.real_scan.volumes import Volume
from synth.errors import UserError

GRADIENT_NORM = 1.0
WARMUP = 0.05  # share of the run
RARITY = 0.5  # at the start, none at the end: rare classes are found first, then bounded without favour
CHECKPOINT_SECONDS = 30.0

Show = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        steps: volumes seen at most, one a step.
        minutes: of training at most. Whichever of the two is nearer its end decides how far the run is, so that a slow
            machine ends with a small learning rate too; the weights are a function of the seed where steps decide.
        learning_rate: the highest, after the warm-up; it falls to 0 as a half cosine.
        weight_decay: AdamW's.
        averaging: decay per step of the running mean of the weights, which is what is kept.
    """

    steps: int
    minutes: float
    learning_rate: float
    weight_decay: float
    averaging: float

    def progress(self, step: int, seconds: float) -> float:
        """Share of the run that is over, 0 to 1."""
        return min(1.0, max(step / self.steps, seconds / (60 * self.minutes)))

    def rate(self, progress: float) -> float:
        """Learning rate at ``progress``."""
        if progress < WARMUP:
            return self.learning_rate * (0.05 + 0.95 * progress / WARMUP)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


@dataclass
class Run:
    """A training run's state: everything its next step depends on."""

    network: CellUNet
    average: CellUNet
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)

    @classmethod
    def new(cls, network: CellUNet, schedule: Schedule) -> Run:
        """Step 0 of ``network``."""
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(
            network.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay, foreach=True
        )
        return cls(network, deepcopy(network).requires_grad_(False), optimizer)

    def save(self, path: Path, identity: str) -> None:
        """Write the state in one go: a kill leaves the previous one or this one."""
        state = {
            "identity": identity,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
        }
        beside = path.with_name(path.name + ".part")
        torch.save(state, beside)
        os.replace(beside, path)  # noqa: PTH105

    def load(self, path: Path, identity: str) -> None:
        """Take over the state in ``path``. Raises UserError when it is another recipe's, or damaged."""
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UserError(f"checkpoint '{path}' cannot be read ({type(error).__name__}); remove it") from error
        if state["identity"] != identity:
            raise UserError(f"'{path.parent}' holds an unfinished run of another recipe; choose another --out")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]


def train(
    run: Run, schedule: Schedule, volume: Callable[[int], Volume], save: Callable[[], None], show: Show | None = None
) -> None:
    """Take every step that is left. ``save`` is called twice a minute and at the end."""
    saved = last = time.monotonic()
    while schedule.progress(run.step, run.seconds) < 1:
        image, target = volume(run.step)
        loss = train_step(run, schedule, torch.from_numpy(image), torch.from_numpy(target))
        run.losses.append(round(loss, 5))
        run.step += 1
        now = time.monotonic()
        run.seconds, last = run.seconds + now - last, now
        if now - saved > CHECKPOINT_SECONDS:
            save()
            saved = time.monotonic()
        if show is not None:
            show(run.step, schedule.steps, recent(run.losses))
    save()


def train_step(run: Run, schedule: Schedule, image: torch.Tensor, target: torch.Tensor) -> float:
    """One volume ``[D, H, W]`` and its classes: loss, gradient, AdamW, running mean. Returns the loss.

    Gradients that are not finite are dropped: torch 2.13's bfloat16 convolutions on CPU make one now and then.
    """
    progress = schedule.progress(run.step, run.seconds)
    rate = schedule.rate(progress)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast("cpu", torch.bfloat16):
        cells = run.network.cells(image[None, None])
    loss = dice_cross_entropy(cells, target[None].long(), RARITY * (1 - progress))
    run.optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), GRADIENT_NORM)
    if torch.isfinite(norm):
        run.optimizer.step()
    weight = 1 - min(schedule.averaging, (run.step + 1) / (run.step + 10))  # a young mean forgets its start sooner
    with torch.no_grad():
        for mean, new in zip(run.average.parameters(), run.network.parameters(), strict=True):
            mean.lerp_(new, weight)
    return float(loss.detach())


def recent(losses: list[float], count: int = 50) -> float:
    """Mean of the last losses."""
    return sum(losses[-count:]) / max(1, len(losses[-count:]))
