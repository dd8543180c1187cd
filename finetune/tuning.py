"""Training a backbone with its head: everything, or adapters alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from finetune.heads import FineTuning, Fitted, Floats, Ints, unbalanced
from finetune.splits import pick_labels
from pretrain.backbones import Backbone
from pretrain.intensity import augment, standardise

VALIDATION_SHARE = 0.25


class Tuned(nn.Module):
    """Backbone and a linear head: ``[B, C, D, H, W]`` → ``[B]``."""

    def __init__(self, backbone: Backbone, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(backbone.feature_size, 1)
        self.backbone = backbone


def fit_tuned(
    make: Callable[[], Backbone],
    images: torch.Tensor,
    target: Floats,
    test: torch.Tensor,
    classification: bool,
    seed: int,
    people: Ints,
    options: FineTuning,
) -> Fitted:
    """Choose the learning rate on validation people drawn from the training people, then train on all of them.

    Args:
        make: the backbone as it starts, parameters that are to stay being without gradient.
        images, test: ``[N, C, D, H, W]`` as stored.
        target: ``[N]``.
        classification, seed: all randomness is from ``seed``.
        people: whose each image is.
        options: how.
    """
    rates = options.rates or (options.learning_rate,)
    learn, held = _validation(target, classification, seed, people)
    tried = []
    for rate in rates:  # one rate alone too: thresholds and corrections are of people it has not learnt from
        (said,) = train_and_predict(
            make(), images[learn], target[learn], [images[held]], classification, seed, options, rate
        )
        tried.append((_loss(target[held], said, classification), rate, said))
    _, rate, said = min(tried, key=lambda one: one[0])
    (predicted,) = train_and_predict(make(), images, target, [test], classification, seed, options, rate)
    return Fitted(predicted, said, target[held], "validation", {"learning_rate": rate})


def _validation(target: Floats, classification: bool, seed: int, people: Ints) -> tuple[Ints, Ints]:
    names, first = np.unique(people, return_index=True)
    own = target[first]
    picked = pick_labels(
        np.arange(len(names)), own, classification, max(2, round(VALIDATION_SHARE * len(names))), seed + 1
    )
    held = np.isin(people, names[picked])
    return np.flatnonzero(~held), np.flatnonzero(held)


def _loss(target: Floats, said: Floats, classification: bool) -> float:
    """Log loss, or mean absolute error."""
    if not classification:
        return float(np.abs(target - said).mean())
    sure = np.clip(said, 1e-6, 1 - 1e-6)
    return float(-(target * np.log(sure) + (1 - target) * np.log(1 - sure)).mean())


def train_and_predict(
    backbone: Backbone,
    images: torch.Tensor,
    target: Floats,
    asked: list[torch.Tensor],
    classification: bool,
    seed: int,
    options: FineTuning,
    rate: float,
) -> list[Floats]:
    """Train on ``images [N, C, D, H, W]``, predict each of ``asked``.

    Classes weigh the same in the loss; probabilities are those of classes as frequent as in ``target``.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Tuned(backbone, seed).to(device)
    mean, sd = (0.0, 1.0) if classification else (float(target.mean()), float(target.std()) + 1e-6)
    wanted = torch.tensor((target - mean) / sd, dtype=torch.float32)
    weight = float((1 - target).sum() / max(target.sum(), 1)) if classification else 1.0
    _train(model, images, wanted, weight, classification, seed, options, rate, device)
    found = []
    for part in asked:
        output = _outputs(model, part, device)
        result = (output.double().sigmoid() if classification else output * sd + mean).numpy().astype(np.float64)
        found.append(unbalanced(result, float(target.mean())) if classification else result)
    return found


@torch.no_grad()
def _outputs(model: Tuned, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    model.eval()
    parts = [model.head(model.backbone(standardise(part).to(device)).float()) for part in images.split(16)]
    return torch.cat(parts).squeeze(1).cpu()


def _train(
    model: Tuned,
    images: torch.Tensor,
    wanted: torch.Tensor,
    weight: float,
    classification: bool,
    seed: int,
    options: FineTuning,
    rate: float,
    device: torch.device,
) -> None:
    from pretrain.module import parameter_groups

    groups = parameter_groups(cast(Any, model), rate, options.layer_decay)
    parameters = [one for group in groups for one in group["params"]]
    optimizer = torch.optim.AdamW(groups, rate, weight_decay=options.weight_decay, fused=True)
    generator = torch.Generator().manual_seed(seed)
    batches = max(1, len(images) // options.batch_size)
    total, ramp = batches * options.epochs, batches
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / ramp) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
    )
    model.train()
    for _ in range(options.epochs):
        order = torch.randperm(len(images), generator=generator)
        for batch in order.chunk(batches):
            with torch.autocast(device.type, torch.bfloat16):
                features = model.backbone(standardise(augment(images[batch], generator)).to(device))
            output = model.head(features.float()).squeeze(1)
            goal = wanted[batch].to(device)
            if classification:
                loss = F.binary_cross_entropy_with_logits(output, goal, pos_weight=torch.tensor(weight, device=device))
            else:
                loss = F.smooth_l1_loss(output, goal)
            optimizer.zero_grad()
            loss.backward()
            if torch.isfinite(torch.nn.utils.clip_grad_norm_(parameters, 1.0)):  # see Pretraining's clipping
                optimizer.step()
            schedule.step()
