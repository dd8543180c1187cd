"""Video: a generator of volumes from clips, whose frames are the slices (as pre-training on Kinetics sees them)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.bids import inside
from synth.clips import Clip, Frame, check_installed, find_clips, licence_beside, read_clip, read_frames
from synth.errors import UserError
from synth.generator import Generator, Params
from synth.labelmap_options import checked_shape, checked_spacing
from synth.progress import progress_bar
from synth.sample import Covariate, Sample, centred_affine

READERS = 4  # threads that read clips for their checksums


class Video(Generator):
    """Volumes from the clips of a folder: frames one after the other, in grey, as the slices of a volume.

    Image: ``[1, D, H, W]`` in 0 to 1. Time runs along D, the frame's left→right along H, its bottom→top along W: every
    frame stands where a sagittal slice of a head stands, its up is superior, and a video network that takes D for time
    sees time. Which clip, which frames, the box cut out of them and whether they are mirrored is drawn. Covariates:
    ``clip`` (its name), ``class`` (the folder it lies in, where it lies in one), ``start`` (seconds into the clip).

    Dhinagar et al. 2023 (arXiv 2309.04651) set networks pre-trained on Kinetics beside those pre-trained on MRI.

    Args:
        folder: clips at any depth, such as CLASS/NAME.mp4; nothing outside it is read.
        shape: frames of a volume, their width, their height.
        spacing: voxel size in mm that the volumes claim, one number or three; the box has their proportions.
        fps: frames taken of a second; 0 takes every frame.
        crop: smallest and largest side of the box that is cut out, as a share of the largest box that fits.
        flip: mirror half of the volumes, drawn by chance, left for right.

    Raises:
        UserError: no such folder, no clip in it that can be read and is long enough, a link that leads out of it, an
            option out of range, PyAV not installed.
    """

    needs_actor = True  # lists a folder of perhaps 100,000 files

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int, int] = (96, 96, 96),
        spacing: float | tuple[float, float, float] = 2.0,
        fps: float = 0.0,
        crop: tuple[float, float] = (0.5, 1.0),
        flip: bool = True,
    ) -> None:
        check_installed()
        self.folder, self.flip = Path(folder), flip
        self.shape, self.spacing = checked_shape(shape), checked_spacing(spacing)
        self.fps, self.crop = _checked_fps(fps), _checked_crop(crop)
        self.names = find_clips(self.folder)
        self._known = frozenset(self.names)
        if next(self._usable(self.names), None) is None:
            raise UserError(self._nothing())

    def _nothing(self) -> str:
        if not self.names:
            return f"'{self.folder}' holds no video clip; expected files such as CLASS/NAME.mp4"
        reason = self._refusal(self.names[0])
        return f"none of the {len(self.names)} clip(s) of '{self.folder}' can be used; of the first: {reason}"

    def _usable(self, names: list[str]) -> Iterator[tuple[str, Clip]]:
        """Those that can be read and are long enough, and what is known of them."""
        for name in names:
            try:
                yield name, self._clip(name)
            except UserError:
                continue

    def _clip(self, name: str) -> Clip:
        """Raises UserError for one that cannot be read, is too short, or has a name that cannot be kept."""
        path = self.folder / name
        if not str(name).isprintable():  # such as bytes that are no UTF-8
            raise UserError(f"the name of clip {str(path)!r} cannot be printed; rename it")
        inside(self.folder, name)
        clip = read_clip(path)
        if not clip.starts(self.shape[0], self.fps):
            raise UserError(
                f"clip '{path}' is too short ({len(clip.times)} frames, {clip.seconds(-1):.2f} s); "
                f"expected {self.shape[0]} frames{f' at {self.fps:g} a second' if self.fps else ''}"
            )
        return clip

    def _refusal(self, name: str) -> str:
        try:
            self._clip(name)
        except UserError as error:
            return str(error)
        return ""

    def draw(self, rng: np.random.Generator) -> Params:
        """A clip (all usable ones equally likely), its first frame, the box and whether it is mirrored."""
        shuffled = [self.names[i] for i in rng.permutation(len(self.names))]
        name, clip = next(self._usable(shuffled))
        frame = int(rng.integers(clip.starts(self.shape[0], self.fps)))
        return {
            "clip": name,
            "sha256": clip.sha256,
            "frame": frame,
            "start": round(clip.seconds(frame), 6),
            "box": self._box(clip, rng),
            "flip": bool(self.flip and rng.random() < 0.5),
        }

    def _box(self, clip: Clip, rng: np.random.Generator) -> list[int]:
        """Left, top, width, height in pixels, in the proportions of a slice in mm."""
        wide, high = self.shape[1] * self.spacing[1], self.shape[2] * self.spacing[2]
        scale = min(clip.width / wide, clip.height / high) * rng.uniform(*self.crop)
        width, height = (max(round(side * scale), 1) for side in (wide, high))
        left, top = int(rng.integers(clip.width - width + 1)), int(rng.integers(clip.height - height + 1))
        return [left, top, width, height]

    def render(self, params: Params) -> Sample:
        """The volume: exactly these frames, whatever was decoded before.

        Raises:
            UserError: a clip that is none of the folder's, was changed since its record was drawn, or is damaged; params
                that do not fit it.
        """
        name = str(params.get("clip"))
        clip = self._as_drawn(name, params)
        numbers = clip.numbers(int(params["frame"]), self.shape[0], self.fps)
        slices = [self._slice(frame, params) for frame in read_frames(self.folder / name, clip, numbers)]
        image = np.stack(slices).astype(np.float32)[None] / np.float32(255)
        where = PurePosixPath(name).parent.name
        covariates: dict[str, Covariate] = {"clip": name, **({"class": where} if where else {})}
        covariates["start"] = float(params["start"])
        return Sample(image, None, covariates, centred_affine(self.shape, self.spacing))

    def _as_drawn(self, name: str, params: Params) -> Clip:
        inside(self.folder, name)
        if name not in self._known:
            raise UserError(f"'{name}' is none of the {len(self.names)} clips of '{self.folder}'")
        clip = self._clip(name)
        if clip.sha256 != params.get("sha256"):
            raise UserError(f"clip '{self.folder / name}' was changed since its record was drawn; put the old one back")
        left, top, width, height = params["box"]
        fits = min(left, top) >= 0 and 0 < width <= clip.width - left and 0 < height <= clip.height - top
        if not fits or not 0 <= params["frame"] < clip.starts(self.shape[0], self.fps):
            raise UserError(f"box {params['box']} from frame {params['frame']} on does not lie within clip '{name}'")
        return clip

    def _slice(self, frame: Frame, params: Params) -> npt.NDArray[np.uint8]:
        """The box of one frame as ``[H, W]``: whole-number arithmetic, smoothed where it is made smaller."""
        from PIL import Image

        left, top, width, height = params["box"]
        box = Image.fromarray(frame[top : top + height, left : left + width])
        small = np.asarray(box.resize(self.shape[1:], Image.Resampling.BILINEAR))
        return (small[::-1, ::-1] if params["flip"] else small[::-1]).T

    def parents(self) -> list[dict[str, Any]]:
        """Every clip that can be used, with its checksum and the folder's licence.

        Every clip is read for it, though none is decoded. How many cannot be used, and why the first of them, is said.
        """
        return self._parents

    @cached_property
    def _parents(self) -> list[dict[str, Any]]:
        licence = licence_beside(self.folder)
        found, refused = [], []
        with ThreadPoolExecutor(READERS) as pool, progress_bar(f"read {self.folder.name}", "clips") as show:
            for number, (name, looked) in enumerate(zip(self.names, pool.map(self._look, self.names), strict=True), 1):
                if isinstance(looked, Clip):
                    found.append({"kind": "clip", "name": name, "sha256": looked.sha256, "licence": licence})
                else:
                    refused.append(looked)
                show(number, len(self.names))
        if refused:
            print(
                f"brainloom: warning: {len(refused)} of {len(self.names)} clip(s) left out; the first: {refused[0]}",
                file=sys.stderr,
            )
        return found

    def _look(self, name: str) -> Clip | str:
        """What is known of a clip, or why it cannot be used."""
        try:
            return self._clip(name)
        except UserError as error:
            return str(error)


def _checked_fps(fps: float) -> float:
    if not (fps == 0 or 0.01 <= fps <= 1000):
        raise UserError(f"fps is {fps:g}; expected 0.01 to 1000 frames a second, or 0 for every frame")
    return float(fps)


def _checked_crop(crop: tuple[float, ...]) -> tuple[float, float]:
    if len(crop) != 2 or not 0 < crop[0] <= crop[1] <= 1:
        shown = ",".join(f"{c:g}" for c in crop)
        raise UserError(f"crop is {shown}; expected the smallest and the largest share, from above 0 to 1: 0.5,1")
    return float(crop[0]), float(crop[1])
