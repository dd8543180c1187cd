"""What became of every tensor of a start."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Report:
    """Which of a backbone's tensors came from a start, and how.

    Attributes:
        source: the file, folder or hub id that ``--init`` was given.
        kind: what it was taken for.
        loaded: tensors taken as they are.
        inflated: convolution kernels brought to other colours, patches or depth, and how.
        interpolated: positions brought to another grid, and how.
        skipped: the source's tensors that were left out, and why.
        fresh: the backbone's tensors that the source says nothing of; drawn from the seed.
        notes: what to know besides, its licence first.
        parent: our weights' own record (corpus, objective, their start), when the start is such.
    """

    source: str
    kind: str
    loaded: list[str] = field(default_factory=list)
    inflated: dict[str, str] = field(default_factory=dict)
    interpolated: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parent: dict[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """As it is stored in config.json."""
        return asdict(self)

    def lines(self) -> list[str]:
        """As it is printed, and stands on the card."""
        return describe_start(self.record())


def describe_start(record: dict[str, Any]) -> list[str]:
    """A stored report in words; tensors that were left out are counted by reason."""
    lines = [f"start {record['source']}: {record['kind']}, {len(record['loaded'])} tensors as they are"]
    for word in ("inflated", "interpolated"):
        lines += [f"  {word} {name}: {how}" for name, how in record[word].items()]
    reasons = Counter(record["skipped"].values())
    lines += [f"  skipped {count} tensors: {reason}" for reason, count in reasons.items()]
    if record["fresh"]:
        lines.append(f"  fresh from the seed: {', '.join(record['fresh'])}")
    return [*lines, *(f"  {note}" for note in record["notes"])]
