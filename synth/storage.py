"""Where files lie: a local folder or an object store (``s3://…``), behind one small set of calls.

A write is atomic: a reader, or a crash, sees the old bytes or the new ones.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from synth.errors import UserError

if TYPE_CHECKING:
    from zarr.abc.store import Store

Buffer = bytes | bytearray | memoryview
REMOTE = re.compile(r"^(s3|gs|az|memory):/+")
RETRY: dict[str, Any] = {"max_retries": 6}  # of requests to an object store
_turn = itertools.count()


class Storage(Protocol):
    """Files below one place, by relative name (``records/00000000.json``).

    Attributes:
        url: the place, absolute, as another process would open it.
        is_local: whether it is a folder of this machine's file system.
    """

    url: str
    is_local: bool

    @property
    def name(self) -> str:
        """Last part of the place: ``corpus.zarr``."""

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``; fewer where the file ends. Raises FileNotFoundError."""

    def size(self, name: str) -> int:
        """Bytes of the file. Raises FileNotFoundError."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    def names(self, folder: str) -> Iterator[str]:
        """Names of the files directly in a folder, in no order; none when there is no such folder."""

    def write(self, name: str, parts: Sequence[Buffer]) -> None:
        """Write or replace a file by the parts, one after the other."""

    def write_new(self, name: str, parts: Sequence[Buffer]) -> bool:
        """Write a file that must not be there yet; False, and nothing written, when it is."""

    def delete(self, name: str) -> None:
        """Delete a file; nothing happens when it is not there."""

    def zarr_store(self, read_only: bool = True) -> Store:
        """The same place for zarr."""


def open_storage(place: Path | str) -> Storage:
    """The storage at a folder or an ``s3://`` (``gs://``, ``az://``, ``memory://``) URL; nothing needs to be there."""
    text = str(place)
    if REMOTE.match(text):
        return _remote(REMOTE.sub(r"\1://", text).rstrip("/"))
    if re.match(r"^\w+:/", text):
        raise UserError(f"'{text}' is no place for a corpus; expected a folder or a URL with s3://, gs:// or az://")
    return LocalStorage(Path(text))


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a crash leaves the old one or the new one, never a half."""
    LocalStorage(path.parent).write(path.name, [text.encode()])


class LocalStorage:
    """A folder."""

    is_local = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root.absolute())

    @property
    def name(self) -> str:
        """Last part of the place."""
        return self.root.name or self.root.resolve().name

    def path(self, name: str) -> Path:
        """Where a file lies. Raises ValueError for a name that leads out of the folder."""
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
            raise ValueError(f"'{name}' leads out of '{self.root}'")
        return self.root.joinpath(*parts)

    def read(self, name: str) -> bytes:
        """The whole file."""
        return self.path(name).read_bytes()

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``."""
        with self.path(name).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def size(self, name: str) -> int:
        """Bytes of the file."""
        return self.path(name).stat().st_size

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return self.path(name).is_file()

    def names(self, folder: str) -> Iterator[str]:
        """Names directly in a folder."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.path(folder)) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield entry.name

    def write(self, name: str, parts: Sequence[Buffer]) -> None:
        """Write or replace a file: a hidden one beside it, flushed to disk, is renamed."""
        target = self.path(name)
        with self._hidden(target, parts) as temporary:
            temporary.replace(target)

    def write_new(self, name: str, parts: Sequence[Buffer]) -> bool:
        """Write a file that must not be there yet."""
        target = self.path(name)
        if target.exists():
            return False
        with self._hidden(target, parts) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                if target.exists():
                    return False
                temporary.replace(target)
        return True

    @contextlib.contextmanager
    def _hidden(self, target: Path, parts: Sequence[Buffer]) -> Iterator[Path]:
        temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}-{next(_turn)}")
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Delete a file."""
        self.path(name).unlink(missing_ok=True)

    def zarr_store(self, read_only: bool = True) -> Store:
        """The same place for zarr."""
        from zarr.storage import LocalStore

        return LocalStore(self.root, read_only=read_only)


class RemoteStorage:
    """A prefix of an object store, through obstore: credentials and endpoint from the usual environment variables
    (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``…) or instance roles; failed requests are tried again."""

    is_local = False

    def __init__(self, url: str, store: Any) -> None:
        self.url, self._store = url, store

    @property
    def name(self) -> str:
        """Last part of the URL."""
        return self.url.rsplit("/", 1)[-1]

    def read(self, name: str) -> bytes:
        """The whole object."""
        return bytes(self._store.get(name).bytes())

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``."""
        return bytes(self._store.get_range(name, start=start, length=length))

    def size(self, name: str) -> int:
        """Bytes of the object."""
        return int(self._store.head(name)["size"])

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        try:
            self._store.head(name)
        except FileNotFoundError:
            return False
        return True

    def names(self, folder: str) -> Iterator[str]:
        """Names directly below a prefix."""
        prefix = folder.rstrip("/") + "/"
        for page in self._store.list(prefix):
            for entry in page:
                rest = str(entry["path"]).removeprefix(prefix)
                if "/" not in rest and not rest.startswith("."):
                    yield rest

    def write(self, name: str, parts: Sequence[Buffer]) -> None:
        """One PUT (many for large objects), which is atomic by nature."""
        self._store.put(name, b"".join(parts))

    def write_new(self, name: str, parts: Sequence[Buffer]) -> bool:
        """A PUT that must create the object."""
        from obstore.exceptions import AlreadyExistsError, NotSupportedError

        try:
            self._store.put(name, b"".join(parts), mode="create")
        except AlreadyExistsError:
            return False
        except NotSupportedError:  # a store without conditional writes
            if self.exists(name):
                return False
            self.write(name, parts)
        return True

    def delete(self, name: str) -> None:
        """Delete an object."""
        with contextlib.suppress(FileNotFoundError):
            self._store.delete(name)

    def zarr_store(self, read_only: bool = True) -> Store:
        """The same place for zarr."""
        from zarr.storage import ObjectStore

        return ObjectStore(self._store, read_only=read_only)


@lru_cache(maxsize=32)
def _remote(url: str) -> RemoteStorage:
    """One client a URL and process."""
    try:
        import obstore.store
    except ImportError as error:
        raise UserError(f"'{url}' needs obstore: pip install 'brainloom[cloud]'") from error
    options: dict[str, Any] = {"retry_config": dict(RETRY)}
    if url.startswith("s3:") and os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["client_options"] = {"allow_http": True}
    if url.startswith("memory:"):
        options = {}
    try:
        return RemoteStorage(url, obstore.store.from_url(url, **options))
    except Exception as error:  # whatever obstore says of a URL or of credentials
        raise UserError(f"cannot open '{url}' ({' '.join(str(error).split())[:200]})") from error
