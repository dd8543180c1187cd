"""Masked modelling for any backbone with feature maps: cubes of the input are hidden, a light decoder fills them in.

A CNN cannot skip hidden voxels as a ViT does, so they are set to the foreground's mean, as in SimMIM (Xie et al. 2022,
CVPR) and in nnssl's MAE for U-Nets (arXiv 2412.17041).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from pretrain.augment import generator_on
from pretrain.backbones import Backbone
from pretrain.intensity import standardise
from pretrain.objectives.base import Objective
from pretrain.objectives.decoder import CELL, Decoder, as_voxels, cells
from pretrain.objectives.features import map_grid
from pretrain.objectives.mae import share_hidden
from synth.corpus import Corpus
from synth.errors import UserError
from synth.stream import Batch
from synth.stream.merged import Merged


class MaskedModelling(Objective):
    """Squared error over the hidden voxels of standardised volumes.

    Args:
        backbone: any with feature maps.
        corpus: gives the volumes' shape.
        seed: of the decoder's first weights.
        masked: share of the cubes that is hidden.
        cube: edge of a cube, voxels.

    Raises:
        UserError: a backbone without feature maps, a share or an edge that cannot be.
    """

    def __init__(
        self, backbone: Backbone, corpus: Corpus | Merged, seed: int, masked: float = 0.6, cube: int = 8
    ) -> None:
        super().__init__()
        self.masked, self.cube = share_hidden(masked), cube
        channels, *shape = corpus.image_shape
        if not 1 <= cube <= min(shape) // 2:
            raise UserError(f"--objective.cube is {cube}; expected 1 to {min(shape) // 2}, half of the smallest axis")
        self.backbone, self.shape = backbone, tuple(shape)
        start = map_grid(backbone, corpus.image_shape, "masked")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.decoder = Decoder(backbone.feature_size, channels * CELL**3, start, cells(self.shape))

    def loss(
        self, image: torch.Tensor, index: torch.Tensor, generator: torch.Generator, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean squared error over hidden voxels."""
        hidden = self.hidden(image, generator)
        error = (self.filled_in(image, hidden) - image).square().mean(1, keepdim=True)
        return (error * hidden).sum() / hidden.sum()

    def hidden(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """``[B, 1, D, H, W]`` bool; the same number of cubes of every volume. Their lattice is shifted by up to a cube,
        so that no voxel is always at an edge."""
        generator = generator_on(image.device, generator)
        grid = [n // self.cube + 2 for n in image.shape[2:]]
        count = grid[0] * grid[1] * grid[2]
        order = torch.rand(len(image), count, generator=generator, device=image.device).argsort(1)
        chosen = (order < max(1, round(count * self.masked))).view(len(image), 1, *grid).float()
        whole = F.interpolate(chosen, scale_factor=self.cube, mode="nearest")
        corner = torch.randint(self.cube, (3,), generator=generator, device=image.device).tolist()
        d, h, w = (slice(at, at + n) for at, n in zip(corner, image.shape[2:], strict=True))
        return whole[:, :, d, h, w] > 0

    def filled_in(self, image: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """The volume as predicted from what is not hidden, ``[B, C, D, H, W]`` float32."""
        return as_voxels(self.decoder(self.backbone.feature_map(image.masked_fill(hidden, 0.0))).float(), self.shape)

    def pictures(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The volume, what is seen of it, and the whole with hidden cubes as predicted."""
        image = standardise(batch.image)
        hidden = self.hidden(image, generator)
        return {
            "volume": image,
            "visible": image.masked_fill(hidden, float(image.min())),
            "reconstructed": torch.where(hidden, self.filled_in(image, hidden), image),
        }
