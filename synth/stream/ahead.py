"""Work done ahead by threads that end with the program, in the order it is asked for."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Made = TypeVar("Made")


class Ahead(Generic[Key, Made]):
    """Makes what will be asked for next, while the last is used.

    The threads are daemons: a program that ends does not wait for a batch that nobody wants, nor for a shard that
    never comes. They hold ``make`` weakly and stop when its owner is gone.

    Args:
        make: a bound method, called with a key in one of the threads.
        threads: how many at once.
    """

    def __init__(self, make: Callable[[Key], Made], threads: int) -> None:
        self._futures: dict[Key, Future[Made]] = {}
        self._queue: SimpleQueue[tuple[Key, Future[Made]] | None] = SimpleQueue()
        self._pid = os.getpid()
        method = weakref.WeakMethod(make)
        for number in range(threads):
            name = f"brainloom-stream-{number}"
            threading.Thread(target=_work, args=(method, self._queue), name=name, daemon=True).start()
        weakref.finalize(self, _end, self._queue, threads).atexit = False

    def ask(self, keys: Sequence[Key]) -> None:
        """Begin these, if they are not begun; what was begun and is not among them is dropped."""
        for key in [key for key in self._futures if key not in keys]:
            self._futures.pop(key).cancel()
        for key in keys:
            if key not in self._futures:
                future: Future[Made] = Future()
                self._futures[key] = future
                self._queue.put((key, future))

    def take(self, key: Key) -> Made:
        """What was made of a key that was asked for. Raises what making it raised, and RuntimeError in a forked process."""
        if os.getpid() != self._pid:
            raise RuntimeError("a Stream was carried into a forked process; make it there, or start workers with spawn")
        return self._futures.pop(key).result()


def _work(
    method: weakref.WeakMethod[Callable[[Key], Made]], queue: SimpleQueue[tuple[Key, Future[Made]] | None]
) -> None:
    while True:
        asked = queue.get()
        if asked is None:
            return
        key, future = asked
        make = method()
        if make is None:
            return
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(make(key))
        except BaseException as error:
            future.set_exception(error)
        del asked, future, make  # a batch is not held while this thread waits for the next


def _end(queue: SimpleQueue[tuple[Key, Future[Made]] | None], threads: int) -> None:
    for _ in range(threads):
        queue.put(None)
