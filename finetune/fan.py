"""Arms × seeds × fractions over Ray: each task writes its own small file, and nothing else comes back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from finetune.arms import Arm
from finetune.bench import Bench
from finetune.layouts import Layout

_kept: dict[tuple[str, str], Bench] = {}  # of this worker: images are prepared once a process


def _one(bench: Bench, arm: Arm, seed: int, percent: float, layout: Layout) -> None:
    import torch

    torch.set_num_threads(1)
    _kept.setdefault((bench.fingerprint, str(bench.out)), bench).kept_or(arm, seed, layout, percent)


def fan_out(
    bench: Bench, jobs: Sequence[tuple[Arm, int, float, Layout]], workers: int, show: Callable[[int, int], None]
) -> None:
    """Run every job on ``workers`` Ray workers, at most one waiting for each. Raises what a job raised."""
    from synth.pool import Workers, ray_session

    with ray_session(Workers(workers)) as ray:
        shared = ray.put(bench)
        submit: Callable[..., Any] = ray.remote(num_cpus=1, max_retries=1)(_one).remote
        waiting = iter(jobs)
        running = [submit(shared, *job) for job in itertools.islice(waiting, workers)]
        done = 0
        while running:
            (ready,), running = ray.wait(running, num_returns=1)
            ray.get(ready)
            done += 1
            show(done, len(jobs))
            running += [submit(shared, *job) for job in itertools.islice(waiting, 1)]
