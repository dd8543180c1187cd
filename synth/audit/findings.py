"""Everything an audit found, before it is written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from synth.audit.copies import Copies
from synth.audit.distances import Doubles
from synth.audit.grid import Volumes
from synth.audit.image_quality import Quality
from synth.audit.measuring import Measured


@dataclass(frozen=True, eq=False)
class Findings:
    """What pictures and page are made of.

    Attributes:
        synthetic, reference, held_out: the corpora.
        results: the content of audit.json.
        copies: both searches.
        made, real: volumes measured in samples and reference.
        quality: image quality of both.
        axes: ``[N, 2]`` leading principal axes of features, role → vectors.
        likeness: MS-SSIM of pairs, role → ``[P]``.
    """

    synthetic: Volumes
    reference: Volumes
    held_out: Volumes | None
    results: dict[str, Any]
    copies: Copies
    made: Measured
    real: Measured
    quality: Quality
    axes: dict[str, Doubles]
    likeness: dict[str, Doubles]
