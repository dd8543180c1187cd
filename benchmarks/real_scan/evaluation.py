"""From a real image to Dice overlaps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.real_scan.classes import GREY_MATTER, NAMES, WHITE_MATTER, members
from benchmarks.real_scan.images import Scan
from benchmarks.real_scan.mixture import posterior
from benchmarks.real_scan.volumes import normalise

TISSUE_CLASSES: dict[str, Sequence[str]] = {"white_matter": WHITE_MATTER, "grey_matter": GREY_MATTER}


def dice(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """2 |A ∩ B| / (|A| + |B|) (Dice 1945); 1 when both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0


@torch.no_grad()
def probabilities(network: nn.Module, image: npt.NDArray[np.float32], rounds: int = 0) -> npt.NDArray[np.float32]:
    """``[C, D, H, W]`` of an image as stored, on the network's grid: the mean of what the network says of it and of its
    left-right mirror (axis 0 runs left to right), refined by ``rounds`` of a mixture on the image's intensities."""
    network = network.eval()
    x = torch.from_numpy(normalise(image))[None, None]
    straight, mirrored = network(x).float().softmax(1), network(x.flip(2)).float().softmax(1)
    share = (straight + mirrored.flip(2)) / 2
    return np.asarray(posterior(x, share.clamp_min(1e-8).log(), rounds)[0].numpy())


def overlaps(share: npt.NDArray[np.float32], scan: Scan) -> dict[str, float]:
    """Reference → Dice of what the network found, from probabilities ``[C, D, H, W]`` on the scan's grid.

    A voxel belongs to a structure when that class is the likeliest, and to a tissue when that tissue's classes together
    are likelier than the other tissue's and than all the rest.
    """
    structure, tissue = share.argmax(0), tissues(share)
    found = {name: structure == NAMES.index(name) for name in scan.references if name not in TISSUE_CLASSES}
    found |= {name: tissue == number for number, name in enumerate(TISSUE_CLASSES)}
    return {name: round(dice(found[name], reference), 4) for name, reference in scan.references.items()}


def tissues(share: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """``[D, H, W]``: 0 white matter, 1 grey matter, 2 neither, by summed probability."""
    sums = [share[members(names)].sum(0) for names in TISSUE_CLASSES.values()]
    return np.stack([*sums, 1 - sum(sums)]).argmax(0)


def table(results: dict[str, dict[str, float]]) -> str:
    """Dice per structure (rows) and image (columns), as text."""
    images = list(results)
    lines = [f"{'Dice':<20}" + "".join(f"{image:>14}" for image in images)]
    for structure in next(iter(results.values())):
        lines.append(f"{structure:<20}" + "".join(f"{results[image][structure]:>14.3f}" for image in images))
    return "\n".join(lines)
