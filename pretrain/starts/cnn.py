"""Starts a network of MONAI's modules from a file of the same network: MedicalNet, torchvision's video models, MONAI, or a
ResNet or DenseNet of images, whose kernels are repeated through the depth (I3D, Carreira and Zisserman 2017)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pretrain.backbones import Backbone, Shape, make_backbone
from pretrain.starts.files import Source
from pretrain.starts.inflate import fold_channels, resize_kernel
from pretrain.starts.report import Report
from synth.errors import UserError

HEADS = re.compile(r"^(fc|head|conv_seg|class_layers|classifier|projection_head)\b")


@dataclass(frozen=True)
class Kind:
    """How one family's file is known and read: a name that it holds, ours for each name, backbones that take it."""

    name: str
    sign: str
    rename: Callable[[str], str]
    backbones: tuple[str, ...]


def _r3d(name: str) -> str:
    name = re.sub(r"^stem\.0\.", "conv1.", re.sub(r"^stem\.1\.", "bn1.", name))
    return "net." + re.sub(r"conv(\d)\.1\.", r"bn\1.", re.sub(r"conv(\d)\.0\.", r"conv\1.", name))


def _swin3d(name: str) -> str:
    match = re.match(r"features\.(\d+)\.(.+)", name)
    if not match:
        return name if name.startswith("norm.") else f"net.{name}"
    stage, rest = f"net.layers{int(match[1]) // 2 + 1}.0", match[2]
    if int(match[1]) % 2:
        return f"{stage}.downsample.{rest}"
    return f"{stage}.blocks.{rest.replace('mlp.0.', 'mlp.linear1.').replace('mlp.3.', 'mlp.linear2.')}"


def _densenet(name: str) -> str:
    """torchvision's and timm's names, or MONAI's, which has ``layers`` in between."""
    return re.sub(r"(denselayer\d+)\.(norm|relu|conv)", r"\1.layers.\2", name)


MEDICALNET = "MedicalNet's layers 3 and 4 were trained with dilation and stride 1; here, as in MONAI, they have stride 2 and none"
KINDS = (
    Kind("torchvision r3d_18", "stem.0.weight", _r3d, ("r3d_18",)),
    Kind("torchvision video Swin", "features.0.0.attn.qkv.weight", _swin3d, ("swin3d_t", "swin3d_s", "swin3d_b")),
    Kind("ResNet", "layer1.0.conv1.weight", "net.{}".format, ("resnet18", "resnet50")),
    Kind("DenseNet", "features.conv0.weight", _densenet, ("densenet121",)),
)


def kind_of(names: dict[str, torch.Tensor]) -> Kind | None:
    """The family whose sign is among the names."""
    return next((kind for kind in KINDS if kind.sign in names), None)


def without_wrapping(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names without ``module.`` (of DataParallel), ``backbone.``, ``encoder.`` or ``model.`` before all of them."""
    for prefix in ("module.", "model.", "backbone.", "encoder.", "net."):
        inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if any(kind.sign in inside for kind in KINDS):
            return inside
        if inside and len(inside) == len(tensors):
            tensors = inside
    return tensors


def start_cnn(source: Source, word: str, shape: Shape, channels: int, seed: int) -> tuple[Backbone, Report] | None:
    """The backbone ``word`` with the file's weights; None for a file of no such family.

    Raises:
        UserError: another network than ``word``; the first difference is named.
    """
    tensors = without_wrapping(source.tensors)
    kind = kind_of(tensors)
    if kind is None:
        return None
    if word.partition(":")[0] not in kind.backbones:
        raise UserError(
            f"'{source.name}' is a {kind.name}; choose --backbone {' or '.join(kind.backbones)}, not {word}"
        )
    backbone = make_backbone(word, shape, channels, seed)
    planes = tensors[kind.sign].ndim == 4
    report = Report(source.name, f"{kind.name} of images" if planes else kind.name)
    if kind.name == "ResNet" and not planes:
        report.notes.append(MEDICALNET)
    named = {}
    for name, tensor in tensors.items():
        if HEADS.match(name):
            report.skipped[name] = "of its own task (classifier)"
        else:
            named[kind.rename(name)] = tensor
    pour(named, backbone, channels, source.name, report)
    if lost := [name for name in report.skipped if ".downsample." in name]:
        raise UserError(
            f"'{source.name}' is another network than {backbone.name}: its shortcuts hold {lost[0]}, for which there is no "
            "place (those of resnet18 are of type A, as MedicalNet's are); a ResNet50 or DenseNet121 fits"
        )
    return backbone, report


def pour(named: dict[str, torch.Tensor], backbone: Backbone, channels: int, source: str, report: Report) -> None:
    """Put tensors under our names into a backbone of the same network, input channels folded; raises UserError else."""
    state = backbone.state_dict()
    first = next(name for name, tensor in state.items() if tensor.ndim == 5)
    if lost := [name for name in state if name not in named and not name.endswith("num_batches_tracked")]:
        raise UserError(f"'{source}' lacks {len(lost)} of {backbone.name}'s {len(state)} tensors, such as {lost[0]}")
    for name in [name for name in named if name not in state]:
        report.skipped[name] = "no place for it in the backbone"
        del named[name]
    for name, tensor in named.items():
        if tensor.ndim == 4 and name in state and state[name].ndim == 5:
            depth = state[name].shape[2]
            report.inflated[name] = f"a plane → {depth} deep"
            named[name] = resize_kernel(tensor, (depth, *tensor.shape[2:]))
    if first in named and named[first].shape[1] != channels:
        folded = f"{named[first].shape[1]} channels → {channels}"
        report.inflated[first] = ", ".join(filter(None, (folded, report.inflated.get(first))))
        named[first] = fold_channels(named[first], channels)
    for name, tensor in named.items():
        if name.endswith("relative_position_index"):  # torchvision keeps it flat
            named[name] = tensor.reshape(state[name].shape)
        if named[name].shape != state[name].shape:
            sizes = [" × ".join(map(str, x.shape)) for x in (tensor, state[name])]
            raise UserError(f"'{source}' is another network than {backbone.name}: {name} is {sizes[0]}, not {sizes[1]}")
    report.fresh = [name for name in state if name not in named]
    report.loaded = [name for name in named if name not in report.inflated]
    backbone.load_state_dict({**state, **named})
