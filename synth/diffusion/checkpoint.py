"""Training that survives being killed: state written whole or not at all, and read back without running code."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synth.errors import UserError

SECONDS_BETWEEN = 30.0
"""At least this long from one checkpoint to the next, so that large networks spend little time writing."""


@dataclass
class Stage:
    """One network while it learns.

    Attributes:
        name: autoencoder or diffusion.
        model: what learns.
        optimizer: of the model's parameters.
        average: exponential moving average of the model, or None.
        loss: running mean of the loss.
    """

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None = None
    loss: float = float("nan")

    def state(self, step: int) -> dict[str, Any]:
        """Everything needed to go on after ``step`` steps."""
        average = None if self.average is None else self.average.state_dict()
        return {
            "stage": self.name,
            "step": step,
            "loss": self.loss,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": average,
        }

    def load(self, state: dict[str, Any]) -> int:
        """Take up a state; returns the steps done."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.loss = float(state["loss"])
        return int(state["step"])


class Keeper:
    """The checkpoint file of a training folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = time.monotonic()

    def restore(self, stage: Stage) -> int:
        """Steps of this stage already done, its state taken up; 0 when there is no checkpoint of it.

        Raises:
            UserError: a checkpoint that cannot be read.
        """
        if not self.path.exists():
            return 0
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            return stage.load(state) if state["stage"] == stage.name else 0
        except Exception as error:
            raise UserError(
                f"checkpoint '{self.path}' is damaged ({' '.join(str(error).split())[:100]}); "
                "delete it to begin this stage again"
            ) from error

    def keep(self, stage: Stage, step: int) -> None:
        """Write the state, unless the last writing was moments ago."""
        if time.monotonic() - self.last < SECONDS_BETWEEN:
            return
        write_whole(self.path, lambda path: torch.save(stage.state(step), path))
        self.last = time.monotonic()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, which then takes its place: a crash leaves the old or the new one."""
    temporary = path.with_name(f".{path.name}.part")
    write(temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
