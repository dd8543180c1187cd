"""Arms and the protocol that they are compared under."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from finetune.heads import FineTuning
from synth.nifti import Grid

SCRATCH = "scratch"  # pretrain.starts.SCRATCH, without torch
Mode = Literal["frozen", "knn", "full", "lora"]
MODES: tuple[Mode, ...] = ("frozen", "knn", "full", "lora")
MODE_NAMES: dict[str, str] = {"frozen": "frozen", "knn": "k-NN", "full": "fine-tuned", "lora": "LoRA"}
Control = Literal["", "volumes", "demographics", "mean", "shuffled", "planted"]


@dataclass(frozen=True)
class Arm:
    """One initialisation under the protocol.

    Attributes:
        name: in results.
        mode: linear model or neighbours on frozen features, everything trained, or adapters.
        weights: None is a fresh ``backbone``.
        backbone: of fresh arms.
        init: where a fresh backbone begins, such as a network of images or videos (:mod:`pretrain.starts`).
        control: shuffled and planted go through the network; the others are models without one.
        again: the same pre-training with other seeds, whose turn comes with the protocol's second seed and on.
    """

    name: str
    mode: Mode = "frozen"
    weights: Path | None = None
    backbone: str = "sfcn_s"
    control: Control = ""
    init: str = SCRATCH
    again: tuple[Path, ...] = ()

    @property
    def pretrainings(self) -> tuple[Path, ...]:
        """Every folder of weights."""
        return () if self.weights is None else (self.weights, *self.again)

    def weights_at(self, seed: int) -> Path | None:
        """The weights that a seed of the protocol starts from, counted around; None of a fresh backbone."""
        return self.pretrainings[seed % len(self.pretrainings)] if self.pretrainings else None

    @property
    def is_fresh(self) -> bool:
        """Whether the backbone has learnt nothing yet."""
        return self.weights is None and self.init == SCRATCH

    @property
    def without_network(self) -> bool:
        """Whether no image is looked at."""
        return self.control in ("volumes", "demographics", "mean")


@dataclass(frozen=True)
class Protocol:
    """How arms are compared.

    Attributes:
        seeds: repetitions; each draws its own folds or labelled people, and its own initialisation.
        folds: of the cross-validation, used when there is neither ``test_site`` nor ``split``.
        labels: at most so many labelled people to learn from; all if None.
        test_site: people of this site are only tested on.
        test_share: with ``test_site``, share of the other sites kept for testing too.
        split: a TSV with participant_id and split (:func:`finetune.split_files.read_splits`).
        fold_by: folds of participants, or of whole sites.
        grid: volumes' (shape, spacing in mm) for arms without weights.
        fine_tuning: of full and LoRA arms.
        fractions: percent of the training people to learn from; a smaller share is part of a larger one.
    """

    seeds: int = 1
    folds: int = 5
    labels: int | None = None
    test_site: str | None = None
    test_share: float = 0.4
    split: Path | None = None
    fold_by: Literal["participant", "site"] = "participant"
    grid: Grid = ((40, 48, 40), (4.0, 4.0, 4.0))
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    fractions: tuple[float, ...] = (100.0,)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        told = {**asdict(self), "split": str(self.split) if self.split else None}
        plain: dict[str, Any] = json.loads(json.dumps(told))
        return plain
