"""Masked autoencoder (He et al. 2022, CVPR) in 3-D: only visible patches go through the encoder."""

from __future__ import annotations

import math

import torch
from torch import nn

from pretrain.backbones import Backbone, Block, ViT, sincos_positions
from pretrain.intensity import standardise
from pretrain.objectives.base import Objective
from synth.corpus import Corpus
from synth.errors import UserError
from synth.stream import Batch
from synth.stream.merged import Merged

DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 96, 2, 3


class MaskedAutoencoder(Objective):
    """Most of the patches are hidden; a light decoder predicts their voxels, normalised patch by patch.

    Args:
        backbone: a ViT.
        corpus: gives the number of channels.
        seed: of the decoder's first weights.
        masked: share of the patches that is hidden.

    Raises:
        UserError: a backbone that is no ViT (a CNN cannot skip hidden voxels).
    """

    def __init__(self, backbone: Backbone, corpus: Corpus | Merged, seed: int, masked: float = 0.75) -> None:
        super().__init__()
        self.masked = share_hidden(masked)
        if not isinstance(backbone, ViT):
            raise UserError(
                f"objective mae needs a ViT backbone, was given {type(backbone).__name__}; choose vit_… or masked"
            )
        self.backbone: ViT = backbone
        voxels = corpus.image_shape[0] * math.prod(backbone.patch_shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.into = nn.Linear(backbone.feature_size, DECODER_WIDTH)
            self.hidden = nn.Parameter(torch.zeros(1, 1, DECODER_WIDTH))
            self.blocks = nn.ModuleList(Block(DECODER_WIDTH, DECODER_HEADS) for _ in range(DECODER_DEPTH))
            self.out = nn.Sequential(nn.LayerNorm(DECODER_WIDTH), nn.Linear(DECODER_WIDTH, voxels))
        self.positions: torch.Tensor
        self.register_buffer("positions", sincos_positions(backbone.grid, DECODER_WIDTH)[None], persistent=False)

    def loss(
        self, image: torch.Tensor, index: torch.Tensor, generator: torch.Generator, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean squared error over the hidden patches, each normalised to zero mean and unit SD."""
        patches = self.backbone.patches(image)
        count = patches.shape[1]
        keep = self.visible(image.shape[0], count, generator).to(image.device)
        predicted = self.decode(self.backbone.tokens(image, keep), keep, count)
        target = (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-2).sqrt()
        hidden = torch.ones(image.shape[0], count, device=image.device).scatter(1, keep, 0.0)
        error = (predicted.float() - target).square().mean(2)
        return (error * hidden).sum() / hidden.sum()

    def visible(self, samples: int, count: int, generator: torch.Generator) -> torch.Tensor:
        """``[B, n]`` numbers of the patches that are not hidden."""
        order = torch.rand(samples, count, generator=generator).argsort(1)
        return order[:, : max(1, round(count * (1 - self.masked)))]

    def decode(self, tokens: torch.Tensor, keep: torch.Tensor, count: int) -> torch.Tensor:
        """Visible tokens ``[B, n, E]`` → voxels of every patch ``[B, N, C·voxels of a patch]``."""
        visible = self.into(tokens)
        width = visible.shape[2]
        full = self.hidden.to(visible.dtype).expand(visible.shape[0], count, -1)
        full = full.scatter(1, keep[..., None].expand(-1, -1, width), visible) + self.positions.to(visible.dtype)
        for block in self.blocks:
            full = block(full)
        return self.out(full)

    def assembled(self, patches: torch.Tensor) -> torch.Tensor:
        """Volumes of the backbone's ``patches``."""
        (d, h, w), (p, q, r) = self.backbone.grid, self.backbone.patch_shape
        cut = patches.view(len(patches), d, h, w, -1, p, q, r).permute(0, 4, 1, 5, 2, 6, 3, 7)
        return cut.reshape(len(patches), -1, d * p, h * q, w * r)

    def pictures(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The volume, what is seen of it, and the whole with hidden patches as predicted (with their own mean and SD,
        which the loss does not ask for)."""
        image = standardise(batch.image)
        patches = self.backbone.patches(image)
        keep = self.visible(len(patches), patches.shape[1], generator).to(image.device)
        predicted = self.decode(self.backbone.tokens(image, keep), keep, patches.shape[1]).float()
        predicted = predicted * (patches.var(2, keepdim=True) + 1e-2).sqrt() + patches.mean(2, keepdim=True)
        hidden = torch.ones(patches.shape[:2], device=image.device).scatter(1, keep, 0.0)[..., None] > 0
        return {
            "volume": image,
            "visible": self.assembled(patches.masked_fill(hidden, float(image.min()))),
            "reconstructed": self.assembled(torch.where(hidden, predicted, patches)),
        }


def share_hidden(masked: float) -> float:
    """``masked`` itself. Raises UserError where it is no share of the volume."""
    if not 0 < masked < 1:
        raise UserError(f"--objective.masked is {masked:g}; expected a share between 0 and 1, such as 0.75")
    return masked
