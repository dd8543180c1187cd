"""The gate: a release passes where at most a given share of samples can be copies, and the audit was able to say so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from synth.audit.power import SHARE

LEVEL = 0.025  # in each tail of the exact 95 % interval


def verdict(copies: dict[str, Any], max_copies: float, doubts: Sequence[str] = ()) -> dict[str, Any]:
    """Fails where more than ``max_copies`` of the samples are judged copies. Passes where the exact 95 % interval of that
    rate reaches no farther either and there are no doubts; else it is not judged, and ``why`` says what is lacking.

    Args:
        copies: the entry ``copies`` of audit.json.
        max_copies: the gate, above 0 to 1.
        doubts: sentences on why copies may be there unseen.
    """
    why = [*doubts, *blindness(copies), *shortage(copies, max_copies)]
    fails = copies["rate"] > max_copies
    state = "fails" if fails else "is not judged" if why else "passes"
    return {
        "passes": state == "passes",
        "state": state,
        "why": [] if fails else why,
        "copies_rate": copies["rate"],
        "copies_high": copies["high"],
        "max_copies": max_copies,
    }


def blindness(copies: dict[str, Any]) -> list[str]:
    """A sentence where too few of the known copies were found."""
    known = copies["known"]
    if known["found"] >= SHARE * known["count"]:
        return []
    return [
        f"Only {known['found']} of {known['count']} near-copies made of the reference itself were found, so samples that are "
        "copies are missed too. Often the reference holds one person several times: give its volumes a covariate "
        "participant_id; or it is too small or too coarse."
    ]


def shortage(copies: dict[str, Any], max_copies: float) -> list[str]:
    """A sentence where there are too few samples to tell the rate from a larger one than the gate's."""
    if copies["high"] <= max_copies:
        return []
    return [
        f"{copies['count']} of {copies['samples']} samples were judged copies, which leaves up to {copies['high']:.2%} of "
        f"them possible (exact 95 % interval); to pass {max_copies:.2%} it takes {needed(max_copies)} samples without a "
        "copy, or more with some."
    ]


def needed(max_copies: float) -> int:
    """The fewest samples of which none is a copy whose exact interval (Clopper & Pearson 1934) ends at ``max_copies``."""
    return 1 if max_copies >= 1 else math.ceil(math.log(LEVEL) / math.log1p(-max_copies))
