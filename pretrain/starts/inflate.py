"""From colours and planes to one channel and volumes: kernels and tables of positions."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from pretrain.backbones import Shape
from synth.errors import UserError


def fold_channels(kernel: torch.Tensor, channels: int) -> torch.Tensor:
    """A kernel ``[E, C, …]`` for ``channels`` channels that gives, on equal channels, what it gave on equal channels.

    Colours are summed, so that one channel answers as three equal ones did (Carreira and Zisserman 2017 for depth).
    """
    if kernel.shape[1] == channels:
        return kernel
    return kernel.sum(1, keepdim=True).expand(-1, channels, *kernel.shape[2:]).div(channels).contiguous()


def resize_kernel(kernel: torch.Tensor, size: Shape) -> torch.Tensor:
    """A patch kernel ``[E, C, h, w]`` or ``[E, C, d, h, w]`` for patches of ``size`` voxels.

    Each axis is resized by the pseudo-inverse of linear resampling (Beyer et al. 2023, FlexiViT), which keeps the answer
    on patches that are resampled likewise. Depth grows by repetition where it is a multiple, divided by the number of
    copies: a slice repeated through the depth answers as the plane did (I3D, Carreira and Zisserman 2017).
    """
    if kernel.ndim == 4:
        kernel = kernel[:, :, None]
    if tuple(kernel.shape[2:]) == size:
        return kernel
    matrices = [
        _pseudo_inverse(old, new, axis == 0) for axis, (old, new) in enumerate(zip(kernel.shape[2:], size, strict=True))
    ]
    resized = torch.einsum("ecdhw,Dd,Hh,Ww->ecDHW", kernel.double(), *matrices)
    return resized.to(kernel.dtype)


def _pseudo_inverse(old: int, new: int, is_depth: bool) -> torch.Tensor:
    """``[new, old]``: what a kernel of ``old`` taps becomes for ``new`` of them."""
    if old == new:
        return torch.eye(old, dtype=torch.float64)
    if is_depth and new % old == 0:
        return torch.eye(old, dtype=torch.float64).repeat_interleave(new // old, 0) * (old / new)
    resample = F.interpolate(torch.eye(old, dtype=torch.float64)[None], size=new, mode="linear")[0].T
    return torch.linalg.pinv(resample.T)


def plane_positions(table: torch.Tensor, plane: tuple[int, int], grid: Shape) -> torch.Tensor:
    """Positions of a plane ``[1, h·w, E]`` for a grid: bicubic in the plane, as ViTs do it, the same in every slice."""
    if plane != grid[1:]:
        square = table.transpose(1, 2).unflatten(2, plane).float()
        table = F.interpolate(square, size=grid[1:], mode="bicubic").flatten(2).transpose(1, 2).to(table.dtype)
    return table.repeat(1, grid[0], 1)


def sinusoid_table(count: int, width: int) -> torch.Tensor:
    """VideoMAE's fixed positions ``[1, count, width]``: sines of the token's number (Vaswani et al. 2017)."""
    rate = 10000.0 ** (-2 * torch.div(torch.arange(width), 2, rounding_mode="floor").double() / width)
    angle = torch.arange(count).double()[:, None] * rate
    angle[:, 0::2], angle[:, 1::2] = angle[:, 0::2].sin(), angle[:, 1::2].cos()
    return angle.float()[None]


def cube_of(count: int, grid: Shape, source: str) -> Shape:
    """The grid that ``count`` positions of a 3-D ViT stand for: the backbone's own, or a cube.

    Raises:
        UserError: it is neither.
    """
    if count == grid[0] * grid[1] * grid[2]:
        return grid
    side = round(count ** (1 / 3))
    if side**3 != count:
        raise UserError(
            f"'{source}' holds positions of {count} patches, which are no cube and not the {'×'.join(map(str, grid))} of "
            "this backbone; take volumes of the size it was trained on"
        )
    return (side, side, side)
