"""Clips: which video files a folder holds, when their frames are shown, and the frames themselves, by PyAV."""

from __future__ import annotations

import contextlib
import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from synth.bids import inside
from synth.errors import UserError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

ENDINGS = (".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")
ONLY = {  # a playlist named .mp4 must not make FFmpeg read other files or the network
    "format_whitelist": "asf,avi,flv,gif,matroska,mov,mpeg,ogg",
    "protocol_whitelist": "file",
}
LICENCES = ("license", "licence", "license.txt", "licence.txt", "license.md", "licence.md")
KEPT = 256  # clips whose times are kept in memory

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """What is known of a clip without decoding it.

    Attributes:
        sha256: of the file.
        width: of the frames, in pixels.
        height: of the frames, in pixels.
        tick: seconds in one tick of ``times``.
        times: when every frame is shown, in ticks, ascending.
        keys: the times of the key frames, from which decoding can begin.
    """

    sha256: str
    width: int
    height: int
    tick: Fraction
    times: tuple[int, ...]
    keys: tuple[int, ...]

    def seconds(self, number: int) -> float:
        """From the first frame to frame ``number``."""
        return float((self.times[number] - self.times[0]) * self.tick)

    def numbers(self, first: int, count: int, fps: float) -> list[int]:
        """The frames shown from frame ``first`` on, ``fps`` a second, or every one where it is 0. Fewer than ``count``
        when the clip ends before."""
        if fps == 0:
            return list(range(first, min(first + count, len(self.times))))
        step = 1 / (Fraction(fps) * self.tick)
        wanted = [self.times[first] + step * k for k in range(count)]
        return [bisect_right(self.times, time) - 1 for time in wanted if time <= self.times[-1]]

    def starts(self, count: int, fps: float) -> int:
        """How many of the first frames ``count`` frames can begin at."""
        if fps == 0:
            return max(len(self.times) - count + 1, 0)
        return bisect_right(self.times, self.times[-1] - (count - 1) / (Fraction(fps) * self.tick))


def find_clips(folder: Path) -> list[str]:
    """Relative paths of the files that are called like videos, at any depth, in order; hidden ones are left out.

    No file is opened: a folder of 100,000 clips is listed in a second or two.

    Raises:
        UserError: no such folder, one that cannot be listed, a link that leads out of it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}'; expected one with video clips ({' '.join(ENDINGS)})")

    def refuse(error: OSError) -> None:
        raise UserError(
            f"'{error.filename}' cannot be listed ({error.strerror}); expected a folder of clips"
        ) from error

    found = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if name[0] != "."]
        clips = [name for name in files if name[0] != "." and Path(name).suffix.lower() in ENDINGS]
        here = Path(place).relative_to(folder)
        for name in (*folders, *clips):
            if os.path.islink(os.path.join(place, name)):  # noqa: PTH114, PTH118 — ten times as fast, of 100,000 files
                inside(folder, here / name)
        found += [(here / name).as_posix() for name in clips]
    return sorted(found)


def licence_beside(folder: Path) -> str:
    """The first line of a LICENSE or licence.txt in the folder, else ``not stated``. Raises UserError when it is a link
    that leads out of the folder."""
    for name in sorted(path.name for path in folder.iterdir() if path.name.lower() in LICENCES):
        with contextlib.suppress(OSError), inside(folder, name).open(errors="replace") as file:
            lines = [line.strip() for line in file.read(4096).splitlines()]
            return next((line[:200] for line in lines if line), "not stated")
    return "not stated"


def check_installed() -> Any:
    """PyAV's module. Raises UserError, with the command that mends it, when it is not installed."""
    try:
        import av
    except ImportError as error:
        raise UserError(f"generator Video needs the package av (PyAV): pip install 'av>=12' ({error})") from error
    return av


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A clip and its first video stream, to be decoded on one thread; whatever FFmpeg says against it is a UserError."""
    av = check_installed()
    try:
        with av.open(str(path.resolve()), options=ONLY, metadata_errors="ignore") as container:
            stream = container.streams.video[0]
            if stream.codec_context is None:  # a codec that FFmpeg does not know
                raise ValueError("FFmpeg cannot decode it")
            stream.thread_type, stream.codec_context.thread_count = "NONE", 1
            yield container, stream
    except (OSError, ValueError, IndexError, av.FFmpegError) as error:  # an IndexError: sound alone
        if isinstance(error, UserError):
            raise
        reason = "no video in it" if isinstance(error, IndexError) else getattr(error, "strerror", None) or str(error)
        raise UserError(f"clip '{path}' cannot be read ({reason}); leave it out") from error


def read_clip(path: Path) -> Clip:
    """What a file says of itself; it is read once, but not decoded.

    Raises:
        UserError: no file, an empty one, no video that FFmpeg can read, or one without frames.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(f"clip '{path}' cannot be read ({error.strerror}); leave it out") from error
    if not state.st_size:
        raise UserError(f"clip '{path}' is empty; leave it out")
    return _read_clip(path, state.st_size, state.st_mtime_ns)


@lru_cache(KEPT)
def _read_clip(path: Path, size: int, changed: int) -> Clip:
    with _opened(path) as (container, stream):
        packets = [p for p in container.demux(stream) if p.size and _time(p) is not None]
        times = sorted({_time(packet) for packet in packets})
        keys = sorted({_time(packet) for packet in packets if packet.is_keyframe})
        if not keys or stream.time_base is None or not stream.width or not stream.height:
            raise UserError(f"clip '{path}' has no frames that can be shown; leave it out")
        return Clip(_sha256(path), stream.width, stream.height, stream.time_base, tuple(times), tuple(keys))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:  # in pieces: a film may be larger than memory
        return hashlib.file_digest(file, "sha256").hexdigest()


def _time(packet: Any) -> Any:
    """When the frame of a packet is shown, in ticks; files of old formats say only when to decode it."""
    return packet.dts if packet.pts is None else packet.pts


def read_frames(path: Path, clip: Clip, numbers: Sequence[int]) -> Iterator[Frame]:
    """Frames by number, ascending, as grey values ``[rows, columns]``, 0 to 255, from the top left.

    The file is gone through from its beginning, which takes no longer than its checksum, and decoded from the key frame
    before the first one asked for: no container is trusted to seek. Grey is the luma that PyAV's ``gray`` gives: a
    YUV clip's own, RGB weighed as in ITU-R BT.601. In the place of a frame that is lost stands the one before it.

    Raises:
        UserError: none can be decoded.
    """
    wanted = [clip.times[number] for number in numbers]
    key = clip.keys[max(bisect_right(clip.keys, wanted[0]) - 1, 0)]
    last: Frame | None = None
    with _opened(path) as (container, stream):
        for time, frame in _decoded(container, stream, key):
            grey = frame.reformat(clip.width, clip.height, format="gray", interpolation="BILINEAR")
            now = np.asarray(grey.to_ndarray(), np.uint8)
            while wanted and wanted[0] <= time:
                yield now if last is None or wanted[0] == time else last
                wanted.pop(0)
            if not wanted:
                return
            last = now
    if last is None:
        raise UserError(f"clip '{path}' cannot be decoded; leave it out")
    yield from [last] * len(wanted)


def _decoded(container: InputContainer, stream: VideoStream, key: int) -> Iterator[tuple[int, VideoFrame]]:
    """Frames from the key frame at time ``key`` on with their times, in the order they are shown; damaged packets are
    passed over."""
    av = check_installed()
    begun = False
    for packet in container.demux(stream):
        begun = begun or (packet.is_keyframe and _time(packet) == key)
        if not begun:
            continue
        with contextlib.suppress(av.InvalidDataError):
            yield from ((frame.pts, frame) for frame in packet.decode() if frame.pts is not None)
