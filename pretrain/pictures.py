"""Pictures of what an objective sees and makes: volumes side by side, a row a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from synth.picture import label_colours, slices


def sheet(panels: dict[str, torch.Tensor]) -> Any:
    """A matplotlib figure: a row per volume, a column per title, the middle axial slice.

    Args:
        panels: title → ``[B, C, D, H, W]``, whose first channel is shown. Panels of structures (whole numbers only) are
            coloured, others share the grey levels of the first.
    """
    from matplotlib.figure import Figure

    volumes = {title: panel[:, 0].float().cpu().numpy() for title, panel in panels.items()}
    first = next(iter(volumes.values()))
    made = Figure(figsize=(2.2 * len(volumes), 2.4 * len(first)), facecolor="black")
    axes = made.subplots(len(first), len(volumes), squeeze=False)
    for row, line in enumerate(axes):
        low, high = np.percentile(first[row], [1, 99.7])
        for axis, (title, panel) in zip(line, volumes.items(), strict=True):
            cut = slices(panel[row])[0]
            if title != next(iter(volumes)) and np.array_equal(panel, panel.round()):
                axis.imshow(label_colours(cut.astype(np.int64)), interpolation="nearest")
            else:
                axis.imshow(cut, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
            axis.set_title(title if row == 0 else "", color="white", fontsize=8)
            axis.axis("off")
    made.tight_layout(pad=0.3)
    return made
