"""How to pre-train: the options of a run, and what they may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from synth.errors import UserError

HOW_LOOKED_AT = ("probe_every", "probe_samples")  # options that change no weights


@dataclass(frozen=True)
class TrainOptions:
    """How to pre-train. ``learning_rate`` is reached after ``warmup`` (share of the steps) and falls as a cosine.

    Attributes:
        batch_size: volumes that one process takes at once.
        init: see :mod:`pretrain.starts`.
        probe_every: steps between probes, a quarter of the run if None, 0 never; ``probe_samples``: volumes each looks at,
            see :func:`pretrain.probing.affordable` if None.
        accumulate: batches whose gradients make one step.
        layer_decay: factor of the learning rate from each layer of the backbone to the one before it; 1 is the same
            everywhere (Clark et al. 2020, ELECTRA; 0.65 to 0.75 in MAE's fine-tuning, He et al. 2022).
        ema: decay of an exponential moving average of the weights, such as 0.999, that is kept instead of the last
            ones; 0 for none.
        compile: the backbone through torch.compile.
        workers: processes that train together, each with a batch of its own.
    """

    backbone: str = "sfcn_s"
    objective: str = "supervised"
    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    seed: int = 0
    precision: str = "bf16"
    init: str = "scratch"
    objective_options: dict[str, Any] = field(default_factory=dict)
    probe_every: int | None = None
    probe_samples: int | None = None
    accumulate: int = 1
    layer_decay: float = 1.0
    ema: float = 0.0
    compile: bool = False
    workers: int = 1

    @property
    def volumes_a_step(self) -> int:
        """Volumes behind one step of the optimiser, all processes together."""
        return self.batch_size * self.accumulate * self.workers

    def check(self) -> None:
        """Raise UserError for a number out of its range."""
        for name in ("steps", "batch_size", "accumulate", "workers"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; expected 1 or more")
        for name, number, least in (("every", self.probe_every, 0), ("samples", self.probe_samples, 2)):
            if number is not None and number < least:
                raise UserError(f"--probe-{name} is {number}; expected {least} or more")
        if not 0 < self.learning_rate < 1:
            raise UserError(f"--learning-rate is {self.learning_rate}; expected a number between 0 and 1")
        if not 0 <= self.weight_decay < float("inf"):
            raise UserError(f"--weight-decay is {self.weight_decay}; expected 0 or more")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"--layer-decay is {self.layer_decay}; expected above 0 and at most 1, such as 0.75")
        if not 0 <= self.ema < 1:
            raise UserError(f"--ema is {self.ema}; expected 0 for none, or a decay below 1 such as 0.999")
