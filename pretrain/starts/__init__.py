"""Where a backbone's weights begin: ``--init``."""

from __future__ import annotations

import json
from pathlib import Path

from pretrain.backbones import Backbone, Shape, make_backbone
from pretrain.starts.report import Report, describe_start
from synth.errors import UserError

__all__ = ["SCRATCH", "Report", "describe_start", "make_start"]

SCRATCH = "scratch"
KNOWN = (
    "our weights; ViTs of transformers and timm (ImageNet, MAE, DINO, DINOv2, DINOv3), VideoMAE, MONAI's ViT; "
    "torchvision's r3d_18 and swin3d; MedicalNet's and MONAI's ResNets; MONAI's DenseNet"
)


def make_start(init: str, word: str, shape: Shape, channels: int = 1, seed: int = 0) -> tuple[Backbone, Report | None]:
    """The backbone ``word`` for volumes of ``shape``, and what became of every tensor of the start ``init``.

    Args:
        init: ``scratch``, or a file, a folder or a Hugging Face hub id (``owner/name``, ``owner/name@revision``).
        word: backbone, with options after a colon.
        shape: voxels.
        channels: of the volumes.
        seed: draws what the start does not say.

    Raises:
        UserError: no such start, a kind that is not known, or another network than the backbone.
    """
    if init == SCRATCH:
        return make_backbone(word, shape, channels, seed), None
    from pretrain.hub import local_place
    from pretrain.starts.cnn import start_cnn
    from pretrain.starts.files import read_source
    from pretrain.starts.names import translate
    from pretrain.starts.ours import start_ours
    from pretrain.starts.vit import start_vit

    place = local_place(init)
    if _is_ours(place):
        return start_ours(init, place, word, shape, channels, seed)
    source = read_source(init)
    foreign = translate(source.tensors, init)
    made = (
        start_vit(source, foreign, word, shape, channels, seed)
        if foreign
        else start_cnn(source, word, shape, channels, seed)
    )
    if made is None:
        names = ", ".join(list(source.tensors)[:3])
        raise UserError(f"'{init}' is of no kind that --init knows (it begins with {names}); it knows {KNOWN}")
    backbone, report = made
    report.notes.insert(0, f"licence of the start: {source.licence or 'not stated beside it'}")
    return backbone, report


def _is_ours(place: Path) -> bool:
    config = place / "config.json"
    try:
        return config.is_file() and json.loads(config.read_text()).get("format") == "brainloom-weights"
    except (ValueError, AttributeError):
        return False
