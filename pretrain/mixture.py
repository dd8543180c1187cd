"""Any contrast from label maps, drawn on the device in batch.

SynthSeg's mixture (Billot et al. 2023, Medical Image Analysis; code defaults): every structure has a mean of U(0, 250)
and a spread of U(0, 30), the background is black (5 %), dark (25 %) or any (70 %). Then partial volume, bias field,
gamma, thick slices and noise. It is written for batches of stored label maps, whoever made them, and needs nothing else:
the model in :mod:`synth.appearance` (and its torch twin) renders one volume at a time from its params, which only corpora
of LabelMap hold and whose person, flow and filters are planned on the CPU again for every view.
"""

from __future__ import annotations

import torch

from pretrain.augment import Augmentation, blurred, recoloured

HIGHEST_MEAN, HIGHEST_SPREAD = 250.0, 30.0
BLACK, DARK = 0.05, 0.3  # shares of volumes whose background is black; black or dark
DARK_MEAN, DARK_SPREAD = 15.0, 5.0
PARTIAL_VOLUME = 0.45  # SD in voxels: labels have hard edges, tissue in a voxel has not
APPEARANCE = Augmentation(
    gamma=(1.0, 0.4, 2.5),
    bias=(0.95, 0.0, 0.7),
    blur=(0.5, 0.0, 1.0),
    slices=(0.5, 0.5, 2.0),
    noise=(0.9, 0.0, 0.08),
)


def painted(classes: torch.Tensor, count: int, channels: int, generator: torch.Generator) -> torch.Tensor:
    """Images ``[B, C, D, H, W]``, 0 or more, of label maps; every volume and channel in a contrast of its own.

    Args:
        classes: ``[B, D, H, W]`` int64, 0 is the background.
        count: of classes.
        channels: C.
        generator: on the device of ``classes``, the only source of randomness.
    """
    batch, device = len(classes), classes.device

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    mean, spread = (high * uniform(batch, channels, count) for high in (HIGHEST_MEAN, HIGHEST_SPREAD))
    kind, dark = uniform(batch, 1), uniform(2, batch, channels)
    for values, high, part in ((mean, DARK_MEAN, dark[0]), (spread, DARK_SPREAD, dark[1])):
        values[..., 0] = torch.where(kind < DARK, high * part, values[..., 0]).masked_fill(kind < BLACK, 0.0)
    where = classes.flatten(1)[:, None].expand(-1, channels, -1)
    shape = (batch, channels, *classes.shape[1:])
    texture = torch.randn(shape, generator=generator, device=device)
    image = mean.gather(2, where).view(shape) + spread.gather(2, where).view(shape) * texture
    soft = torch.full((batch, 3), PARTIAL_VOLUME, device=device)
    return recoloured(blurred(image.clamp_min(0), soft, PARTIAL_VOLUME), generator, APPEARANCE)
