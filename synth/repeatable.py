"""torch whose sums are added in one order, so that a volume's bits do not depend on the machine's core count."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """No gradients, one CPU thread and cuDNN's deterministic kernels: sums are added in one order on every machine
    of one kind, however many cores it has."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(), torch.backends.cudnn.flags(benchmark=False, deterministic=True):
            yield
    finally:
        torch.set_num_threads(threads)
