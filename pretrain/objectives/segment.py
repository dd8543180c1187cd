"""Dense segmentation of the label map, which synthesis knows for free."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from pretrain.augment import Augmentation, generator_on, geometry, recoloured, warp
from pretrain.backbones import Backbone
from pretrain.intensity import standardise
from pretrain.objectives.base import Objective
from pretrain.objectives.decoder import CELL, Decoder, cells
from pretrain.objectives.features import map_grid
from pretrain.structures import Structures
from synth.corpus import Corpus
from synth.stream import Batch
from synth.stream.merged import Merged

AUGMENTATION = Augmentation(crop=(0.0, 1.0, 1.0), cutout=(0.0, 0.0, 0.0))


class Segmentation(Objective):
    """Dice loss plus cross-entropy over the structures of the label map, at half of the volume's resolution.

    Both sides of a structure are one class. A light decoder stands on the backbone's last feature map: there are no
    connections around the backbone, which has to keep where things are.

    Args:
        backbone: any with feature maps.
        corpus: with label maps.
        seed: of the decoder's first weights.

    Raises:
        UserError: a corpus without label maps, a backbone without feature maps.
    """

    labels = True

    def __init__(self, backbone: Backbone, corpus: Corpus | Merged, seed: int) -> None:
        from monai.losses import DiceCELoss

        super().__init__()
        self.structures = Structures(corpus, "segment")
        self.backbone = backbone
        start = map_grid(backbone, corpus.image_shape, "segment")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.decoder = Decoder(
                backbone.feature_size, len(self.structures.names), start, cells(corpus.image_shape[1:])
            )
        self.criterion = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)

    def prepare(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Other intensities only: what moves the volume moves its label map too, in ``loss``."""
        return standardise(recoloured(image, generator, AUGMENTATION))

    def loss(
        self, image: torch.Tensor, index: torch.Tensor, generator: torch.Generator, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Dice loss plus cross-entropy; while training, image and label map are mirrored, turned and shifted together."""
        assert label is not None
        classes = self.structures(label.to(image.device))
        if self.training:
            matrix = geometry(image, generator_on(image.device, generator), AUGMENTATION)
            air = image.flatten(1).amin(1).view(-1, 1, 1, 1, 1)
            image = warp(image - air, matrix) + air
            classes = warp(classes[:, None].float(), matrix, "nearest")[:, 0].long()
        loss: torch.Tensor = self.criterion(self.decoder(self.backbone.feature_map(image)).float(), seen(classes))
        return loss

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Dice of every structure over all held-out voxels together, and their mean."""
        count = len(self.structures.names)
        both, either = torch.zeros(count), torch.zeros(count)
        for batch in batches:
            assert batch.label is not None
            truth = seen(self.structures(batch.label))[:, 0].cpu()
            found = self.decoder(self.backbone.feature_map(standardise(batch.image))).argmax(1).cpu()
            both += torch.bincount(truth[truth == found], minlength=count)
            either += torch.bincount(truth.flatten(), minlength=count) + torch.bincount(
                found.flatten(), minlength=count
            )
        dice = {
            name: round(float(2 * both[n] / either[n]), 4)
            for n, name in enumerate(self.structures.names)
            if n > 0 and either[n] > 0
        }
        mean = round(sum(dice.values()) / max(len(dice), 1), 4)
        return {"dice": mean, **{f"dice_{name}": value for name, value in dice.items()}}

    def pictures(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The volume, its structures, and the structures that were found."""
        assert batch.label is not None
        image = standardise(batch.image)
        found = self.decoder(self.backbone.feature_map(image)).argmax(1, keepdim=True)
        return {"volume": image, "structures": seen(self.structures(batch.label)).float(), "found": found.float()}


def seen(classes: torch.Tensor) -> torch.Tensor:
    """``[B, D, H, W]`` → ``[B, 1, D', H', W']``: the class of every cell's first voxel."""
    return classes[:, None, ::CELL, ::CELL, ::CELL]
