"""Progress bars of long work: volumes done, rate, time left; plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(title: str, unit: str = "volumes", shown: bool = True) -> Iterator[Callable[..., None]]:
    """A function to call with (done, total) and, if there is more to say, a note such as the loss. On a terminal a
    live bar, else one line every ten seconds; nothing where another process of the same work has it ``shown``."""
    if not shown:
        yield lambda done, total, note="": None
        return
    with _rich_bar(title, unit) if sys.stderr.isatty() else _plain_lines(title, unit) as update:
        yield update


@contextlib.contextmanager
def _plain_lines(title: str, unit: str) -> Iterator[Callable[..., None]]:
    started, last, first = time.monotonic(), [time.monotonic()], [-1]

    def update(done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        first[0] = done if first[0] < 0 else first[0]
        if now - last[0] > 10 or done >= total:
            last[0] = now
            rate = (done - first[0]) / max(now - started, 1e-3)
            left = f", {_clock((total - done) / rate)} left" if rate > 0 and done < total else ""
            print(f"{title}: {done}/{total} {unit} ({rate:.1f}/s{left}) {note}".rstrip(), file=sys.stderr, flush=True)

    yield update


def _clock(seconds: float) -> str:
    """h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@contextlib.contextmanager
def _rich_bar(title: str, unit: str) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, rate="", note="")
        first = [-1]

        def update(done: int, total: int, note: str = "") -> None:
            first[0] = done if first[0] < 0 else first[0]
            rate = f"{(done - first[0]) / max(time.monotonic() - started, 1e-3):.1f}/s"
            bar.update(task, completed=done, total=total, rate=rate, note=note)

        yield update
