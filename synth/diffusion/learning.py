"""One stage of training on Lightning: steps, warm-up and cosine, moving average, checkpoints, exact resume, pictures."""

from __future__ import annotations

import copy
import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from synth.diffusion.settings import Size
from synth.errors import UserError
from synth.keys import rng_for
from synth.progress import progress_bar
from synth.stream import Batch, Stream

GRADIENT_NORM = 1.0
LOSS_MEMORY = 0.98
LOG_STEPS = 10
CHECKPOINT_SECONDS = 30.0  # large networks should spend little time writing
BF16_LEAST_CELLS = 4  # along the shortest axis of the coarsest level


@dataclass(frozen=True)
class Course:
    """How a stage runs.

    Attributes:
        out: folder of the weights; checkpoints, log and pictures go into folders of it.
        steps, rate: optimiser steps and peak learning rate.
        seed: of everything random.
        precision: Lightning's word: 32-true or bf16-mixed.
        previews: pictures to draw, evenly spaced, the last one at the end.
    """

    out: Path
    steps: int
    rate: float
    seed: int
    precision: str
    previews: int

    def previewed(self, step: int) -> bool:
        """Whether a picture is due after ``step`` steps."""
        return self.previews > 0 and step in {
            round(self.steps * (at + 1) / self.previews) for at in range(self.previews)
        }


class Learning(lightning.LightningModule):
    """A network while it learns; the randomness of a step is a function of (seed, step), so a resumed run is the same.

    Sub-classes give ``loss_of`` a batch, and may ``preview``.

    Attributes:
        net: what learns.
        average: its exponential moving average, or None.
        running: the loss, smoothed.
    """

    name = "stage"
    running: Tensor

    def __init__(self, net: nn.Module, course: Course, decay: float | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net, self.course, self.decay = net, course, decay
        self.average = copy.deepcopy(net).requires_grad_(False) if decay is not None else None
        self.register_buffer("running", torch.tensor(math.nan))
        self.draw: Callable[[Path], None] | None = None

    def loss_of(self, batch: Batch, step: int) -> Tensor:
        """The loss of one batch."""
        raise NotImplementedError

    def rng(self, step: int, purpose: str) -> np.random.Generator:
        """Random numbers of one step."""
        return rng_for(self.course.seed, step, f"{self.name} {purpose}")

    def like(self, tensor: Tensor, rng: np.random.Generator) -> Tensor:
        """Standard normal noise like a tensor, the same on every device."""
        return torch.from_numpy(rng.standard_normal(tuple(tensor.shape), np.float32)).to(tensor.device)

    def training_step(self, batch: Batch, number: int) -> None:
        """One step. Gradients that are not finite are dropped: one bad batch must not ruin the weights.

        Raises:
            UserError: the loss is not finite.
        """
        step = int(self.global_step)
        found: Any = self.optimizers()
        optimizer = found[0] if isinstance(found, list) else found
        for group in optimizer.param_groups:
            group["lr"] = self.course.rate * rate_at(step, self.course.steps)
        loss = self.loss_of(batch, step)
        self._remember(float(loss.detach()), step)
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), GRADIENT_NORM)
        if not torch.isfinite(norm):
            optimizer.zero_grad(set_to_none=False)
        optimizer.step()
        self._average(step)
        self.after(step)

    def after(self, step: int) -> None:
        """What else is to be done after a step."""

    def _remember(self, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise UserError(
                f"the loss of the {self.name} is {value} at step {step}; try another --seed, a lower learning rate or a "
                "larger batch size"
            )
        before = float(self.running)
        self.running.fill_(value if math.isnan(before) else LOSS_MEMORY * before + (1 - LOSS_MEMORY) * value)
        self.log("loss", value)

    def _average(self, step: int) -> None:
        if self.average is None or self.decay is None:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        for mean, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
            mean.lerp_(now.detach(), 1 - decay)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Images and label maps to the device; numbers stay."""
        label = None if batch.label is None else batch.label.to(device, non_blocking=True)
        return Batch(batch.image.to(device, non_blocking=True), batch.index, label)

    def configure_optimizers(self) -> Any:
        """AdamW."""
        trained = [p for p in self.net.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, self.course.rate, weight_decay=1e-4, fused=True)

    @property
    def kept(self) -> nn.Module:
        """What becomes the weights: the moving average where there is one."""
        return self.net if self.average is None else self.average


class _Kept(lightning.Callback):
    """A checkpoint now and then, whole or not there. Lightning's own callback keeps no time in manual optimisation."""

    def __init__(self, path: Path) -> None:
        self.path, self.last = path, time.monotonic()

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        """Save, if the last time is long enough ago."""
        if time.monotonic() - self.last < CHECKPOINT_SECONDS:
            return
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)
        part.replace(self.path)
        self.last = time.monotonic()


class _Shown(lightning.Callback):
    """Progress through our own bar, and pictures when they are due."""

    def __init__(self, show: Any, course: Course) -> None:
        self.show, self.course = show, course

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Start from where a resumed run stands."""
        self.show(trainer.global_step, self.course.steps)

    def on_train_batch_end(self, trainer: Any, module: Any, *arguments: Any) -> None:
        """One step more."""
        step = trainer.global_step
        self.show(step, self.course.steps, f"loss {float(module.running):.4f}")
        if module.draw is not None and self.course.previewed(step):
            folder = self.course.out / "progress"
            folder.mkdir(exist_ok=True)
            module.draw(folder / f"{module.name}-{step:06d}.png")


def learn(module: Learning, stream: Stream) -> float:
    """Run the steps that are left; returns the smoothed loss."""
    course = module.course
    last = course.out / "checkpoints" / f"{module.name}.ckpt"
    last.parent.mkdir(exist_ok=True)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # its tips and hardware lines
    with progress_bar(f"train {module.name}", "steps") as show, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about loader workers and loggers does not apply
        trainer = lightning.Trainer(
            max_steps=course.steps,
            max_epochs=-1,
            accelerator="auto",
            devices=1,
            precision=course.precision,  # type: ignore[arg-type]
            callbacks=[_Kept(last), _Shown(show, course)],
            enable_checkpointing=False,
            logger=CSVLogger(course.out, name="log", version=module.name),
            log_every_n_steps=min(LOG_STEPS, max(1, course.steps // 10)),
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        try:
            trainer.fit(module, stream, ckpt_path=str(last) if last.exists() else None, weights_only=True)
        except SystemExit as error:  # Lightning's answer to Ctrl-C; ours is given by the front door
            raise KeyboardInterrupt from error
    return float(module.running)


def rate_at(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up over 5 % (at most 500 steps), then a cosine down to 0."""
    warm = min(max(1, steps // 20), 500)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def initialised(seed: int, build: Callable[[], Any]) -> Any:
    """A network whose first weights depend on the seed alone; torch's global stream is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed % 2**63)
        return build()


def precision_for(asked: str, size: Size, shape: Sequence[int]) -> str:
    """Lightning's word for ``auto``, ``bf16`` or ``fp32``: bfloat16 where the processor computes in it, which halved
    the time of a step on CPU cores that do.

    Not on a CPU when the coarsest level is small: torch 2.13's bfloat16 gradients of a 3D convolution held NaN in 7 of
    40 steps at 2×2×2 cells, in none of 40 at 3×3×3. A GPU that only emulates bfloat16 (before NVIDIA's Ampere) computes in 32
    bits, which is said: emulated it is slower, and 16-bit floats with scaled losses are not offered.
    """
    if asked != "auto":
        return "bf16-mixed" if asked == "bf16" else "32-true"
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed"
        print("this GPU does not compute in bfloat16; training in 32 bits takes more time and memory")
        return "32-true"
    native = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    coarsest = min(-(-n // size.multiple) for n in shape)
    return "bf16-mixed" if native and coarsest >= BF16_LEAST_CELLS else "32-true"
