"""What is put on a backbone: a linear model on frozen features, or everything trained at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from pretrain.backbones import Backbone
from pretrain.intensity import augment, standardise

Floats = npt.NDArray[np.float64]
STRENGTHS = np.logspace(-3, 5, 17)  # penalties tried on the training people alone


@dataclass(frozen=True)
class FineTuning:
    """Full fine-tuning: AdamW, half-cosine schedule with one warm-up epoch, the last epoch's weights are used."""

    epochs: int = 30
    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.05


def linear_predict(
    features: npt.NDArray[np.floating], target: Floats, test: npt.NDArray[np.floating], classification: bool, seed: int
) -> Floats:
    """Logistic (balanced classes) or ridge regression on z-scored features; the penalty by cross-validation inside.

    Returns probabilities of class 1, or predictions in the target's unit, ``[n_test]``.
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    keep = features.std(0) > 1e-8
    if not keep.any():
        return np.full(len(test), target.mean())
    if not classification:
        model = make_pipeline(StandardScaler(), RidgeCV(STRENGTHS))
        predicted: Floats = model.fit(features[:, keep], target).predict(test[:, keep])
        return np.clip(predicted, target.min() - 15, target.max() + 15)
    folds = StratifiedKFold(
        max(2, min(4, int(min(target.sum(), len(target) - target.sum())))), shuffle=True, random_state=seed
    )
    logistic = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", solver="newton-cholesky"))
    penalties = {"logisticregression__C": np.logspace(-4, 1, 8)}
    search = GridSearchCV(logistic, penalties, cv=folds, scoring="neg_log_loss")
    with threadpool_limits(1):  # matrices this small only wait for threads
        probability: Floats = search.fit(features[:, keep], target).predict_proba(test[:, keep])[:, 1]
    return probability


def full_predict(
    backbone: Backbone,
    images: torch.Tensor,
    target: Floats,
    test: torch.Tensor,
    classification: bool,
    seed: int,
    options: FineTuning,
) -> Floats:
    """Train backbone and head together on ``images [N, C, D, H, W]``, predict ``test``; all randomness from ``seed``."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = backbone.to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = torch.nn.Linear(backbone.feature_size, 1).to(device)
    mean, sd = (0.0, 1.0) if classification else (float(target.mean()), float(target.std()) + 1e-6)
    wanted = torch.tensor((target - mean) / sd, dtype=torch.float32)
    weight = float((1 - target).sum() / max(target.sum(), 1)) if classification else 1.0
    _train(backbone, head, images, wanted, weight, classification, seed, options, device)
    backbone.eval()
    with torch.no_grad():
        parts = [head(backbone(standardise(part).to(device)).float()).squeeze(1).cpu() for part in test.split(16)]
    output = torch.cat(parts)
    result = output.sigmoid() if classification else output * sd + mean
    return result.numpy().astype(np.float64)


def _train(
    backbone: Backbone,
    head: torch.nn.Linear,
    images: torch.Tensor,
    wanted: torch.Tensor,
    weight: float,
    classification: bool,
    seed: int,
    options: FineTuning,
    device: torch.device,
) -> None:
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, options.learning_rate, weight_decay=options.weight_decay)
    generator = torch.Generator().manual_seed(seed)
    batches = max(1, len(images) // options.batch_size)
    total, ramp = batches * options.epochs, batches
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / ramp) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
    )
    backbone.train()
    for _ in range(options.epochs):
        order = torch.randperm(len(images), generator=generator)
        for batch in order.chunk(batches):
            with torch.autocast(device.type, torch.bfloat16):
                features = backbone(standardise(augment(images[batch], generator)).to(device))
            output = head(features.float()).squeeze(1)
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
