"""The table of backbones: a name, and after a colon its options, gives a network."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pretrain.backbones.base import Backbone, Fit, Shape
from pretrain.backbones.cnn import MonaiDenseNet, MonaiResNet, VideoResNet
from pretrain.backbones.sfcn import SFCN
from pretrain.backbones.swin import MonaiSwin, SwinOptions, VideoSwin
from pretrain.backbones.vit import ViT, ViTOptions
from synth.errors import UserError, near
from synth.options import parse_value


@dataclass(frozen=True)
class NoOptions:
    """A backbone that comes in one form."""


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        make: (shape, channels, options) → backbone.
        about: one line about it.
        options: dataclass of what can be said after the colon.
        fit: which sizes are taken, given options.
    """

    make: Callable[[Shape, int, Any], Backbone]
    about: str
    fit: Callable[[Any], Fit]
    options: type[Any] = NoOptions


def _vit(width: int, depth: int, heads: int, patch: int) -> Entry:
    def make(shape: Shape, channels: int, options: ViTOptions) -> Backbone:
        return ViT(shape, channels, width, depth, heads, patch, options)

    def fit(options: ViTOptions) -> Fit:
        return Fit(options.patch_shape(patch))

    return Entry(make, f"ViT {width} wide, {depth} deep, {heads} heads, patches {patch}³", fit, ViTOptions)


def _sfcn(widths: tuple[int, ...], about: str) -> Entry:
    def make(shape: Shape, channels: int, options: NoOptions) -> Backbone:
        return SFCN(shape, channels, widths)

    return Entry(make, about, lambda _: Fit(smallest=2 ** (len(widths) - 1)))


def _resnet(model: str) -> Entry:
    def make(shape: Shape, channels: int, options: NoOptions) -> Backbone:
        return MonaiResNet(shape, channels, model)

    return Entry(make, f"MONAI ResNet{model[6:]}, the layout of MedicalNet", lambda _: MonaiResNet.fit)


def _densenet(shape: Shape, channels: int, options: NoOptions) -> Backbone:
    return MonaiDenseNet(shape, channels)


def _r3d_18(shape: Shape, channels: int, options: NoOptions) -> Backbone:
    return VideoResNet(shape, channels)


def _swin3d(width: int, depths: tuple[int, int, int, int], heads: tuple[int, int, int, int], size: str) -> Entry:
    def make(shape: Shape, channels: int, options: SwinOptions) -> Backbone:
        return VideoSwin(shape, channels, width, depths, heads, options)

    return Entry(make, f"video Swin {size}, torchvision's layout", lambda _: VideoSwin.fit, SwinOptions)


BACKBONES: dict[str, Entry] = {
    "vit_xs": _vit(128, 4, 4, 8),
    "vit_ti": _vit(192, 12, 3, 8),
    "vit_ti_p16": _vit(192, 12, 3, 16),
    "vit_s": _vit(384, 12, 6, 16),
    "vit_s_p8": _vit(384, 12, 6, 8),
    "vit_b": _vit(768, 12, 12, 16),
    "vit_b_p8": _vit(768, 12, 12, 8),
    "sfcn": _sfcn((32, 64, 128, 256, 256, 64), "SFCN of Peng et al. 2021, widths 32-64-128-256-256-64"),
    "sfcn_s": _sfcn((12, 24, 48, 96, 128), "a small SFCN, widths 12-24-48-96-128"),
    "densenet121": Entry(_densenet, "MONAI DenseNet121", lambda _: MonaiDenseNet.fit),
    "resnet18": _resnet("resnet18"),
    "resnet50": _resnet("resnet50"),
    "r3d_18": Entry(_r3d_18, "video ResNet18, torchvision's layout", lambda _: VideoResNet.fit),
    "swin": Entry(MonaiSwin, "MONAI Swin 48 wide, 2-2-2-2 deep, windows 7³", lambda _: MonaiSwin.fit, SwinOptions),
    "swin3d_t": _swin3d(96, (2, 2, 6, 2), (3, 6, 12, 24), "tiny"),
    "swin3d_s": _swin3d(96, (2, 2, 18, 2), (3, 6, 12, 24), "small"),
    "swin3d_b": _swin3d(128, (2, 2, 18, 2), (4, 8, 16, 32), "base"),
}


def find_backbone(word: str) -> tuple[str, Any]:
    """``name`` or ``name:option=value,…`` → (name, options).

    Raises:
        UserError: no such name or option (near ones are listed), or a value of the wrong kind.
    """
    name, _, text = word.partition(":")
    if name not in BACKBONES:
        raise UserError(f"there is no backbone '{name}'; near: {near(name, BACKBONES)}")
    kind = BACKBONES[name].options
    hints = typing.get_type_hints(kind)
    given = {}
    for part in filter(None, text.split(",")):
        option, equals, value = part.partition("=")
        if option not in hints:
            known = near(option, hints) if hints else "it has none"
            raise UserError(f"backbone {name} has no option '{option}'; near: {known}")
        given[option] = parse_value(value if equals else "true", hints[option], f"option {option} of backbone {name}")
    return name, kind(**given)


def spell(name: str, options: Any) -> str:
    """The word that :func:`find_backbone` reads: ``vit_b:pool=cls,class_token=true``; options at their default left out."""
    parts = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != field.default:
            parts.append(f"{field.name}={str(value).lower() if isinstance(value, bool) else value}")
    return f"{name}:{','.join(parts)}" if parts else name


def make_backbone(word: str, shape: Shape, channels: int = 1, seed: int = 0) -> Backbone:
    """A freshly initialised backbone for volumes of ``shape`` (voxels); equal seeds give equal weights.

    ``word`` is a name of the table, or name and options: ``vit_b:positions=learned,checkpointing=true``.

    Raises:
        UserError: no such name or option (near ones are listed), or a shape that it cannot take (one it can is named).
    """
    name, options = find_backbone(word)
    entry = BACKBONES[name]
    entry.fit(options).check(shape, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = entry.make(shape, channels, options)
    made.name, made.word = name, spell(name, options)
    return made.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # about 1.3 × as fast on CPU, bf16
