"""Weights: safetensors + config.json + model card. Where they came from travels with them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.backbones import Backbone, make_backbone
from pretrain.intensity import NORMALISATION
from synth.errors import UserError
from synth.storage import write_atomically

if TYPE_CHECKING:
    import torch

FILE, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FORMAT, FORMAT_VERSION = "brainloom-weights", 2
READABLE = (1, 2)  # 1, of release 0.1.0, had neither options nor start


@dataclass(frozen=True)
class Weights:
    """A backbone with its pedigree.

    Attributes:
        backbone: name in the table of backbones; ``options`` is what stood behind the colon.
        shape: voxels of the volumes it was trained on; ``spacing`` in mm; ``channels``.
        objective, figures: what it minimised and its figures on held-out samples.
        corpus: the corpus's parent record (name, identity, recipe, its own parents and licences).
        start: where the weights began (``pretrain.starts.Report.record``); None is from scratch.
    """

    backbone: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    channels: int
    objective: str
    training: dict[str, Any]
    figures: dict[str, float]
    corpus: dict[str, Any]
    normalisation: str = NORMALISATION
    options: str = ""
    start: dict[str, Any] | None = None

    @property
    def word(self) -> str:
        """The backbone with its options, as ``make_backbone`` takes it."""
        return f"{self.backbone}:{self.options}" if self.options else self.backbone

    def corpora(self) -> list[dict[str, Any]]:
        """Parent records of every corpus these weights have seen: their own, and those of our weights they began from."""
        return [self.corpus, *corpora_of(self.start)]


def corpora_of(start: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Parent records of the corpora behind a start's record (``pretrain.starts.Report.record``); none of others' weights."""
    found = []
    while start and start.get("parent"):
        found.append(start["parent"]["corpus"])
        start = start["parent"]["start"]
    return found


def save_weights(folder: Path, backbone: Backbone, about: Weights) -> None:
    """Write the three files; the folder's weights are there whole or not at all."""
    from safetensors.torch import save_file

    from pretrain.card import card

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    temporary = folder / f".{FILE}.{os.getpid()}"
    save_file(state, temporary)
    temporary.replace(folder / FILE)
    write_atomically(folder / CARD, card(about))
    config = {"format": FORMAT, "format_version": FORMAT_VERSION, **about.__dict__}
    write_atomically(folder / CONFIG, json.dumps(config, indent=2))  # last: with it they are there


def read_config(folder: Path) -> Weights:
    """The pedigree of a weights folder. Raises UserError when it is not one."""
    path = folder / CONFIG
    if not path.is_file() or not (folder / FILE).is_file():
        raise UserError(
            f"'{folder}' holds no weights; expected {FILE} and {CONFIG} as brainloom pretrain run writes them"
        )
    try:
        config = json.loads(path.read_text())
        fields = {f.name: config[f.name] for f in dataclasses.fields(Weights) if f.name in config or _required(f)}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' is damaged or not of brainloom ({error}); make the weights again") from error
    if config.get("format_version") not in READABLE:
        raise UserError(
            f"'{path}' has format version {config.get('format_version')}; this brainloom reads {READABLE[0]} to "
            f"{READABLE[-1]}, a newer one may read it"
        )
    return Weights(**{**fields, "shape": tuple(fields["shape"]), "spacing": tuple(fields["spacing"])})


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights folder; safetensors hold nothing else. Raises UserError when they are damaged."""
    from safetensors.torch import load_file

    try:
        return load_file(folder / FILE)
    except Exception as error:
        raise UserError(f"'{folder / FILE}' is damaged ({' '.join(str(error).split())[:120]})") from error


def load_weights(folder: Path) -> tuple[Backbone, Weights]:
    """The backbone, in eval mode, and its pedigree. safetensors hold tensors only: loading runs no code.

    Raises:
        UserError: missing or damaged files, tensors that do not fit the backbone.
    """
    about = read_config(folder)
    backbone = make_backbone(about.word, about.shape, about.channels)
    tensors = read_tensors(folder)
    try:
        backbone.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"'{folder / FILE}' does not fit backbone {about.backbone} ({reason})") from error
    return backbone.eval(), about


def from_pretrained(place: str | Path) -> tuple[Backbone, Weights]:
    """The backbone, in eval mode, and its pedigree, from a folder or a Hugging Face hub id (``owner/name[@revision]``).

    A volume goes in as ``pretrain.intensity.standardise`` leaves it: ``[B, C, D, H, W]``, RAS+, foreground z-scores.
    Raises UserError as :func:`load_weights`, or when the hub has no such weights.
    """
    from pretrain.hub import local_place

    return load_weights(local_place(place))


def push_to_hub(folder: Path, repo: str, private: bool = True) -> str:
    """Put a weights folder (tensors, config, card) into a Hugging Face repository; returns its URL.

    Private unless told otherwise: the terms of a corpus, or of a start, may not let its weights be shared. Raises
    UserError for a folder without weights, or when the hub refuses.
    """
    from pretrain.hub import upload

    read_config(folder)
    return upload(folder, repo, private)


def remove_folder(folder: Path) -> None:
    """Delete a folder of ours, checkpoints for instance, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
