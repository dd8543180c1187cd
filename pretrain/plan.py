"""What a run will take, before it starts: a few of its steps are taken in a process of their own and thrown away."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pretrain.options import TrainOptions
from synth.errors import UserError

BUDGET_S = 12.0  # of timing
FEWEST_STEPS, MOST_STEPS = 2, 20
ADAMW_BYTES = 16  # a parameter in training: float32 weight, gradient and two moments
AVERAGE_BYTES = 4


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        parameters: that learn, the objective's own with the backbone's.
        memory_mb: highest memory of a process (10⁶ bytes): the GPU's where there is one.
        seconds: of a step, reading its volumes too; from ``timed`` steps after one that warmed up.
        wait: share of it spent waiting for data.
        device: what it was timed on.
    """

    options: TrainOptions
    parameters: int
    memory_mb: float
    seconds: float
    wait: float
    timed: int
    device: str
    shape: tuple[int, ...]

    @property
    def hours(self) -> float:
        """Of the whole run, without probes."""
        return self.options.steps * self.seconds / 3600

    def __str__(self) -> str:
        from synth.plan import hours, size

        options, gpu = self.options, self.device == "cuda"
        held = self.parameters * (ADAMW_BYTES + AVERAGE_BYTES * bool(options.ema))
        each = f"{options.batch_size} × {options.accumulate} × {options.workers}"
        volumes = "×".join(map(str, self.shape[1:]))
        return "\n".join(
            [
                f"steps     {options.steps:,} of {options.volumes_a_step:,} volumes of {volumes} ({each}: batch, accumulated, workers)",
                f"memory    {size(self.memory_mb * 1e6)} {'of the GPU' if gpu else 'a process'}, of it {size(held)} weights, "
                f"gradients and moments of {self.parameters / 1e6:.2f} M parameters",
                f"time      {hours(self.hours)} ({1000 * self.seconds:,.0f} ms a step on one {self.device}, {self.timed} timed; "
                f"{self.wait:.0%} of it waiting for data), without probes",
                f"GPU       {self.hours * options.workers if gpu else 0.0:.2f} GPU-hours",
            ]
        )


def plan(places: Sequence[Path | str], options: TrainOptions, ratios: Sequence[float] | None = None) -> Plan:
    """Take a few steps of a run; nothing is written. Workers are taken to be as quick as one.

    Raises:
        UserError: bad options or corpus, or too little memory, with what to lower.
    """
    options.check()
    with tempfile.TemporaryDirectory(prefix="brainloom-plan-") as folder:
        asked, answer = Path(folder) / "run.json", Path(folder) / "answer.json"
        found = {"places": [str(place) for place in places], "ratios": list(ratios) if ratios else None}
        asked.write_text(json.dumps({**found, "options": asdict(options)}))
        ended = subprocess.run([sys.executable, "-m", "pretrain.plan", folder], capture_output=True, text=True)
        if not answer.is_file():
            raise UserError(_why(ended, options))
        told = json.loads(answer.read_text())
    if "error" in told:
        raise UserError(told["error"])
    return Plan(options=options, **{**told, "shape": tuple(told["shape"])})


def _why(ended: subprocess.CompletedProcess[str], options: TrainOptions) -> str:
    from pretrain.out_of_memory import what_to_lower

    if ended.returncode == -9:  # what Linux does to a process that takes all memory
        return f"the system ended a step with {options.batch_size} volumes a batch, most likely out of memory; take {what_to_lower(options)}"
    said = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return f"a few steps could not be taken to time them: {said}"


def measure(places: Sequence[str], ratios: Sequence[float] | None, options: TrainOptions) -> dict[str, Any]:
    """What :class:`Plan` holds, of steps taken in this process."""
    import torch

    from pretrain.backbones.base import count_parameters
    from pretrain.launch import World
    from pretrain.out_of_memory import told_simply
    from pretrain.train import begin, make_stream
    from pretrain.weights import Weights
    from synth.memory import peak_mb

    one = replace(options, workers=1)
    with tempfile.TemporaryDirectory(prefix="brainloom-plan-") as nowhere:
        job = begin(places, Path(nowhere), one, ratios, False)
    assert not isinstance(job, Weights)
    with told_simply(options, job.corpus.image_shape):
        seconds, wait, timed, device = _timed(job, one, make_stream(job, one, World()))
    return {
        "parameters": count_parameters(job.objective),
        "memory_mb": torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else peak_mb(),
        "seconds": seconds,
        "wait": wait,
        "timed": timed,
        "device": device,
        "shape": job.corpus.image_shape,
    }


def _timed(job: Any, options: TrainOptions, stream: Any) -> tuple[float, float, int, str]:
    """(seconds a step, share of waiting, steps timed, device)."""
    import torch

    from pretrain.feed import Feed
    from pretrain.module import Pretraining, parameter_groups

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = Pretraining(job.objective, options, prepared=stream.transform is not None).to(device)
    groups = parameter_groups(job.objective, options.learning_rate, options.layer_decay)
    optimizer = torch.optim.AdamW(groups, options.learning_rate)
    feed = Feed(stream, options.accumulate * (MOST_STEPS + 1))
    batches = iter(feed)

    def step() -> None:
        for part in range(options.accumulate):
            with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
                loss = module.training_step(module.transfer_batch_to_device(next(batches), device, 0), part)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    step()
    begun, before, done = time.perf_counter(), feed.waited, 0
    while done < FEWEST_STEPS or (done < MOST_STEPS and time.perf_counter() - begun < BUDGET_S):
        step()
        done += 1
    taken = time.perf_counter() - begun
    return taken / done, (feed.waited - before) / taken, done, device.type


def _main(folder: Path) -> None:
    from synth.storage import write_atomically

    asked = json.loads((folder / "run.json").read_text())
    try:
        told = measure(asked["places"], asked["ratios"], TrainOptions(**asked["options"]))
    except UserError as error:
        told = {"error": str(error)}
    write_atomically(folder / "answer.json", json.dumps(told))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
