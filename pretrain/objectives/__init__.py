"""What pre-training minimises: one file each, chosen by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synth.errors import UserError, near

if TYPE_CHECKING:
    from pretrain.backbones import Backbone
    from pretrain.objectives.base import Objective
    from synth.corpus import Corpus
    from synth.stream.merged import Merged

NAMES = ("supervised", "mae")


def make_objective(name: str, backbone: Backbone, corpus: Corpus | Merged, seed: int) -> Objective:
    """The objective ``name`` on a backbone. Raises UserError for an unknown name or one the backbone cannot serve."""
    if name == "supervised":
        from pretrain.objectives.supervised import Supervised

        return Supervised(backbone, corpus, seed)
    if name == "mae":
        from pretrain.objectives.mae import MaskedAutoencoder

        return MaskedAutoencoder(backbone, corpus, seed)
    raise UserError(f"there is no objective '{name}'; near: {near(name, NAMES)}")
