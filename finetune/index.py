"""Where every scan of a BIDS folder lies, fast: folders are listed once and remembered until they change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth.bids import ENDINGS
from synth.errors import UserError
from synth.storage import write_atomically

FORMAT = 1
SETTLED_NS = 2_000_000_000
"""A folder or file changed less than this before it was looked at may change again without another time stamp."""
READERS = 4  # threads: listing waits for the disk


@dataclass(frozen=True)
class Scan:
    """One T1w scan: whose, of which session (empty without sessions), and its path relative to the cohort."""

    participant: str
    session: str
    name: str


def natural(text: str) -> tuple[Any, ...]:
    """Sort key in which ses-2 comes before ses-10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", text))


def cache_folder() -> Path:
    """Where brainloom remembers what it can find again: $BRAINLOOM_CACHE, or brainloom in the user's cache folder."""
    own = os.environ.get("BRAINLOOM_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "brainloom"


class Memory:
    """A small mapping kept beside no data at all: in the cache folder, under the cohort's path. Safe to delete.

    What cannot be read, or was written by another version, counts as empty; what cannot be written is not kept.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:20]
        self.path = cache_folder() / "cohorts" / f"{name}-{kind}.json"
        self.content: dict[str, Any] = {}
        self.changed = False
        with contextlib.suppress(OSError, ValueError, RecursionError):
            kept = json.loads(self.path.read_text())
            if isinstance(kept, dict) and kept.get("format") == FORMAT and isinstance(kept.get("content"), dict):
                self.content = kept["content"]

    def save(self) -> None:
        """Write it, atomically, where something changed."""
        if self.changed:
            with contextlib.suppress(OSError):
                write_atomically(self.path, json.dumps({"format": FORMAT, "content": self.content}))


def index_scans(folder: Path, participants: Sequence[str]) -> dict[str, list[Scan]]:
    """Participant → T1w scans, sessions and runs in natural order; none for one without scans.

    A participant's folders are listed again only when one of them has changed since (their time stamps tell).
    """
    memory = Memory(folder, "index")
    root = str(folder)
    now = time.time_ns()

    def look(name: str) -> tuple[str, list[str], dict[str, int] | None]:
        kept = memory.content.get(name)
        if kept and _still_true(root, kept):
            return name, kept["scans"], None
        scans, stamps = _list(root, name)
        return name, scans, stamps

    found: dict[str, list[Scan]] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for name, scans, stamps in pool.map(look, participants):
            found[name] = [_scan(name, path) for path in scans]
            if stamps is not None:
                memory.changed |= name in memory.content
                memory.content.pop(name, None)
                if all(now - stamp > SETTLED_NS for stamp in stamps.values()):
                    memory.content[name] = {"scans": scans, "folders": stamps}
                    memory.changed = True
    memory.save()
    return found


def _scan(participant: str, path: str) -> Scan:
    parts = path.split("/")
    return Scan(participant, parts[1] if parts[1].startswith("ses-") else "", path)


def _still_true(root: str, kept: Any) -> bool:
    """Whether every folder that was listed still has its time stamp."""
    try:
        return bool(kept["folders"]) and all(
            Path(root, place).stat().st_mtime_ns == stamp for place, stamp in kept["folders"].items()
        )
    except (OSError, TypeError, KeyError, AttributeError):
        return False


def _list(root: str, participant: str) -> tuple[list[str], dict[str, int]]:
    """(scans, folder → time stamp) of one participant: ``anat`` at any depth, as in ``sub-*/**/anat/*_T1w.nii[.gz]``."""
    scans: list[str] = []
    stamps: dict[str, int] = {}
    waiting = [participant]
    while waiting:
        place = waiting.pop()
        with contextlib.suppress(OSError):  # no such folder, or none that may be read: no scan there
            stamps[place] = Path(root, place).stat().st_mtime_ns
            with os.scandir(f"{root}/{place}") as entries:
                for entry in entries:
                    if _is_folder(entry):
                        waiting.append(f"{place}/{entry.name}")
                    elif place.endswith("/anat") and _is_t1w(entry.name):
                        scans.append(f"{place}/{entry.name}")
    return sorted(scans, key=lambda path: [natural(part) for part in path.split("/")]), stamps


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Links are followed to ``ses-*`` and ``anat`` alone, so that no circle of links is walked."""
    if entry.name.endswith(ENDINGS):  # most entries; asking the disk is slow
        return False
    return entry.is_dir(follow_symlinks=entry.name == "anat" or entry.name.startswith("ses-"))


def _is_t1w(name: str) -> bool:
    return name.endswith(("_T1w.nii", "_T1w.nii.gz")) and not name.startswith(".")


def remembered(
    folder: Path, kind: str, files: Iterable[Path], make: Callable[[Path], str]
) -> Iterator[tuple[Path, str]]:
    """(file, what ``make`` says of it), from memory where size and time stamp are what they were.

    Args:
        folder: the cohort.
        kind: of what is remembered.
        files: to read.
        make: file → text; called in threads.

    Raises:
        UserError: a file that cannot be read.
    """
    memory = Memory(folder, kind)
    now = time.time_ns()

    def one(path: Path) -> tuple[Path, str, list[Any] | None]:
        try:
            about = path.stat()
        except OSError as error:
            raise UserError(f"scan '{path}' cannot be read ({error.strerror}); put it back or leave it out") from error
        stamp = [about.st_size, about.st_mtime_ns]
        kept = memory.content.get(str(path))
        if isinstance(kept, list) and kept[:2] == stamp:
            return path, str(kept[2]), None
        return path, make(path), stamp

    try:
        with ThreadPoolExecutor(READERS) as pool:
            for path, said, stamp in pool.map(one, files):
                if stamp is not None and now - stamp[1] > SETTLED_NS:
                    memory.content[str(path)] = [*stamp, said]
                    memory.changed = True
                yield path, said
    finally:
        memory.save()  # what was read before Ctrl-C need not be read again
