"""What a run costs while it goes: loss, volumes a second, share of time waiting for data, memory, GPU-hours."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning
import torch

from pretrain.feed import Feed
from pretrain.options import TrainOptions
from synth.memory import peak_mb

LOG_STEPS = 10


class Meter(lightning.Callback):
    """Logs every tenth step (a tenth of a run shorter than a hundred) and sums up what a run takes, kills included.

    A row is written before the checkpoint of its step, so that a killed run's curve has no gap.

    Args:
        feed: where batches come from.
        options: of the run.
        aside: seconds so far that were not training, such as probes.
    """

    def __init__(self, feed: Feed, options: TrainOptions, aside: Callable[[], float] = lambda: 0.0) -> None:
        self.feed, self.options, self.aside = feed, options, aside
        self.every = min(LOG_STEPS, max(1, options.steps // 10))
        self.seconds, self.waited, self.steps = 0.0, 0.0, 0
        self.device = "cpu"
        self._since = (0.0, 0.0)  # clock and wait when the totals were brought up to date
        self._logged = (0, 0.0, 0.0)  # steps, seconds and wait at the last row

    def state_dict(self) -> dict[str, Any]:
        """Totals so far."""
        return {"seconds": self.seconds, "waited": self.waited, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's."""
        self.seconds, self.waited, self.steps = (state_dict[name] for name in ("seconds", "waited", "steps"))

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """The clock starts."""
        self.device = module.device.type
        self._since = (time.perf_counter() - self.aside(), self.feed.waited)
        self._logged = (self.steps, self.seconds, self.waited)

    def on_train_batch_end(self, trainer: Any, module: Any, *arguments: Any) -> None:
        """After every step: totals; now and then a row."""
        step = int(trainer.global_step)
        if step == self.steps:
            return
        self.steps = step
        clock = (time.perf_counter() - self.aside(), self.feed.waited)
        self.seconds += clock[0] - self._since[0]
        self.waited += clock[1] - self._since[1]
        self._since = clock
        loss = module.take_loss()
        if step % self.every == 0 or step == self.options.steps:
            loss = mean_of_ranks(loss)
            row = {"loss": float(loss), "learning_rate": trainer.optimizers[0].param_groups[0]["lr"], **self._rates()}
            for logger in trainer.loggers:
                logger.log_metrics(row, step=step)
                logger.save()

    def _rates(self) -> dict[str, float]:
        steps, seconds, waited = self._logged
        self._logged = (self.steps, self.seconds, self.waited)
        taken = max(self.seconds - seconds, 1e-6)
        return {
            "volumes_per_second": round((self.steps - steps) * self.options.volumes_a_step / taken, 2),
            "data_wait_share": round((self.waited - waited) / taken, 4),
            "memory_mb": self.memory_mb(),
            "gpu_hours": round(self.gpu_hours(), 5),
        }

    def memory_mb(self) -> float:
        """Highest memory of this process in MB (10⁶ bytes): the GPU's where there is one, else resident memory."""
        if self.device == "cuda":
            return round(torch.cuda.max_memory_allocated() / 1e6, 1)
        return peak_mb()

    def gpu_hours(self) -> float:
        """Hours of the run times GPUs; 0 without any."""
        return self.seconds / 3600 * self.options.workers if self.device == "cuda" else 0.0

    def summary(self) -> dict[str, Any]:
        """For the model card; of the whole run, also of the parts before a kill."""
        taken = max(self.seconds, 1e-3)
        return {
            "seconds": round(self.seconds, 1),
            "volumes_per_second": round(self.steps * self.options.volumes_a_step / taken, 1),
            "data_wait_share": round(self.waited / taken, 4),
            "memory_mb": self.memory_mb(),
            "gpu_hours": round(self.gpu_hours(), 5),
        }


def mean_of_ranks(value: torch.Tensor) -> torch.Tensor:
    """Mean over the processes that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
        value = value / torch.distributed.get_world_size()
    return value
