"""From a real image to Dice overlaps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.real_scan.classes import GREY_MATTER, WHITE_MATTER, members
from benchmarks.real_scan.images import STRUCTURES, Scan
from benchmarks.real_scan.volumes import normalise

# reference -> the network's classes that are counted as it
COUNTED: dict[str, Sequence[str]] = {
    "white_matter": WHITE_MATTER,
    "grey_matter": GREY_MATTER,
    **{structure: (structure,) for structure in STRUCTURES},
}


def dice(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """2 |A ∩ B| / (|A| + |B|) (Dice 1945); 1 when both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0


@torch.no_grad()
def segment(network: nn.Module, image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Class of every voxel ``[D, H, W]`` of an image as stored, on the network's grid: the mean of the probabilities
    of the image and of its left-right mirror (axis 0 runs left to right)."""
    network = network.eval()
    total: torch.Tensor | None = None
    x = torch.from_numpy(normalise(image))[None, None]
    for mirrored in (False, True):
        logits = network(x.flip(2) if mirrored else x).float()
        share = (logits.flip(2) if mirrored else logits).softmax(1)
        total = share if total is None else total + share
    assert total is not None
    return total[0].argmax(0).numpy().astype(np.uint8)


def overlaps(found: npt.NDArray[np.uint8], scan: Scan) -> dict[str, float]:
    """Reference → Dice of ``found``, classes on the scan's grid."""
    return {
        name: round(dice(np.isin(found, members(COUNTED[name])), reference), 4)
        for name, reference in scan.references.items()
    }


def table(results: dict[str, dict[str, float]]) -> str:
    """Dice per structure (rows) and image (columns), as text."""
    images = list(results)
    lines = [f"{'Dice':<20}" + "".join(f"{image:>14}" for image in images)]
    for structure in next(iter(results.values())):
        lines.append(f"{structure:<20}" + "".join(f"{results[image][structure]:>14.3f}" for image in images))
    return "\n".join(lines)
