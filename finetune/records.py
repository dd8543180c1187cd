"""What one arm, seed and fraction gave, as it is kept in a file of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one arm, seed and fraction gave.

    Attributes:
        predictions: test set → probability of class 1, or the target's unit, in order of position.
        aside: test set → 1 where called class 1 at the threshold from training people; or the corrected prediction.
        chosen: hyper-parameters and where threshold or correction come from, for each model trained.
        site: balanced accuracy of the site from frozen features, and chance; None where not asked or not known.
        seconds: that it took.
        permuted: test set → AUC or r of every permutation of the labels, of the shuffled control.
        prevalence: test set → share of class 1 among the training people of whoever predicted each: the probability
            above which class 1 is called. Empty for a regression.
    """

    predictions: dict[str, Floats]
    aside: dict[str, Floats]
    chosen: list[dict[str, Any]]
    site: dict[str, float] | None = None
    seconds: float = 0.0
    permuted: dict[str, list[float]] = field(default_factory=dict)
    prevalence: dict[str, Floats] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """For JSON, without ``seconds``."""
        return {
            "chosen": self.chosen,
            "predictions": {name: values.tolist() for name, values in self.predictions.items()},
            "aside": {name: values.tolist() for name, values in self.aside.items()},
            "prevalence": {name: values.tolist() for name, values in self.prevalence.items()},
            "site": self.site,
            **({"permuted": self.permuted} if self.permuted else {}),
        }


def read_record(path: Path) -> Outcome:
    """What a file of ``arms/`` holds."""
    told = json.loads(path.read_text())
    parts = ("predictions", "aside", "prevalence")
    said, aside, share = [{name: np.array(values, float) for name, values in told[part].items()} for part in parts]
    return Outcome(said, aside, told["chosen"], told["site"], told["seconds"], told.get("permuted", {}), share)
