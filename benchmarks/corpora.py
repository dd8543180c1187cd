"""Corpora that benchmarks make for themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from synth.errors import UserError

if TYPE_CHECKING:
    from synth.engine import Job, Outcome


def make(job: Job, workers: int) -> Outcome:
    """Generate, or go on with, a corpus under a progress bar. Raises UserError where a volume failed."""
    from synth.engine import generate
    from synth.progress import progress_bar

    with progress_bar(f"generate {Path(job.out).name}") as show:
        outcome = generate(job, workers, progress=show)
    if outcome.failed:
        raise UserError(f"{len(outcome.failed)} shard(s) of {job.out} failed: {next(iter(outcome.failed.values()))}")
    return outcome
