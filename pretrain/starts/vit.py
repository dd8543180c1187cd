"""Starts a 3-D ViT from a ViT of another library: of images, of video, or of volumes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pretrain.backbones import BACKBONES, Backbone, Shape, ViT, ViTOptions, find_backbone, make_backbone, spell
from pretrain.backbones.positions import resize_positions
from pretrain.starts.files import Source
from pretrain.starts.inflate import cube_of, fold_channels, plane_positions, resize_kernel, sinusoid_table
from pretrain.starts.names import ForeignViT
from pretrain.starts.report import Report
from synth.errors import UserError

VIDEO_LICENCE = "VideoMAE's published weights are CC-BY-NC 4.0: not for commercial use"


@dataclass(frozen=True)
class Kind:
    """What sort of ViT it is: ``sees`` planes, clips or volumes; ``eps`` of its norms; ``rope``: DINOv3's positions."""

    name: str
    sees: Literal["planes", "clips", "volumes"]
    eps: float
    rope: bool = False


def kind_of(foreign: ForeignViT, source: Source) -> Kind:
    """By the names and shapes of its tensors; a config.json beside it knows better what the norms add."""
    tensors, names = foreign.tensors, source.tensors
    eps = float(source.config.get("layer_norm_eps") or 0)
    has_table, kernel = "positions" in tensors, tensors["embed.weight"]
    if any("patch_embedding." in name for name in names):
        return Kind("MONAI ViT", "planes" if kernel.ndim == 4 else "volumes", eps or 1e-5)
    if kernel.ndim == 5:
        return Kind("VideoMAE ViT", "clips", eps or 1e-12)
    library = "transformers" if any("embeddings." in name for name in names) else "timm"
    if not has_table and "registers" in tensors:
        return Kind(f"DINOv3 ViT ({library})", "planes", eps or 1e-5, rope=True)
    if not has_table:
        raise UserError(
            f"'{source.name}' is a ViT without a table of positions; --init knows such only as DINOv3 and VideoMAE"
        )
    if "blocks.0.scale1" in tensors:
        return Kind(f"DINOv2 ViT ({library})", "planes", eps or 1e-6)
    return Kind(f"ViT of images ({library})", "planes", eps or (1e-12 if library == "transformers" else 1e-6))


def start_vit(
    source: Source, foreign: ForeignViT, word: str, shape: Shape, channels: int, seed: int
) -> tuple[Backbone, Report]:
    """The ViT ``word`` with the weights of ``foreign``; raises UserError where their blocks differ."""
    kind = kind_of(foreign, source)
    name, asked = find_backbone(word)
    _refuse_other_blocks(source, foreign, word, asked)
    report = Report(source.name, kind.name, skipped=dict(foreign.skipped))
    options = _options(foreign, kind, asked, {part.partition("=")[0] for part in word.partition(":")[2].split(",")})
    backbone = make_backbone(spell(name, options), shape, channels, seed)
    assert isinstance(backbone, ViT)
    tensors = dict(foreign.tensors)
    if "pooled_norm.weight" in tensors:
        for end in ("weight", "bias"):
            tensors[f"norm.{end}"] = tensors.pop(f"pooled_norm.{end}")
    _embed(tensors, backbone, channels, report)
    _positions(tensors, backbone, kind, source, report)
    _pour(tensors, backbone, source, report)
    if kind.sees == "clips":
        report.notes.append(VIDEO_LICENCE)
    return backbone, report


def _refuse_other_blocks(source: Source, foreign: ForeignViT, word: str, asked: Any) -> None:
    """Blocks must agree in number, width and heads: nothing but embedding and positions can be adapted."""
    if not isinstance(asked, ViTOptions):
        raise UserError(f"'{source.name}' is a ViT and backbone {word} is none; choose {_fitting(foreign)}")
    with torch.device("meta"):
        target = make_backbone(word, _smallest(word), 1)
    assert isinstance(target, ViT)
    for what, theirs, ours in (
        ("blocks", foreign.depth, len(target.blocks)),
        ("wide tokens", foreign.width, target.feature_size),
        ("wide MLPs", foreign.tensors["blocks.0.mlp.0.weight"].shape[0], 4 * target.feature_size),
        ("heads", int(source.config.get("num_attention_heads") or target.heads), target.heads),
    ):
        if theirs != ours:
            raise UserError(
                f"'{source.name}' has {theirs} {what}, backbone {word} has {ours}; choose {_fitting(foreign)}"
            )

    if (act := source.config.get("hidden_act", "gelu")) != "gelu":
        raise UserError(f"'{source.name}' has MLPs with {act}, backbone {word} has gelu; choose another start")


def _smallest(word: str) -> Shape:
    name, options = find_backbone(word)
    return BACKBONES[name].fit(options).multiple


def _fitting(foreign: ForeignViT) -> str:
    widths = {192: "vit_ti", 384: "vit_s", 768: "vit_b"}
    if foreign.depth == 12 and foreign.width in widths:
        return f"--backbone {widths[foreign.width]}"
    return f"another start: no backbone is {foreign.width} wide and {foreign.depth} deep"


def _options(foreign: ForeignViT, kind: Kind, asked: ViTOptions, said: set[str]) -> ViTOptions:
    """What the blocks need to compute what they did; what the user said after the colon goes first."""
    has_class = "class_token" in foreign.tensors
    registers = foreign.tensors["registers"].shape[1] if "registers" in foreign.tensors else 0
    found = ViTOptions(
        positions="learned",
        pool="cls" if has_class and "pooled_norm.weight" not in foreign.tensors else "mean",
        class_token=has_class,
        registers=registers,
        prefix_per_layer=kind.sees == "planes" and (has_class or registers > 0),
        layer_scale="blocks.0.scale1" in foreign.tensors,
        rope=kind.rope,
        final="pooled" if "pooled_norm.weight" in foreign.tensors else "tokens",
        eps=kind.eps,
    )
    return dataclasses.replace(found, **{name: getattr(asked, name) for name in said if name})


def _embed(tensors: dict[str, torch.Tensor], backbone: ViT, channels: int, report: Report) -> None:
    kernel, before = tensors["embed.weight"], _times(tensors["embed.weight"].shape[1:])
    if kernel.ndim == 2:  # MONAI's perceptron: (d, h, w, channel) of a patch in one row
        side = round((kernel.shape[1] / channels) ** (1 / 3))
        kernel = kernel.view(kernel.shape[0], side, side, side, -1).permute(0, 4, 1, 2, 3).contiguous()
    resized = resize_kernel(fold_channels(kernel, channels), backbone.patch_shape)
    if resized.shape != tensors["embed.weight"].shape:
        report.inflated["embed.weight"] = f"{before} → {_times(resized.shape[1:])} (channels, patch)"
    tensors["embed.weight"] = resized


def _positions(tensors: dict[str, torch.Tensor], backbone: ViT, kind: Kind, source: Source, report: Report) -> None:
    """The table of positions for the backbone's grid; what the class token's own position was goes into the token."""
    table = tensors.pop("positions", None)
    if backbone.options.positions != "learned":
        if table is not None:
            report.skipped["positions"] = "fixed sines were asked for"
        return
    grid, width = backbone.grid, backbone.feature_size
    if kind.rope:
        tensors["positions"] = torch.zeros(1, math.prod(grid), width)
        report.interpolated["positions"] = (
            "none in the source (rotary in the plane); a table of zeros, to learn the depth"
        )
        return
    if kind.sees == "planes":
        assert table is not None
        plane, before = _plane(table, tensors, source)
        _into_prefix(table[:, :before], tensors)
        old = (1, *plane)
        tensors["positions"] = plane_positions(table[:, before:], plane, grid)
    elif table is None:
        old = _video_grid(source.config)
        tensors["positions"] = resize_positions(sinusoid_table(math.prod(old), width), old, grid)
    else:
        old = cube_of(table.shape[1], grid, source.name)
        tensors["positions"] = resize_positions(table, old, grid)
    if old != grid:
        report.interpolated["positions"] = f"{_times(old)} → {_times(grid)}"


def _plane(table: torch.Tensor, tensors: dict[str, torch.Tensor], source: Source) -> tuple[tuple[int, int], int]:
    """(h, w) of a table ``[1, P + h·w, E]`` and P, the positions of class token and registers in it."""
    first = [tensors[name].shape[1] for name in ("class_token", "registers") if name in tensors]
    for before in sorted({0, *first[:1], sum(first)}):
        side = math.isqrt(table.shape[1] - before)
        if side**2 == table.shape[1] - before:
            return (side, side), before
    raise UserError(
        f"'{source.name}' holds {table.shape[1]} positions, which are no square; --init takes ViTs of square images"
    )


def _into_prefix(positions: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
    if positions.shape[1] and "class_token" in tensors:
        tensors["class_token"] = tensors["class_token"] + positions[:, :1]
    if positions.shape[1] > 1 and "registers" in tensors:
        tensors["registers"] = tensors["registers"] + positions[:, 1:]


def _video_grid(config: dict[str, Any]) -> Shape:
    """Tubelets of VideoMAE's clips: 16 frames of 224² in tubelets of 2 × 16² where no config says otherwise."""
    side = int(config.get("image_size", 224)) // int(config.get("patch_size", 16))
    return (int(config.get("num_frames", 16)) // int(config.get("tubelet_size", 2)), side, side)


def _pour(tensors: dict[str, torch.Tensor], backbone: ViT, source: Source, report: Report) -> None:
    """Put the tensors into the backbone and say what became of each."""
    state = backbone.state_dict()
    for name in [name for name in tensors if name not in state]:
        report.skipped[name] = "the backbone was asked for without it"
        del tensors[name]
    for name, tensor in tensors.items():
        if tensor.shape != state[name].shape:
            raise UserError(
                f"'{source.name}': {name} is {_times(tensor.shape)}, the backbone's {_times(state[name].shape)}"
            )
    report.fresh = [name for name in state if name not in tensors]
    if lost := [name for name in report.fresh if name.startswith(("blocks.", "embed."))]:
        raise UserError(f"'{source.name}' lacks {len(lost)} tensors of the backbone's blocks, such as {lost[0]}")
    backbone.load_state_dict({**state, **tensors})
    changed = {**report.inflated, **report.interpolated}
    report.loaded = [name for name in tensors if name not in changed]


def _times(shape: Any) -> str:
    return " × ".join(map(str, shape))
