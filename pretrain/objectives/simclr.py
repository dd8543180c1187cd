"""SimCLR (Chen et al. 2020, ICML): two augmented views of a volume are near each other, far from other volumes'."""

from __future__ import annotations

import torch

from pretrain.augment import Augmentation, Range, augmented, checked_range
from pretrain.backbones import Backbone
from pretrain.intensity import standardise
from pretrain.objectives.base import Objective
from pretrain.objectives.contrastive import check_projection, check_temperature, contrast, own_other_view, projector
from synth.corpus import Corpus
from synth.stream import Batch
from synth.stream.merged import Merged


class SimCLR(Objective):
    """NT-Xent between the projections of two views (:mod:`pretrain.augment`) of every volume of the batch.

    Args:
        backbone: any.
        corpus: not looked at.
        seed: of the projector's first weights.
        temperature: of the softmax; lower minds the nearest negatives more.
        projection: length of the projection.
        crop: probability and range of the share of each axis that a view keeps.
        rotation: probability and range in degrees, about each axis.
        cutout: probability and range of a blank box's edges, share of each axis.
    """

    smallest_batch = 2

    def __init__(
        self,
        backbone: Backbone,
        corpus: Corpus | Merged,
        seed: int,
        temperature: float = 0.1,
        projection: int = 128,
        crop: Range = Augmentation.crop,
        rotation: Range = Augmentation.rotation,
        cutout: Range = Augmentation.cutout,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.temperature = check_temperature(temperature)
        self.augmentation = Augmentation(
            crop=checked_range("crop", crop, 0.1, 1),
            rotation=checked_range("rotation", rotation, 0, 180),
            cutout=checked_range("cutout", cutout, 0, 1),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.project = projector(backbone.feature_size, check_projection(projection))

    def prepare(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """``[2B, C, D, H, W]``: a view of every volume, then another of every volume."""
        return standardise(augmented(image.repeat(2, 1, 1, 1, 1), generator, self.augmentation))

    prepare_held_out = prepare

    def loss(
        self, image: torch.Tensor, index: torch.Tensor, generator: torch.Generator, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``image [2B, C, D, H, W]``: views i and B + i are of sample ``index[i]``."""
        weights = self.nearness(index).to(image.device)
        return contrast(self.project(self.backbone(image).float()), weights, self.temperature)

    def nearness(self, index: torch.Tensor) -> torch.Tensor:
        """``[2B, 2B]`` how much two views should be near each other."""
        return own_other_view(len(index))

    def pictures(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The volume and two views of it."""
        first, second = self.prepare(batch.image, generator).chunk(2)
        return {"volume": standardise(batch.image), "one view": first, "another view": second}
