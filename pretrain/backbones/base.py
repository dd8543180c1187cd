"""What every backbone offers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from synth.errors import UserError

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Fit:
    """Volumes a backbone takes: voxels an axis are a multiple of ``multiple`` (by axis) and ``smallest`` or more."""

    multiple: Shape = (1, 1, 1)
    smallest: int = 1

    def check(self, shape: Shape, name: str) -> None:
        """Raise UserError, which names a shape that would do, when ``shape`` (voxels) cannot be taken."""
        if all(n % m == 0 and n >= self.smallest for n, m in zip(shape, self.multiple, strict=True)):
            return
        low = [max(self.smallest, m) for m in self.multiple]
        fitting = [max(least, round(n / m) * m) for n, m, least in zip(shape, self.multiple, low, strict=True)]
        raise UserError(
            f"backbone {name} cannot take volumes of {','.join(map(str, shape))}; expected {self.rule}, such as "
            f"{','.join(map(str, fitting))}"
        )

    @property
    def rule(self) -> str:
        """In words: ``multiples of 16``, ``at least 32 voxels an axis``."""
        if self.multiple == (1, 1, 1):
            return f"at least {self.smallest} voxels an axis"
        same = len(set(self.multiple)) == 1
        return f"multiples of {self.multiple[0] if same else ','.join(map(str, self.multiple))}"


class Backbone(nn.Module):
    """Volume ``[B, C, D, H, W]`` → pooled feature ``[B, F]``, or feature map ``[B, F, d, h, w]``.

    Any size that ``fit`` allows is taken, the one it was made for or another.

    Attributes:
        name: in the table of backbones; ``word`` is the name with its options, from which it can be made again.
        fit: which sizes are taken.
        feature_size: F, the length of the pooled feature.
    """

    name: str = "backbone"
    word: str = "backbone"
    fit: Fit = Fit()
    feature_size: int

    def feature_map(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, C, D, H, W]`` → feature map ``[B, F, d, h, w]``. Raises UserError for a size that cannot be taken."""
        raise TypeError(f"{type(self).__name__} has no feature map")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, C, D, H, W]`` → pooled feature ``[B, F]``, the mean of the feature map unless a backbone says otherwise."""
        return self.feature_map(image).mean((2, 3, 4))

    def layer_prefixes(self) -> list[tuple[str, ...]]:
        """For each layer from input to output, how the names of its parameters begin."""
        raise TypeError(f"{type(self).__name__} does not say what its layers are")

    def layers(self) -> list[list[str]]:
        """Names of all parameters, grouped by layer from input to output (for layer-wise learning-rate decay)."""
        prefixes = self.layer_prefixes()
        groups: list[list[str]] = [[] for _ in prefixes]
        for name, _ in self.named_parameters():
            groups[_layer_of(name, prefixes)].append(name)
        return groups

    def _check(self, image: torch.Tensor) -> None:
        self.fit.check((image.shape[2], image.shape[3], image.shape[4]), self.name)


def _layer_of(name: str, prefixes: list[tuple[str, ...]]) -> int:
    found = [i for i, group in enumerate(prefixes) if any(name == p or name.startswith(p + ".") for p in group)]
    if len(found) != 1:
        raise RuntimeError(f"parameter {name} belongs to {len(found)} layers")
    return found[0]


def count_parameters(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
