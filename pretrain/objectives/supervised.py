"""Supervised on synthetic targets: age, sex, diagnosis and every regional volume, which synthesis knows for free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from pretrain.backbones import Backbone
from pretrain.intensity import standardise
from pretrain.objectives.base import Objective
from synth.corpus import Corpus
from synth.errors import UserError, near
from synth.stream import Batch
from synth.stream.merged import Merged

VOLUME = "volume_"
PREFER_CATEGORY = ("sex", "diagnosis")
NUMBER_WEIGHT, WORD_WEIGHT = 1.0, 0.25  # of a head's loss


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

    A target that is missing of somebody (NaN) counts neither way.

    Args:
        backbone: any.
        corpus: with the covariates.
        seed: of the heads' first weights.
        weights: of heads, such as age=2,sex=0.5,volume=1 (all regional volumes) or volume_hippocampus=3; 1 for numbers and
            0.25 for words if not given, 0 leaves a head out.

    Raises:
        UserError: a corpus without any covariate to learn from, weights that fit no head.
    """

    needs_covariates = True
    smallest_batch = 2  # of one volume batch norm knows no variance

    def __init__(self, backbone: Backbone, corpus: Corpus | Merged, seed: int, weights: tuple[str, ...] = ()) -> None:
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
        self.weights = head_weights(weights, self.names, list(self.words))
        self.number_weights = torch.tensor([self.weights[name] for name in self.names])
        self.numbers = torch.from_numpy(numbers)
        self.codes = {
            name: torch.tensor([words.index(w) if w in words else -1 for w in table[name]])
            for name, words in self.words.items()
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            outputs = len(self.names) + sum(map(len, self.words.values()))
            self.head = nn.Sequential(nn.BatchNorm1d(backbone.feature_size), nn.Linear(backbone.feature_size, outputs))

    def loss(
        self, image: torch.Tensor, index: torch.Tensor, generator: torch.Generator, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean squared error of the numbers, each times its weight, plus weight × cross-entropy of each word."""
        output = self.head(self.backbone(image).float())
        target = self.numbers[index.cpu()].to(output.device)
        known = torch.isfinite(target)
        errors = (output[:, : len(self.names)] - torch.where(known, target, 0.0)).square() * known
        errors = errors * self.number_weights.to(errors.device)
        counted = known * (self.number_weights > 0).to(known.device)  # a head left out thins the others not
        loss = errors.sum() / counted.sum().clamp_min(1)
        at = len(self.names)
        for name, words in self.words.items():
            codes = self.codes[name][index.cpu()]
            logits = output[:, at : at + len(words)]
            at += len(words)
            if self.weights[name] and bool((codes >= 0).any()):  # of none known the mean would be NaN
                loss = loss + self.weights[name] * F.cross_entropy(logits, codes.to(output.device), ignore_index=-1)
        return loss

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Correlation of predicted and true target on held-out samples, one per number; accuracy per word. None of a target
        that is the same, or unknown, of all of them."""
        outputs, indices = [], []
        for batch in batches:
            outputs.append(self.head(self.backbone(standardise(batch.image)).float()).cpu())
            indices.append(batch.index.cpu())
        output, index = torch.cat(outputs), torch.cat(indices)
        figures = {}
        for column, name in enumerate(self.names):
            truth = self.numbers[index, column]
            known = torch.isfinite(truth)
            said, truth = output[known, column], truth[known]
            if len(truth) > 1 and float(said.std()) > 0 and float(truth.std()) > 0:
                figures[f"r_{name}"] = round(float(torch.corrcoef(torch.stack([said, truth]))[0, 1]), 4)
        at = len(self.names)
        for name, words in self.words.items():
            truth = self.codes[name][index]
            right = (output[:, at : at + len(words)].argmax(1) == truth)[truth >= 0]
            if len(right):
                figures[f"accuracy_{name}"] = round(float(right.float().mean()), 4)
            at += len(words)
        return figures


def head_weights(given: Sequence[str], numbers: Sequence[str], words: Sequence[str]) -> dict[str, float]:
    """Target → weight of its head.

    Args:
        given: NAME=WEIGHT each; the name ``volume`` is all regional volumes, a later one wins.
        numbers, words: the targets there are.

    Raises:
        UserError: a name that is no target, a weight that is no number of 0 or more, no head left.
    """
    weights = {**dict.fromkeys(numbers, NUMBER_WEIGHT), **dict.fromkeys(words, WORD_WEIGHT)}
    for one in given:
        name, _, text = one.partition("=")
        names = [n for n in numbers if n.startswith(VOLUME)] if name == VOLUME.strip("_") else [name]
        for target in names:
            if target not in weights:
                raise UserError(
                    f"--objective.weights names '{target}'; the corpus's targets are {near(target, weights)}"
                )
            try:
                weights[target] = float(text)
            except ValueError:
                weights[target] = math.nan
            if not 0 <= weights[target] < math.inf:
                raise UserError(f"--objective.weights holds '{one}'; expected NAME=WEIGHT, such as age=2")
    if not any(weights.values()):
        raise UserError("--objective.weights leaves no head; expected one weight above 0 at least")
    return weights
