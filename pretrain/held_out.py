"""Samples of a corpus in batches, read again whenever they are gone through: for evaluation, where no stream is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pretrain.backbones import Backbone
from pretrain.intensity import standardise
from synth.corpus import Corpus
from synth.stream import Batch, Reader
from synth.stream.merged import Merged

CHUNK = 16
HELD_OUT = 0.1
PERSON = "participant_id"


def split(corpus: Merged) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sample numbers to train on, and the last tenth of every corpus; all of a person's scans are on one side."""
    training, held_out = [], []
    for part, low, high in zip(corpus.corpora, corpus.offsets[:-1], corpus.offsets[1:], strict=True):
        aside = np.arange(high - low) >= high - low - max(1, round((high - low) * HELD_OUT))
        aside = _whole_people(part, aside)
        training.append(low + np.flatnonzero(~aside))
        held_out.append(low + np.flatnonzero(aside))
    return np.concatenate(training), np.concatenate(held_out)


def _whole_people(corpus: Corpus, aside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """``aside`` with every scan of the people in it, where the corpus says who they are and others are left."""
    if not corpus.complete or PERSON not in corpus.entry(0)["covariates"]:
        return aside
    people = corpus.covariates()[PERSON].to_numpy()
    theirs: npt.NDArray[np.bool_] = np.isin(people, people[aside])
    return aside if theirs.all() else theirs


class HeldOut:
    """Batches of about ``CHUNK`` samples as stored, in order.

    Args:
        corpus: to read.
        indices: of the samples.
        device: where they are wanted.
        labels: bring label maps too.
    """

    def __init__(
        self, corpus: Corpus | Merged, indices: npt.NDArray[np.int64], device: torch.device, labels: bool = False
    ) -> None:
        self.reader, self.indices, self.device, self.labels = Reader(corpus), indices, device, labels

    def __iter__(self) -> Iterator[Batch]:
        for chunk in np.array_split(self.indices, max(1, len(self.indices) // CHUNK)):
            image = torch.from_numpy(self.reader.read(chunk)).to(self.device)
            label = torch.from_numpy(self._labels(chunk)).to(self.device) if self.labels else None
            yield Batch(image, torch.from_numpy(chunk), label)

    def _labels(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int16]:
        samples = self.reader.samples
        labels = np.empty((len(indices), *samples.view.image_shape[1:]), np.int16)
        for label, index in zip(labels, indices, strict=True):
            samples.label_into(int(index), label)
        return labels


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """No gradients, every part in eval mode; afterwards each part is in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes.items():
            part.training = training


def features_of(backbone: Backbone, batches: HeldOut) -> npt.NDArray[np.float32]:
    """Pooled features ``[N, F]`` of standardised samples, backbone in eval mode."""
    with evaluating(backbone):
        parts = [backbone(standardise(batch.image)).float().cpu() for batch in batches]
    found: npt.NDArray[np.float32] = torch.cat(parts).numpy()
    return found
