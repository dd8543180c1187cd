"""Two contrasts of one anatomy: the same label map under two appearances, a pair that only synthesis can make.

What stays when the contrast changes is the anatomy (anatomix, Dey et al. 2025, ICLR; Brain-ID, Liu et al. 2024, ECCV).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from pretrain.augment import Augmentation, generator_on, geometry, recoloured, warp
from pretrain.backbones import Backbone
from pretrain.intensity import standardise
from pretrain.mixture import painted
from pretrain.objectives.base import Objective
from pretrain.objectives.contrastive import check_projection, check_temperature, contrast, own_other_view, projector
from pretrain.objectives.features import map_grid
from pretrain.structures import Structures
from synth.corpus import Corpus
from synth.errors import UserError
from synth.stream import Batch
from synth.stream.merged import Merged

SHARED = Augmentation(crop=(0.3, 0.8, 1.0))  # of both views: mirror, turn, stretch, shift, crop
OWN = Augmentation()  # intensities of the volume itself, where it is one of the views
PLACES = 512  # whose features are compared, over the batch, as anatomix compares patches
FEWEST = 16  # of a batch that is all air


class TwoContrasts(Objective):
    """Views of one anatomy are near each other, far from other anatomies'; and so is one place of it in both views.

    Both views share their geometry. One is drawn from the label map in a contrast of its own (:mod:`pretrain.mixture`),
    the other likewise or the volume itself.

    Args:
        backbone: any with feature maps; the mean of the feature map is compared.
        corpus: with label maps.
        seed: of the projectors' first weights.
        own: how often one view is the volume itself rather than drawn.
        dense: weight of the comparison place by place; 0 compares whole volumes only.
        temperature: of the softmax.
        projection: length of the projections.

    Raises:
        UserError: a corpus without label maps, a backbone without feature maps, options out of range.
    """

    labels = True
    smallest_batch = 2

    def __init__(
        self,
        backbone: Backbone,
        corpus: Corpus | Merged,
        seed: int,
        own: float = 0.5,
        dense: float = 0.5,
        temperature: float = 0.1,
        projection: int = 128,
    ) -> None:
        super().__init__()
        if not 0 <= own <= 1 or not 0 <= dense < float("inf"):
            raise UserError(f"--objective.own is {own:g}, dense {dense:g}; expected a share, and a weight of 0 or more")
        self.structures = Structures(corpus, "contrasts")
        self.backbone, self.own, self.dense = backbone, own, dense
        self.temperature = check_temperature(temperature)
        map_grid(backbone, corpus.image_shape, "contrasts")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.project = projector(backbone.feature_size, check_projection(projection))
            self.project_places: nn.Module = projector(backbone.feature_size, projection)

    def prepare(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """As it is: views are made with the label map, in ``loss``."""
        return image

    prepare_held_out = prepare

    def loss(
        self, image: torch.Tensor, index: torch.Tensor, generator: torch.Generator, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """NT-Xent of the pooled features, plus ``dense`` times that of the features place by place."""
        assert label is not None
        generator = generator_on(image.device, generator)
        views, classes = self.views(image, label.to(image.device), generator)
        maps = self.backbone.feature_map(views).float()
        pairs = own_other_view(len(index), image.device)
        loss = contrast(self.project(maps.mean((2, 3, 4))), pairs, self.temperature)
        if self.dense == 0:
            return loss
        places = self.project_places(chosen_places(maps, classes, generator))
        return loss + self.dense * contrast(places, own_other_view(len(places) // 2, image.device), self.temperature)

    def views(
        self, image: torch.Tensor, label: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Standardised views ``[2B, C, D, H, W]`` (i and B + i are of one volume) and their classes ``[B, D, H, W]``."""
        matrix = geometry(image, generator, SHARED)
        classes = warp(self.structures(label)[:, None].float(), matrix, "nearest")[:, 0].long()
        drawn = painted(classes.repeat(2, 1, 1, 1), len(self.structures.names), image.shape[1], generator)
        itself = recoloured(warp(image, matrix), generator, OWN)
        kept = torch.rand(len(image), generator=generator, device=image.device) < self.own
        first, second = drawn.chunk(2)
        first = torch.where(kept.view(-1, 1, 1, 1, 1), itself, first)
        return standardise(torch.cat([first, second])), classes

    def pictures(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The volume and the two views of it."""
        assert batch.label is not None
        generator = generator_on(batch.image.device, generator)
        first, second = self.views(batch.image, batch.label, generator)[0].chunk(2)
        return {"volume": standardise(batch.image), "one contrast": first, "another contrast": second}


def chosen_places(maps: torch.Tensor, classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Features of the same places in both views: ``[2P, F]``, those of the first views before those of the second.

    Places are drawn among cells of the feature map that hold more than background; a few of an empty batch.

    Args:
        maps: ``[2B, F, d, h, w]``.
        classes: ``[B, D, H, W]`` int64, 0 is the background.
        generator: on their device.
    """
    tissue = F.interpolate((classes > 0).float()[:, None], size=maps.shape[2:], mode="area").flatten() > 0.1
    lottery = torch.rand(len(tissue), generator=generator, device=maps.device) + tissue
    found = int(tissue.sum())
    places = lottery.topk(min(PLACES, found if found > 1 else FEWEST, len(tissue))).indices
    first, second = (half.movedim(1, -1).flatten(0, 3)[places] for half in maps.chunk(2))
    return torch.cat([first, second])
