"""y-Aware contrastive learning (Dufumier et al. 2021, MICCAI): people of one age, sex and diagnosis are near too."""

from __future__ import annotations

import numpy as np
import torch

from pretrain.augment import Augmentation, Range
from pretrain.backbones import Backbone
from pretrain.objectives.contrastive import own_other_view
from pretrain.objectives.simclr import SimCLR
from synth.corpus import Corpus
from synth.errors import UserError
from synth.stream.merged import Merged


class YAware(SimCLR):
    """SimCLR whose positives are weighted: ``exp(-(age_i - age_j)² / 2σ²)`` where sex and diagnosis agree, else 0.

    Somebody of whom one of these is missing is near to nobody but their own other view.

    Args:
        backbone: any.
        corpus: with the covariates.
        seed: of the projector's first weights.
        sigma: of the kernel on age, years; 0 leaves age out.
        agree: covariates that two people must share, of those that the corpus has.
        temperature: of the softmax.
        projection: length of the projection.
        crop: probability and range of the share of each axis that a view keeps.
        rotation: probability and range in degrees, about each axis.
        cutout: probability and range of a blank box's edges, share of each axis.

    Raises:
        UserError: a corpus with none of the covariates.
    """

    needs_covariates = True

    def __init__(
        self,
        backbone: Backbone,
        corpus: Corpus | Merged,
        seed: int,
        sigma: float = 5.0,
        agree: tuple[str, ...] = ("sex", "diagnosis"),
        temperature: float = 0.1,
        projection: int = 128,
        crop: Range = Augmentation.crop,
        rotation: Range = Augmentation.rotation,
        cutout: Range = Augmentation.cutout,
    ) -> None:
        super().__init__(backbone, corpus, seed, temperature, projection, crop, rotation, cutout)
        if not 0 <= sigma < float("inf"):
            raise UserError(f"--objective.sigma is {sigma:g}; expected years, 0 or more")
        table = corpus.covariates()
        shared = [name for name in agree if name in table.columns]
        aged = sigma > 0 and "age" in table.columns
        if not shared and not aged:
            raise UserError(
                f"corpus '{corpus.path}' has no age and none of {', '.join(agree) or 'the covariates asked for'}; "
                "objective yaware needs one of them, simclr needs none"
            )
        ages = table["age"].to_numpy(np.float32) if aged else np.zeros(len(table), np.float32)
        known = np.isfinite(ages) & table[shared].notna().all(axis=1).to_numpy()
        self.sigma = sigma
        self.ages, self.known = torch.from_numpy(ages), torch.from_numpy(known)
        codes = [table[name].astype(str).factorize()[0] for name in shared]
        self.codes = torch.from_numpy(np.stack(codes, axis=1) if codes else np.zeros((len(table), 0), np.int64))

    def nearness(self, index: torch.Tensor) -> torch.Tensor:
        """The kernel between the people of two views, 1 between the two views of somebody."""
        index = index.cpu()
        ages, codes, known = self.ages[index], self.codes[index], self.known[index]
        near = (codes[:, None] == codes[None]).all(2) & known[:, None] & known[None]
        kernel = near.float()
        if self.sigma > 0:
            kernel = torch.where(near, torch.exp(-0.5 * ((ages[:, None] - ages[None]) / self.sigma) ** 2), 0.0)
        return torch.maximum(kernel.repeat(2, 2), own_other_view(len(index)))
