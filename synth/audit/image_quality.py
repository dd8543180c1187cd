"""Image quality of what was made: MRIQC's metrics beside the reference's own range and that of real scans."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.audit.distances import digits
from synth.audit.grid import Volumes, some
from synth.audit.matching import Show
from synth.audit.measuring import Method
from synth.quality import METRICS, measure_in, real_percentiles

MOST = 30  # volumes of each corpus: N4 takes half a second for each
N4_GRID_MM = 12.0  # three times MRIQC's: nearly the same bias field in a twentieth of the time
FEWEST_VOXELS = 30  # in a mask
NAMES = {
    "cjv": "CJV",
    "cnr": "CNR",
    "snr_gm": "SNR, grey matter",
    "snr_wm": "SNR, white matter",
    "gm_wm_ratio": "GM / WM",
    "csf_wm_ratio": "CSF / WM",
    "inu_range": "bias-field range",
}


def quality_of(volumes: Volumes, method: Method, show: Show) -> dict[str, npt.NDArray[np.float64]]:
    """Metric → ``[N]`` of up to ``MOST`` volumes; volumes in which a tissue was not found are left out."""
    rows, indices = [], some(len(volumes), MOST)
    for done, index in enumerate(indices, 1):
        image = volumes.image(index)
        masks = method.masks(image)
        if all(masks[name].sum() >= FEWEST_VOXELS for name in masks):
            with contextlib.suppress(ZeroDivisionError, RuntimeError):  # a flat volume; N4 gives up on one
                rows.append(measure_in(image, masks, volumes.spacing, N4_GRID_MM))
        show(done, len(indices))
    return {name: np.array([row[name] for row in rows], np.float64) for name in METRICS}


@dataclass(frozen=True, eq=False)
class Quality:
    """Metrics of both corpora, metric → ``[N]``."""

    synthetic: dict[str, npt.NDArray[np.float64]]
    reference: dict[str, npt.NDArray[np.float64]]

    def sets(self) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
        """Both, by role."""
        return {"synthetic": self.synthetic, "reference": self.reference}

    def as_json(self) -> dict[str, Any]:
        """Metric → percentiles of both and of 1,101 real scans, and how many synthetic volumes lie in either range."""
        real = real_percentiles()
        return {metric: self._row(metric, real.loc[metric].to_dict()) for metric in METRICS}

    def _row(self, metric: str, real: dict[Any, float]) -> dict[str, Any]:
        ours, theirs = self.synthetic[metric], self.reference[metric]
        row: dict[str, Any] = {
            "synthetic": _percentiles(ours),
            "reference": _percentiles(theirs),
            "real_scans_1mm": {str(name): float(value) for name, value in real.items()},
        }
        row["inside_reference"] = _inside(ours, row["reference"])
        row["inside_real_scans"] = _inside(ours, row["real_scans_1mm"])
        return row


def _percentiles(values: npt.NDArray[np.float64]) -> dict[str, float] | None:
    if len(values) == 0:
        return None
    return {
        name: digits(float(q))
        for name, q in zip(("p05", "p50", "p95"), np.percentile(values, [5, 50, 95]), strict=True)
    }


def _inside(values: npt.NDArray[np.float64], limits: dict[str, float] | None) -> float | None:
    """Share of the values from the 5th to the 95th percentile; 0.9 where both are alike."""
    if len(values) == 0 or limits is None:
        return None
    return digits(float(((values >= limits["p05"]) & (values <= limits["p95"])).mean()))
