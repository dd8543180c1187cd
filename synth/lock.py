"""One writer a corpus: a lock that ends with its process, or, in an object store, a lease that runs out."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from typing import Any

from synth.corpus import LOCK
from synth.errors import UserError
from synth.storage import LocalStorage, Storage

LEASE_S, RENEW_S = 90.0, 20.0


@contextlib.contextmanager
def writing(storage: Storage) -> Iterator[None]:
    """Hold the right to write a corpus.

    Raises:
        UserError: another run holds it.
    """
    with _locked(storage) if isinstance(storage, LocalStorage) else _leased(storage):
        yield


def _holder() -> dict[str, Any]:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"pid": os.getpid(), "host": platform.node(), "since": since, "until": time.time() + LEASE_S}


def _refuse(storage: Storage, text: bytes | str, more: str = "") -> UserError:
    try:
        held = json.loads(text)
        who = f"process {held['pid']} on {held['host']}, since {held['since']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return UserError(f"another run is writing '{storage.url}' ({who}); wait for it or stop it{more}")


@contextlib.contextmanager
def _locked(storage: LocalStorage) -> Iterator[None]:
    """A lock of the operating system, which lets go of it when the process ends, however it ends."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows: two runs at once are the user's to avoid
        yield
        return
    path = storage.path(LOCK)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(
            f"cannot write corpus '{storage.url}' ({error.strerror or error}); choose a place you may write"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refuse(storage, path.read_text()) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(_holder()).encode())
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _leased(storage: Storage) -> Iterator[None]:
    """An object that says until when it holds, written anew while the run lasts."""
    for _ in range(2):
        if storage.write_new(LOCK, [json.dumps(_holder()).encode()]):
            break
        with contextlib.suppress(FileNotFoundError):
            text = storage.read(LOCK)
            left = _seconds_left(text)
            if left > 0:
                raise _refuse(storage, text, f"; if it was killed, its hold ends in {left:.0f} s")
            storage.delete(LOCK)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_S):
            with contextlib.suppress(Exception):  # the next round tries again
                storage.write(LOCK, [json.dumps(_holder()).encode()])

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        storage.delete(LOCK)


def _seconds_left(text: bytes) -> float:
    try:
        return float(json.loads(text)["until"]) - time.time()
    except (ValueError, KeyError, TypeError):
        return 0.0
