"""Where training runs: this process alone, one of those that torchrun started, or Ray Train workers.

Ray Train gives its workers the variables that torchrun gives (RANK, WORLD_SIZE, LOCAL_RANK, …), so that both are one
case for the rest of the room.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pretrain.options import TrainOptions
from synth.errors import UserError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    Attributes:
        rank, size: over all machines; ``local_rank, local_size``: on this one.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def told(self, options: TrainOptions) -> TrainOptions:
        """The options with as many workers as there are. Raises UserError when another number was asked for."""
        if self.size == 1:
            return options
        if options.workers not in (1, self.size):
            raise UserError(
                f"--workers is {options.workers}, but torchrun has started {self.size} processes; leave --workers out"
            )
        return replace(options, workers=self.size)

    def for_lightning(self) -> dict[str, Any]:
        """The Trainer's devices, nodes and strategy. An objective may leave a parameter out of a step."""
        if self.size == 1:
            return {"devices": 1}
        import torch
        from lightning.pytorch.strategies import DDPStrategy

        from pretrain.lightning_parts import UnevenNodes

        return {
            "devices": self.local_size,
            "num_nodes": -(-self.size // self.local_size),
            "strategy": DDPStrategy(find_unused_parameters=True),
            "plugins": [UnevenNodes()],
            "sync_batchnorm": torch.cuda.is_available(),  # torch has none for CPUs
        }


def world_here() -> World:
    """What the variables of torchrun, or of Ray Train, say; one process without them."""
    if any(name not in os.environ for name in VARIABLES):
        return World()
    rank, size, local_rank = (int(os.environ[name]) for name in VARIABLES[:3])
    return World(rank, size, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", size)))


def together() -> None:
    """Wait for the other processes, where there are any."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def on_ray(
    places: Sequence[Path | str],
    out: Path,
    options: TrainOptions,
    ratios: Sequence[float] | None,
    follow: bool,
    loggers: Sequence[str],
    address: str | None,
) -> None:
    """Train in ``options.workers`` Ray Train workers, on GPUs where there are enough; they write to ``out``.

    Raises:
        UserError: Ray Train is not installed, nobody answers at the address, or what a worker has to say.
    """
    from synth.pool import Workers, ray_session

    team = Workers(options.workers, address)
    team.check()
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    job = {
        "places": [str(place) if "://" in str(place) else str(Path(place).resolve()) for place in places],
        "out": str(out.resolve()),
        "options": asdict(options),
        "ratios": None if ratios is None else list(ratios),
        "follow": follow,
        "loggers": list(loggers),
    }
    with ray_session(team, (str(Path.cwd()),)) as ray:
        try:
            _run(ray, job, options.workers, out)
        except ImportError as error:
            raise UserError(
                f"--workers {options.workers} needs Ray Train ({error}); pip install 'ray[train]'"
            ) from error


def _run(ray: Any, job: dict[str, Any], workers: int, out: Path) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    on_gpus = ray.cluster_resources().get("GPU", 0) >= workers
    trainer = TorchTrainer(
        work,
        train_loop_config=job,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=on_gpus),
        torch_config=TorchConfig(backend="nccl" if on_gpus else "gloo"),
        run_config=RunConfig(name="ray", storage_path=str(out.resolve() / "checkpoints")),
    )
    try:
        trainer.fit()
    except Exception as error:
        said = sentence_of(error)
        if said:
            raise UserError(said) from error
        raise


def work(job: dict[str, Any]) -> None:
    """One Ray Train worker."""
    from pretrain.train import pretrain

    options = TrainOptions(**job["options"])
    pretrain(job["places"], Path(job["out"]), options, job["ratios"], job["follow"], job["loggers"])


def sentence_of(error: BaseException) -> str:
    """What a worker's UserError says, however Ray has wrapped it; empty where it was none."""
    failures = list(getattr(error, "worker_failures", {}).values())
    inner = [*failures, getattr(error, "_base_exc", None), getattr(error, "cause", None), error.__cause__]
    if isinstance(error, UserError):
        return str(error)
    return next(filter(None, (sentence_of(e) for e in inner if isinstance(e, BaseException))), "")
