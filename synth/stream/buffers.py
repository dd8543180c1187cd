"""Batch buffers that are used again: fresh memory costs a page fault every 4 kB, as much as the reading itself."""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch


class Buffers:
    """Arrays of one shape, lent as tensors. One comes back when nothing refers to its tensor any more, so that a
    batch is never overwritten while somebody holds it.

    Args:
        shape, dtype: of every array.
        pinned: page-locked memory, from which a GPU copies while the CPU goes on.
        keep: most idle arrays kept.
    """

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike, pinned: bool, keep: int) -> None:
        self.shape, self.dtype, self.pinned = shape, np.dtype(dtype), pinned
        self._idle: deque[npt.NDArray[Any]] = deque(maxlen=keep)

    def take(self) -> npt.NDArray[Any]:
        """An array with anything in it."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._new()

    def _new(self) -> npt.NDArray[Any]:
        if not self.pinned:
            return np.empty(self.shape, self.dtype)
        import torch

        kind = getattr(torch, self.dtype.name)
        pinned: npt.NDArray[Any] = torch.empty(self.shape, dtype=kind, pin_memory=True).numpy()
        return pinned

    def lend(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """The array as a tensor; it is idle again once the tensor and all its views are gone."""
        import torch

        view = array.view()
        weakref.finalize(view, self._idle.append, array).atexit = False
        return torch.from_numpy(view)
