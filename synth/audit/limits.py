"""What an audit cannot say, in sentences."""

from __future__ import annotations

import numpy as np

from synth.audit.grid import Volumes
from synth.audit.groups import NAMES, labels_of
from synth.audit.image_quality import Quality
from synth.audit.lineage import shared_people, without_record
from synth.audit.listening import not_measured
from synth.audit.measuring import Measured


def not_judged(made: Volumes, real: Volumes, apart: Volumes | None, measured: Measured, quality: Quality) -> list[str]:
    """Sentences on what this audit cannot say, beside what the gate lacks."""
    said = [sentence for sentence in (without_record(made), shared_people(real, apart)) if sentence]
    if apart is None:
        said.append(
            "No held-out volumes were given. Whether samples tell training volumes from others (membership), and whether "
            "they lie nearer to training volumes than to others, cannot be judged. The threshold for copies comes from "
            "reference volumes, each compared with all the others; the reference was not split for it. For the yardstick "
            "of fidelity alone it was: one half against the other."
        )
    if labels_of(real.corpus) is None:
        said.append(
            "The reference has no label maps of known structures: volumes are dark and bright voxels by depth, and their "
            "error is not known."
        )
    if poor := [NAMES[name] for name in measured.mm3 if name not in measured.trusted]:
        said.append(f"Not measured well enough to compare with what was asked: {', '.join(poor)}.")
    if silent := [
        role for role, found in quality.sets().items() if not any(np.isfinite(m).any() for m in found.values())
    ]:
        said.append(
            f"Image quality was not measured on the {' and '.join(silent)} volumes: in none of them were white matter, grey "
            "matter and CSF found."
        )
    if made.corpus.image_shape[0] > 1:
        said.append("Only the first channel was looked at.")
    if made.factor > 1:
        said.append(f"Volumes were averaged over {made.factor}³ voxels; nothing finer was compared.")
    if unmeasured := not_measured(made):
        said.append(f"Asked for, but not measured here: {', '.join(unmeasured)}.")
    said.append(
        "A copy that is turned or resized as well as changed in other ways, or that copies a part of a head only, can be "
        "missed; docs/audit.md has the measured limits."
    )
    return said
