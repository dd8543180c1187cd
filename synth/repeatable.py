"""Sums that are added in one order, so that a volume's bits do not depend on the machine's core count."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_one_at_a_time = threading.Lock()  # ITK's count of threads is the whole process's


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


@contextlib.contextmanager
def one_itk_thread() -> Iterator[None]:
    """SimpleITK on one thread. A filter's own SetNumberOfThreads does not reach what it is made of: with several threads
    a registration gives other bits each time."""
    import SimpleITK as sitk  # noqa: N813

    with _one_at_a_time:
        threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        try:
            yield
        finally:
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
