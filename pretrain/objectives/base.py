"""The Objective contract: a loss around a backbone. A plug-in is one subclass."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from pretrain.backbones import Backbone
from pretrain.intensity import augment, standardise
from synth.stream import Batch

GIVEN = ("backbone", "corpus", "seed")  # constructor arguments that the program gives; the others are options


class Objective(nn.Module):
    """A loss around a backbone; what it adds (heads, decoder) is thrown away after pre-training.

    A constructor takes ``backbone, corpus, seed`` and then options of its own: their typed signature is the
    configuration (``--objective.temperature 0.2``). It draws its first weights from ``seed`` alone and raises UserError
    for a backbone or a corpus that it cannot serve.

    Attributes:
        backbone: what is kept.
        labels: True when ``loss`` needs label maps; the stream then reads them.
        needs_covariates: True when the constructor reads the corpus's covariates, which a corpus that is still being
            made lacks.
        smallest_batch: volumes that a batch needs at least.
    """

    backbone: Backbone
    labels: bool = False
    needs_covariates: bool = False
    smallest_batch: int = 1

    def prepare(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """From intensities ``[B, C, D, H, W]`` to what ``loss`` takes. By default mirrored, shifted a little, with
        another gamma and noise, and standardised.

        On a GPU the stream calls it ahead, from a thread of its own: it must change nothing of the objective.
        ``generator``, on the image's device, is the only source of randomness.
        """
        return standardise(augment(image, generator))

    def prepare_held_out(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The same for held-out samples; by default standardised only."""
        return standardise(image)

    def loss(
        self, image: torch.Tensor, index: torch.Tensor, generator: torch.Generator, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scalar loss of a prepared batch.

        Args:
            image: what ``prepare`` returned, by default ``[B, C, D, H, W]`` standardised.
            index: ``[B]`` the samples' numbers in the corpus, on the CPU.
            generator: the only source of randomness; on the CPU.
            label: ``[B, D, H, W]`` int16 label maps as stored, where ``labels`` asks for them.
        """
        raise TypeError(f"{type(self).__name__} defines no loss")

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Figures on held-out samples for the model card. By default the mean loss.

        ``batches``: as stored, on the backbone's device; they may be gone through more than once.
        """
        generator, losses = torch.Generator().manual_seed(0), []
        for batch in batches:
            image = self.prepare_held_out(batch.image, generator)
            losses.append(float(self.loss(image, batch.index, generator, batch.label)))
        return {"held_out_loss": sum(losses) / max(len(losses), 1)}

    def pictures(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """What it looks like: title → ``[B, C, D, H, W]`` volumes, side by side in a PNG now and then. Default none."""
        return {}
