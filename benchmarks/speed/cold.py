"""Rows that read from the disk: the files' pages are dropped from the page cache before every call."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speed.timing import Skip


def drop(place: Path) -> int:
    """Drop a file, or all files below a folder, from the page cache (pages that nobody has mapped). Returns their bytes.

    Raises:
        Skip: a system that cannot.
    """
    if not hasattr(os, "posix_fadvise"):
        raise Skip("this system has no posix_fadvise")
    dropped = 0
    for path in [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file()):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            dropped += os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
    return dropped


def read_from_disk() -> int | None:
    """Bytes that this process has had read from disks so far, or None where the system does not tell."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes:")), None)


class Cold:
    """A row's maker, made anew for each call after its files were dropped: one epoch, from open files on.

    Args:
        make: the maker; it holds no file mapped once it is gone.
        place: its files.
    """

    turn_s = 0.0

    def __init__(self, make: Callable[[], Any], place: Path) -> None:
        self.make, self.place = make, place
        self.maker: Any = make()
        self.volumes_per_call = self.maker.volumes_per_call
        self.shares: list[float] = []
        self.before()
        self(0)
        if self.shares and self.shares[-1] < 0.5:
            raise Skip("its files stay in memory: on this file system the page cache cannot be dropped")

    def before(self) -> None:
        """Untimed: out of the page cache, then ready again."""
        self.maker = None
        gc.collect()  # a stream and its threads refer to each other
        self.bytes = drop(self.place)
        self.maker = self.make()

    def __call__(self, epoch: int) -> None:
        before = read_from_disk()
        self.maker(epoch)
        after = read_from_disk()
        if before is not None and after is not None:
            self.shares.append((after - before) / self.bytes)

    def extras(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Share of the files' bytes that came from the disk."""
        return {"from_disk": round(min(self.shares), 3)} if self.shares else {}
