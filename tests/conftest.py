"""What every room's tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

import brainloom
from synth.corpus import Corpus

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "tests" / "plugin"

settings.register_profile("same every time", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("same every time")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What brainloom remembers of cohorts is no business of the user's cache folder, nor of another test."""
    monkeypatch.setenv("BRAINLOOM_CACHE", str(tmp_path_factory.mktemp("cache")))


@dataclass(frozen=True)
class Answer:
    """What one command line did."""

    code: int
    out: str
    err: str


Run = Callable[..., Answer]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line through the front door, in this process."""

    def run_(*words: object) -> Answer:
        capfd.readouterr()
        code = brainloom.main([str(word) for word in words])
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return run_


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder of this checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_anatomies() -> Path:
    """Label maps of real people beside the checkout, where there are any."""
    folder = ROOT.parent / "shared" / "data" / "anatomies"
    if not folder.is_dir():
        pytest.skip("no label maps of real people in ../shared/data/anatomies")
    return folder


@pytest.fixture
def onions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The toy plug-in's module, importable for one test."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    import onions

    yield onions


@pytest.fixture(scope="session")
def ray_of_two() -> Iterator[Any]:
    """One Ray of two CPUs for every test of this run: starting one takes seconds, and the engine uses a running one."""
    from synth.pool import Workers, ray_session

    with ray_session(Workers(2), (str(PLUGIN),)) as ray:
        yield ray


def elsewhere(pythonpath: str = "") -> dict[str, str]:
    """Environment of a subprocess that finds this checkout from any folder, and what is on ``pythonpath``."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in (pythonpath, str(ROOT)) if p)}


@pytest.fixture(scope="session")
def brainloom_command() -> list[str]:
    """The front door as a subprocess."""
    return [sys.executable, "-m", "brainloom"]


@pytest.fixture(scope="session")
def in_subprocess() -> Callable[[str], dict[str, str]]:
    """The environment of a subprocess: see :func:`elsewhere`."""
    return elsewhere


def spheres_in_a_box(shape: tuple[int, int, int] = (40, 44, 40)) -> np.ndarray:
    """A crude FreeSurfer-style label map at 4 mm, RAS+: cortex, white matter, ventricles and a left and right
    hippocampus in a skull; about 1.2 L of brain."""
    axes = [np.arange(n) * 4.0 - (n - 1) * 2.0 for n in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt(x**2 + (y / 1.15) ** 2 + z**2)
    label = np.zeros(shape, np.int16)
    label[radius < 76] = 165
    label[radius < 70] = 24
    label[radius < 65] = np.where(x < 0, 3, 42)[radius < 65]
    label[radius < 52] = np.where(x < 0, 2, 41)[radius < 52]
    for side, ventricle, hippocampus in ((-1, 4, 17), (1, 43, 53)):
        label[(x - side * 12) ** 2 + (y / 2) ** 2 + (z - 8) ** 2 < 11**2] = ventricle
        label[(x - side * 28) ** 2 + ((y + 8) / 2) ** 2 + (z + 16) ** 2 < 9**2] = hippocampus
    return label


@pytest.fixture
def toy_label_map(tmp_path: Path) -> Callable[..., Path]:
    """Writes a label map into a folder of its own; returns that folder."""
    import nibabel

    def write(
        array: np.ndarray | None = None,
        name: str = "toy_dseg.nii.gz",
        folder: str = "anatomies",
        affine: np.ndarray | None = None,
    ) -> Path:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        array = spheres_in_a_box() if array is None else array
        affine = np.diag([4.0, 4.0, 4.0, 1.0]) if affine is None else affine
        nibabel.save(nibabel.Nifti1Image(array, affine), place / name)
        return place

    return write


def _label_map_corpus(path: Path, count: int, seed: int, **options: Any) -> Corpus:
    from synth.engine import Job, generate
    from synth.generator import GeneratorSpec

    spec = GeneratorSpec("LabelMap", {"shape": (32, 40, 32), "spacing": 5.0, **options})
    outcome = generate(Job(spec, count, seed, path, shard_size=16))
    assert not outcome.failed
    return Corpus(path)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A small training corpus of the built-in anatomy."""
    return _label_map_corpus(tmp_path_factory.mktemp("corpora") / "corpus.zarr", 40, seed=1)


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A small simulated cohort: other seed, two sites, healthy people and patients."""
    options = {"ages": (50.0, 88.0), "diagnoses": ("CN", "AD", "PD"), "sites": ("north", "south")}
    return _label_map_corpus(tmp_path_factory.mktemp("corpora") / "people.zarr", 72, seed=99, **options)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in, built from a copy of its folder and installed into a folder of its own."""
    source, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("installed")
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", target, source], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return target
