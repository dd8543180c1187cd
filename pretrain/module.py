"""Lightning's view of pre-training: loss of a batch, optimiser, moving average."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pretrain.backbones import Backbone
from pretrain.objectives.base import Objective
from pretrain.options import TrainOptions
from synth.errors import UserError
from synth.keys import rng_for
from synth.stream import Batch

GRADIENT_NORM = 1.0
BROKEN_STEPS = 50  # steps in a row without finite gradients after which training is given up


class Pretraining(lightning.LightningModule):
    """Augment, standardise, loss; AdamW with warm-up and cosine.

    Args:
        objective: to minimise.
        options: how.
        prepared: the stream has augmented and standardised already.

    Attributes:
        average: the objective's moving average (``AveragedModel``), or None.
        loss_sum: of the batches since a step, for logs.
    """

    def __init__(self, objective: Objective, options: TrainOptions, prepared: bool = False) -> None:
        super().__init__()
        self.objective, self.options = objective, options
        self.prepared = prepared  # the stream did it ahead
        self.broken = 0  # steps in a row without finite gradients
        self.average = averaged(objective, options.ema) if options.ema else None
        self.loss_sum: torch.Tensor | float = 0.0
        if options.compile:
            compile_backbone(objective.backbone)

    @property
    def kept(self) -> Objective:
        """What becomes the weights: the moving average where there is one."""
        if self.average is None:
            return self.objective
        return self.average.module  # type: ignore[return-value]  # a copy of the objective

    def training_step(self, batch: Batch, number: int) -> torch.Tensor:
        """Loss of one batch; its randomness is a function of (seed, global step, batch in the step, rank), so that a
        resumed run is the same."""
        generator = torch.Generator().manual_seed(self._key(number % self.options.accumulate))
        image = batch.image if self.prepared else self.objective.prepare(batch.image, generator)
        loss = self.objective.loss(image, batch.index, generator, batch.label)
        self.loss_sum = self.loss_sum + loss.detach()
        return loss

    def _key(self, part: int) -> int:
        if part == 0 and self.global_rank == 0:
            return self.options.seed * 1_000_003 + int(self.global_step)
        purpose = f"training batch {part} of rank {self.global_rank}"
        return int(rng_for(self.options.seed, int(self.global_step), purpose).integers(2**62))

    def take_loss(self) -> torch.Tensor:
        """Mean loss over the batches of the step that has just ended; begins the next."""
        taken = torch.as_tensor(self.loss_sum).float() / self.options.accumulate
        self.loss_sum = 0.0
        return taken

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Images and label maps to the device; numbers stay."""
        label = None if batch.label is None else batch.label.to(device, non_blocking=True)
        return Batch(batch.image.to(device, non_blocking=True), batch.index, label)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip to norm 1; gradients that are not finite are dropped, so that one bad batch cannot ruin the weights.

        torch 2.13's bfloat16 gradients of 3-D convolutions on CPU hold NaN now and then at 2³ cells.

        Raises:
            UserError: so many steps in a row that training is broken.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), GRADIENT_NORM)
        self.broken = 0 if torch.isfinite(norm) else self.broken + 1
        if self.broken:
            optimizer.zero_grad()
        if self.broken == BROKEN_STEPS:
            raise UserError(
                f"training broke at step {self.global_step}: {BROKEN_STEPS} steps in a row had no finite gradients; "
                f"choose a --learning-rate below {self.options.learning_rate:g}"
            )

    def configure_optimizers(self) -> Any:
        """AdamW; the rate warms up linearly and falls as a half cosine."""
        options = self.options
        groups = parameter_groups(self.objective, options.learning_rate, options.layer_decay)
        optimizer = torch.optim.AdamW(groups, options.learning_rate, weight_decay=options.weight_decay, fused=True)

        def rate(step: int) -> float:
            ramp = max(1, round(options.warmup * options.steps))
            if step < ramp:
                return (step + 1) / ramp
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - ramp) / max(1, options.steps - ramp))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """A step, and the average after it."""
        super().optimizer_step(*arguments, **named)
        if self.average is not None:
            self.average.update_parameters(self.objective)


def parameter_groups(objective: Objective, rate: float, decay: float) -> list[dict[str, Any]]:
    """Groups for the optimiser: layer l of the backbone's L learns at ``rate · decay^(L − 1 − l)``, what the objective
    adds at ``rate`` (Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT).

    Raises:
        UserError: a backbone that does not say what its layers are.
    """
    everything = [p for p in objective.parameters() if p.requires_grad]
    if decay == 1:
        return [{"params": everything}]
    backbone, named = objective.backbone, dict(objective.backbone.named_parameters())
    try:
        layers = backbone.layers()
    except TypeError as error:
        raise UserError(f"--layer-decay {decay:g}: {error}; choose another backbone, or 1") from error
    own = {id(p) for p in named.values()}
    groups = [{"params": [p for p in everything if id(p) not in own], "lr": rate}]
    for depth, names in enumerate(layers):
        parameters = [named[name] for name in names if named[name].requires_grad]
        groups.append({"params": parameters, "lr": rate * decay ** (len(layers) - 1 - depth)})
    return [group for group in groups if group["params"]]


def averaged(objective: nn.Module, decay: float) -> AveragedModel:
    """A copy that follows at ``min(decay, (1 + n) / (10 + n))`` after n steps: the first weights are soon forgotten.

    Buffers, a batch norm's statistics for one, are those of the last step.
    """

    def follow(means: Any, now: Any, steps: torch.Tensor | int) -> None:
        done = float(steps)
        get_ema_multi_avg_fn(min(decay, (1 + done) / (10 + done)))(means, now, steps)

    return AveragedModel(objective, multi_avg_fn=follow).requires_grad_(False)


def compile_backbone(backbone: Backbone, backend: Any = "inductor") -> None:
    """Compile what every objective calls: a transformer's blocks one by one (they are alike, so that one is compiled),
    else the feature map. Names of parameters stay as they are."""
    blocks = getattr(backbone, "blocks", None)
    if isinstance(blocks, nn.ModuleList):
        for block in blocks:
            block.compile(backend=backend)
    else:
        backbone.feature_map = torch.compile(backbone.feature_map, backend=backend)  # type: ignore[method-assign]
