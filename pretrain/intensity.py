"""From stored intensities to what a backbone sees; the same for synthetic and real volumes, in training and after."""

from __future__ import annotations

import torch

NORMALISATION = "foreground z-score"
FOREGROUND = 0.1  # of the 99th percentile: air is below it, tissue above
CLIP = 4.0


def standardise(image: torch.Tensor) -> torch.Tensor:
    """Zero mean, unit SD over each volume's foreground, clipped to ±``CLIP``; ``[B, C, D, H, W]`` float32 in and out.

    Foreground is what exceeds a tenth of the volume's 99th percentile, so head size and field of view matter little.
    """
    flat = image.flatten(1)
    high = flat.kthvalue(max(1, int(flat.shape[1] * 0.99)), dim=1, keepdim=True).values
    mask = (flat > FOREGROUND * high).float()
    count = mask.sum(1, keepdim=True).clamp_min(1)
    mean = (flat * mask).sum(1, keepdim=True) / count
    sd = (((flat - mean) * mask).square().sum(1, keepdim=True) / count).sqrt()
    return ((flat - mean) / sd.clamp_min(1e-6)).clamp(-CLIP, CLIP).view_as(image)


def augment(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Per volume: mirror left–right, shift by up to two voxels, gamma, smooth-less noise. Before standardising.

    Args:
        image: ``[B, C, D, H, W]``, not negative.
        generator: the only source of randomness, on the image's device.
    """
    count, device = image.shape[0], image.device

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=generator, device=device).mul(high - low).add(low).view(-1, 1, 1, 1, 1)

    mirrored = torch.rand(count, generator=generator, device=device) < 0.5
    image = torch.where(mirrored.view(-1, 1, 1, 1, 1), image.flip(2), image)
    shifts = torch.randint(-2, 3, (count, 3), generator=generator, device=device).tolist()
    image = torch.stack([volume.roll(shift, dims=(1, 2, 3)) for volume, shift in zip(image, shifts, strict=True)])
    top = image.flatten(1).amax(1).clamp_min(1e-6).view(-1, 1, 1, 1, 1)
    image = (image / top).clamp_min(0) ** torch.exp(uniform(-0.25, 0.25))
    noise = torch.randn(image.shape, generator=generator, device=device)
    return (image + noise * uniform(0, 0.03)).clamp_min(0)
