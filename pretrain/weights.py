"""Weights: safetensors + config.json + model card. Where they came from travels with them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.backbones import Backbone, make_backbone
from pretrain.intensity import NORMALISATION
from synth.errors import UserError

FILE, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FORMAT, FORMAT_VERSION = "brainloom-weights", 1


@dataclass(frozen=True)
class Weights:
    """A backbone with its pedigree.

    Attributes:
        backbone: name in the table of backbones.
        shape: voxels of the volumes it was trained on; ``spacing`` in mm; ``channels``.
        objective, figures: what it minimised and its figures on held-out samples.
        corpus: the corpus's parent record (name, identity, recipe, its own parents and licences).
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


def save_weights(folder: Path, backbone: Backbone, about: Weights) -> None:
    """Write the three files; the folder's weights are there whole or not at all."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    temporary = folder / f".{FILE}.{os.getpid()}"
    save_file(state, temporary)
    (folder / CARD).write_text(card(about))
    config = {"format": FORMAT, "format_version": FORMAT_VERSION, **about.__dict__}
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    temporary.replace(folder / FILE)


def read_config(folder: Path) -> Weights:
    """The pedigree of a weights folder. Raises UserError when it is not one."""
    path = folder / CONFIG
    if not path.is_file() or not (folder / FILE).is_file():
        raise UserError(
            f"'{folder}' holds no weights; expected {FILE} and {CONFIG} as brainloom pretrain run writes them"
        )
    try:
        config = json.loads(path.read_text())
        fields = {name: config[name] for name in Weights.__dataclass_fields__}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' is damaged or not of brainloom ({error}); make the weights again") from error
    if config.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"'{path}' has format version {config.get('format_version')}; this brainloom reads {FORMAT_VERSION}"
        )
    return Weights(**{**fields, "shape": tuple(fields["shape"]), "spacing": tuple(fields["spacing"])})


def load_weights(folder: Path) -> tuple[Backbone, Weights]:
    """The backbone and its pedigree. safetensors hold tensors only: loading runs no code.

    Raises:
        UserError: missing or damaged files, tensors that do not fit the backbone.
    """
    from safetensors.torch import load_file

    about = read_config(folder)
    backbone = make_backbone(about.backbone, about.shape, about.channels)
    try:
        backbone.load_state_dict(load_file(folder / FILE))
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"'{folder / FILE}' does not fit backbone {about.backbone} ({reason})") from error
    return backbone.eval(), about


def made_by(corpus: Mapping[str, Any]) -> str:
    """The generator behind a corpus's parent record; of a mixture all of them."""
    parts = corpus["parents"] if "mixture" in corpus["recipe"] else [corpus]
    return " + ".join(str(part["recipe"]["generator"]["class_path"]) for part in parts)


def _whose(corpus: Mapping[str, Any]) -> str:
    if "Scans" in made_by(corpus):
        return "The corpus holds scans of people, whose data-use terms go with these weights."
    return "The corpus is simulated: figures on it say that the pipeline works and nothing about patients."


def card(about: Weights) -> str:
    """The model card, in Hugging Face's front-matter form."""
    corpus = about.corpus
    licences = corpus.get("licences") or ["not stated"]
    figures = "\n".join(f"| {name} | {value} |" for name, value in about.figures.items())
    size = " × ".join(f"{n}" for n in about.shape)
    return f"""---
library_name: brainloom
tags: [brain-mri, synthetic-pretraining, {about.objective}]
---
# {about.backbone}, {about.objective}, on {corpus["name"]}

Backbone `{about.backbone}` for volumes of {size} voxels at {about.spacing} mm (canonical RAS+, {about.normalisation}).
Pre-trained with objective `{about.objective}` on the corpus `{corpus["name"]}`: {corpus["count"]} volumes of generator
`{made_by(corpus)}`, seed {corpus["seed"]}, identity `{corpus["identity"]}`.
{_whose(corpus)}

Licences of what the corpus derives from: {"; ".join(licences)}.

| held-out figure | value |
|---|---|
{figures}

Training: `{json.dumps(about.training)}`
"""


def remove_folder(folder: Path) -> None:
    """Delete a folder of ours, checkpoints for instance, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
