"""Supervised on synthetic targets: age, sex, diagnosis and every regional volume, which synthesis knows for free."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from pretrain.backbones import Backbone
from pretrain.objectives.base import Objective
from synth.corpus import Corpus
from synth.errors import UserError
from synth.stream.merged import Merged

VOLUME = "volume_"
PREFER_CATEGORY = ("sex", "diagnosis")


def numeric_targets(table: Any) -> tuple[list[str], npt.NDArray[np.float32]]:
    """(names, ``[N, T]`` z-scores, NaN where missing) of a corpus's covariates.

    Volumes (mm³) are summed over left and right, so that a mirrored volume keeps its targets, and logged; age is
    taken as it is. Targets that hardly vary or are mostly absent are left out.
    """
    columns: dict[str, npt.NDArray[np.float64]] = {}
    for name in table.columns:
        if name.startswith(VOLUME):
            structure = VOLUME + name.removeprefix(VOLUME).removeprefix("left_").removeprefix("right_")
            columns[structure] = columns.get(structure, np.zeros(len(table))) + table[name].fillna(0).to_numpy(float)
        elif name == "age":
            columns[name] = table[name].to_numpy(float)
    kept, values = [], []
    for name, column in columns.items():
        if name.startswith(VOLUME):
            column = np.log(np.where(column > 0, column, np.nan))
        known = np.isfinite(column)
        if known.mean() < 0.5 or np.nanstd(column) < 1e-6:
            continue
        kept.append(name)
        values.append((column - np.nanmean(column)) / np.nanstd(column))
    return kept, np.array(values, np.float32).T.reshape(len(table), len(kept))


class Supervised(Objective):
    """One linear head per target: squared error on z-scored numbers, cross-entropy on sex and diagnosis.

    Raises:
        UserError: a corpus without any covariate to learn from.
    """

    def __init__(self, backbone: Backbone, corpus: Corpus | Merged, seed: int) -> None:
        super().__init__()
        self.backbone = backbone
        table = corpus.covariates()
        self.names, numbers = numeric_targets(table)
        self.words = {
            name: sorted(table[name].dropna().unique())
            for name in PREFER_CATEGORY
            if name in table.columns and table[name].dtype.kind not in "fi"
        }
        self.words = {name: words for name, words in self.words.items() if len(words) > 1}
        if not self.names and not self.words:
            raise UserError(
                f"corpus '{corpus.path}' has no age, sex, diagnosis or volume_… covariate; use --objective mae"
            )
        self.numbers = torch.from_numpy(numbers)
        self.codes = {
            name: torch.tensor([words.index(w) if w in words else -1 for w in table[name]])
            for name, words in self.words.items()
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            outputs = len(self.names) + sum(map(len, self.words.values()))
            self.head = nn.Sequential(nn.BatchNorm1d(backbone.feature_size), nn.Linear(backbone.feature_size, outputs))

    def loss(self, image: torch.Tensor, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Mean squared error of the numbers plus a quarter of each cross-entropy."""
        output = self.head(self.backbone(image).float())
        target = self.numbers[index.cpu()].to(output.device)
        known = torch.isfinite(target)
        errors = (output[:, : len(self.names)] - torch.where(known, target, 0.0)).square() * known
        loss = errors.sum() / known.sum().clamp_min(1)
        at = len(self.names)
        for name, words in self.words.items():
            logits = output[:, at : at + len(words)]
            loss = loss + 0.25 * F.cross_entropy(
                logits, self.codes[name][index.cpu()].to(output.device), ignore_index=-1
            )
            at += len(words)
        return loss

    def evaluate(self, images: list[torch.Tensor], indices: list[torch.Tensor]) -> dict[str, float]:
        """Correlation of predicted and true target on held-out samples, one per number; accuracy per word."""
        output = torch.cat([self.head(self.backbone(x).float()) for x in images]).cpu()
        index = torch.cat(indices).cpu()
        figures = {}
        for column, name in enumerate(self.names):
            truth = self.numbers[index, column]
            known = torch.isfinite(truth)
            figures[f"r_{name}"] = round(
                float(torch.corrcoef(torch.stack([output[known, column], truth[known]]))[0, 1]), 4
            )
        at = len(self.names)
        for name, words in self.words.items():
            right = output[:, at : at + len(words)].argmax(1) == self.codes[name][index]
            figures[f"accuracy_{name}"] = round(float(right.float().mean()), 4)
            at += len(words)
        return figures
