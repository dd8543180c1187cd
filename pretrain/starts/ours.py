"""Starts a backbone from weights that brainloom wrote."""

from __future__ import annotations

from pathlib import Path

from pretrain.backbones import Backbone, Shape, ViT, make_backbone
from pretrain.backbones.positions import resize_positions
from pretrain.starts.cnn import pour
from pretrain.starts.report import Report
from pretrain.weights import Weights, read_config, read_tensors
from synth.errors import UserError


def start_ours(source: str, folder: Path, word: str, shape: Shape, channels: int, seed: int) -> tuple[Backbone, Report]:
    """The backbone ``word`` with our weights, at another size or with other channels if need be.

    Raises:
        UserError: weights of another backbone.
    """
    about = read_config(folder)
    name, _, said = word.partition(":")
    if name != about.backbone:
        raise UserError(f"'{source}' holds weights of {about.backbone}; choose --backbone {about.backbone}, not {word}")
    options = ",".join(filter(None, (about.options, said)))
    backbone = make_backbone(f"{name}:{options}" if options else name, shape, channels, seed)
    report = Report(source, f"our weights, {about.objective} on {about.corpus['name']}", parent=_record(about))
    tensors = read_tensors(folder)
    if isinstance(backbone, ViT) and "positions" in tensors:
        old = _grid(about, backbone)
        if old != backbone.grid:
            report.interpolated["positions"] = " → ".join(" × ".join(map(str, grid)) for grid in (old, backbone.grid))
            tensors["positions"] = resize_positions(tensors["positions"], old, backbone.grid)
    pour(tensors, backbone, channels, source, report)
    report.loaded = [name for name in report.loaded if name not in report.interpolated]
    return backbone, report


def _grid(about: Weights, backbone: ViT) -> Shape:
    """Patches along d, h, w of the volumes that weights were trained on."""
    d, h, w = (n // p for n, p in zip(about.shape, backbone.patch_shape, strict=True))
    return (d, h, w)


def _record(about: Weights) -> dict[str, object]:
    return {"backbone": about.word, "objective": about.objective, "corpus": about.corpus, "start": about.start}
