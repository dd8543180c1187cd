"""The structures in a corpus's label maps: both sides of one are one class, so that a mirrored volume keeps its classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from synth.anatomy.labels import HIGHEST
from synth.corpus import Corpus
from synth.errors import UserError
from synth.stream.merged import Merged

SIDES = ("left_", "right_", "ctx_lh_", "ctx_rh_")  # as label names begin once - is written _
LOOKED_AT = 16  # label maps that are read where a corpus names no labels


class Structures(nn.Module):
    """Label number → class. Class 0 is the background, and whatever the corpus does not name.

    Attributes:
        names: of the classes.

    Args:
        corpus: with label maps.
        wanted_by: the objective's name, for the message.

    Raises:
        UserError: a corpus without label maps, or without any structure in them.
    """

    def __init__(self, corpus: Corpus | Merged, wanted_by: str) -> None:
        super().__init__()
        if not corpus.has_labels:
            raise UserError(
                f"objective {wanted_by} needs label maps, corpus '{corpus.path}' holds none; take one of LabelMap, or "
                "another objective"
            )
        of_number = {number: structure_of(name) for number, name in _label_names(corpus).items() if number != 0}
        found = sorted(set(of_number.values()))
        if not found:
            raise UserError(
                f"the label maps of corpus '{corpus.path}' are empty; objective {wanted_by} needs structures"
            )
        self.names = ("background", *found)
        table = torch.zeros(HIGHEST + 1, dtype=torch.int16)
        for number, structure in of_number.items():
            table[number] = 1 + found.index(structure)
        self.table: torch.Tensor
        self.register_buffer("table", table, persistent=False)

    def forward(self, label: torch.Tensor) -> torch.Tensor:
        """``[B, D, H, W]`` label numbers → int64 classes."""
        return self.table[label.long().clamp(0, HIGHEST)].long()


def structure_of(name: str) -> str:
    """The structure that a label's name means, sides left out: ``Left-Hippocampus`` is ``hippocampus``."""
    word = name.lower().replace("-", "_")
    side = next((side for side in SIDES if word.startswith(side)), "")
    return ("ctx_" if side.startswith("ctx") else "") + word.removeprefix(side)


def _label_names(corpus: Corpus | Merged) -> dict[int, str]:
    """Number → name of all the corpora's labels; where none is named, of those seen in the first label maps."""
    corpora = corpus.corpora if isinstance(corpus, Merged) else [corpus]
    names = {int(number): name for one in corpora for number, name in one.header.labels.items()}
    if names:
        return names
    maps = [corpus.label(index) for index in range(min(LOOKED_AT, len(corpus)))]
    return {int(n): f"label_{n}" for one in maps if one is not None for n in np.unique(one)}
