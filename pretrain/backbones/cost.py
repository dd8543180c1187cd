"""What a backbone costs, counted on tensors that have shapes and no memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pretrain.backbones.base import Backbone, Shape, count_parameters
from pretrain.backbones.swin import SwinOptions
from pretrain.backbones.table import BACKBONES, Entry

LISTED: Shape = (96, 96, 96)


@dataclass(frozen=True)
class Row:
    """One backbone in the list.

    Attributes:
        name, about, sizes: its name, what it is, which volumes it takes.
        parameters: trainable ones, at the listed size.
        feature: length of the pooled feature.
        activation_bytes, flops: of one volume, see :func:`count_cost`; None where the listed size cannot be taken.
    """

    name: str
    about: str
    sizes: str
    parameters: int
    feature: int
    activation_bytes: int | None
    flops: int | None


def describe(shape: Shape = LISTED, show: Callable[[int, int], None] | None = None) -> list[Row]:
    """One row per backbone, costs at ``shape`` (voxels, one channel); ``show`` is called with (done, total)."""
    rows = []
    for name, entry in BACKBONES.items():
        fit = entry.fit(entry.options())
        fits = all(n % m == 0 and n >= fit.smallest for n, m in zip(shape, fit.multiple, strict=True))
        made = _blank(entry, shape if fits else LISTED)
        costs = count_cost(made, shape) if fits else (None, None)
        rows.append(Row(name, entry.about, fit.rule, count_parameters(made), made.feature_size, *costs))
        if show:
            show(len(rows), len(BACKBONES))
    return rows


def _blank(entry: Entry, shape: Shape) -> Backbone:
    """A backbone whose weights have no memory; a Swin's have: MONAI reads a tensor's values while it builds one."""
    if entry.options is SwinOptions:
        return entry.make(shape, 1, entry.options())
    with torch.device("meta"):
        return entry.make(shape, 1, entry.options())


def count_cost(backbone: Backbone, shape: Shape, channels: int = 1) -> tuple[int, int]:
    """(activation bytes, floating-point operations) of one volume of ``shape`` (voxels).

    Activations: what one more volume in the batch keeps for the backward pass, training in bfloat16 (autocast). They are
    counted: every tensor that autograd saves, each storage once, for two volumes less for one, so that weights drop out.
    Gradients on their way and what a kernel needs while it runs come on top. Operations: matrix products, convolutions
    and attention of the forward pass, a multiply–add as two.
    """
    from torch.utils.flop_counter import FlopCounterMode

    forward = _shadow(backbone.train())
    with FlopCounterMode(display=False, custom_mapping=_attention()) as counter:
        one = saved_bytes(forward, (1, channels, *shape))
    return saved_bytes(forward, (2, channels, *shape)) - one, int(counter.get_total_flops())


def _attention() -> dict[Any, Callable[..., int]]:
    """torch counts attention on GPUs; the operator it takes on a CPU is not in its list."""
    from torch.utils.flop_counter import sdpa_flop_count

    def operations(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    return {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: operations}


def saved_bytes(forward: Callable[[tuple[int, ...]], torch.Tensor], shape: tuple[int, ...]) -> int:
    """Bytes that autograd saves while ``forward`` handles a batch of ``shape`` under bfloat16 autocast."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[id(tensor.untyped_storage())] = tensor.untyped_storage()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        forward(shape)
    return sum(storage.nbytes() for storage in kept.values())


def _shadow(backbone: Backbone) -> Callable[[tuple[int, ...]], torch.Tensor]:
    """The forward pass on zeros of a given shape, in tensors without memory; the backbone itself is left alone."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    tensors = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    with mode:
        fakes = {
            name: torch.empty_like(tensor, device="cpu").requires_grad_(tensor.requires_grad)
            for name, tensor in tensors.items()
        }

    def forward(shape: tuple[int, ...]) -> torch.Tensor:
        with mode:
            made: torch.Tensor = torch.func.functional_call(backbone, fakes, (torch.zeros(shape),))
            return made

    return forward
