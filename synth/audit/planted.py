"""Corpora in which a known share of volumes are near-copies: what the audit finds of them, and what it takes for copies
wrongly. ``python -m synth.audit.planted --out FOLDER`` makes and measures them (docs/audit.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.audit.grid import Floats
from synth.corpus import Corpus
from synth.errors import UserError
from synth.generator import Generator, Params
from synth.keys import new_seed, rng_for
from synth.options import make_spec
from synth.provenance import lineage
from synth.sample import Sample
from synth.storage import write_atomically

SHIFT_VOXELS = 3.0  # each axis, at most
GAIN, OFFSET, GAMMA = (0.7, 1.4), (-0.1, 0.1), (0.8, 1.25)
NOISE = (0.02, 0.08)  # SD, as a share of the 99th percentile


class Planted(Generator):
    """New volumes by the generator of a corpus, a share of them replaced by near-copies of that corpus's volumes.

    Every near-copy is shifted by up to 3 voxels along each axis (fractions too), has another gain, offset and gamma, noise
    of 2 to 8 % of the brightest tissue and, half of them, left and right exchanged. Params say which ones: ``copy_of``.

    Args:
        source: corpus that is copied from, and whose recipe the new volumes follow.
        share: of near-copies, 0 to 1.
        rotation: degrees by which near-copies are turned besides, about one of the axes.
        zoom: factor by which they are larger besides.
        blur: SD in voxels by which they are smoothed besides.
    """

    def __init__(
        self, source: Path, share: float = 0.05, rotation: float = 0.0, zoom: float = 1.0, blur: float = 0.0
    ) -> None:
        if not 0 <= share <= 1:
            raise UserError(f"share is {share}; expected a number from 0 to 1")
        if zoom <= 0 or blur < 0:
            raise UserError(f"zoom is {zoom} and blur {blur}; expected a factor above 0 and 0 or more voxels")
        self.source, self.share = Corpus(Path(source)), float(share)
        self.rotation, self.zoom, self.blur = float(rotation), float(zoom), float(blur)

    @cached_property
    def generator(self) -> Generator:
        """The one that the source was made by."""
        recipe = self.source.header.recipe["generator"]
        return make_spec(recipe["class_path"], recipe["init_args"]).build()

    def draw(self, rng: np.random.Generator) -> Params:
        """Which volume, and what is done to it."""
        if rng.random() >= self.share:
            return {"new": self.generator.draw(rng)}
        return {"copy_of": int(rng.integers(len(self.source))), **change(rng, self.rotation, self.zoom, self.blur)}

    def render(self, params: Params) -> Sample:
        """The volume ``[C, D, H, W]``; covariates are those of the volume it comes from."""
        if "copy_of" not in params:
            sample = self.generator.render(params["new"])
            return Sample(sample.image, None, sample.covariates, sample.affine)
        sample = self.source.sample(params["copy_of"])
        image = np.stack([changed(channel, params) for channel in sample.image])
        return Sample(image, None, sample.covariates, sample.affine)

    def parents(self) -> list[dict[str, Any]]:
        """The source and what it derives from."""
        return lineage(self.source.parent())


def change(rng: np.random.Generator, rotation: float = 0.0, zoom: float = 1.0, blur: float = 0.0) -> Params:
    """What is done to one near-copy, for :func:`changed`."""
    return {
        "shift": [float(s) for s in rng.uniform(-SHIFT_VOXELS, SHIFT_VOXELS, 3)],
        "gain": float(rng.uniform(*GAIN)),
        "offset": float(rng.uniform(*OFFSET)),
        "gamma": float(rng.uniform(*GAMMA)),
        "noise": float(rng.uniform(*NOISE)),
        "noise_seed": new_seed(rng),
        "mirrored": bool(rng.random() < 0.5),
        "turned": [int(rng.integers(3)), rotation * float(rng.choice([-1, 1]))],
        "zoom": zoom,
        "blur": blur,
    }


def changed(image: Floats, params: Params) -> Floats:
    """``[D, H, W]`` shifted, mirrored, with another brightness and noise, as params say."""
    from scipy.ndimage import affine_transform, gaussian_filter

    middle = (np.array(image.shape) - 1) / 2
    pull = turned(*params["turned"]) / params["zoom"]
    start = middle - pull @ (middle + np.array(params["shift"]))
    moved = gaussian_filter(affine_transform(image, pull, start, order=1, mode="nearest"), params["blur"])
    bright = max(float(np.percentile(moved, 99)), 1e-6)
    moved = np.clip(moved / bright, 0, None) ** params["gamma"] * params["gain"] + params["offset"]
    moved = moved + rng_for(params["noise_seed"], 0).normal(0, params["noise"], moved.shape)
    result: Floats = np.clip((moved[::-1] if params["mirrored"] else moved) * bright, 0, None).astype(np.float32)
    return result


def turned(axis: int, degrees: float) -> npt.NDArray[np.float64]:
    """3×3 rotation about an array axis."""
    from scipy.spatial.transform import Rotation

    matrix: npt.NDArray[np.float64] = Rotation.from_euler("xyz"[axis], degrees, degrees=True).as_matrix()
    return matrix


class Benchmark:
    """One planted corpus, audited: how many near-copies are found, how many others are taken for copies."""

    def __init__(self, results: dict[str, Any], corpus: Corpus) -> None:
        self.judged = {pair["sample"]: pair["reference"] for pair in results["copies"]["copied"]}
        self.planted = {e["index"]: e["params"]["copy_of"] for e in corpus.entries() if "copy_of" in e["params"]}
        self.count = len(corpus)

    @cached_property
    def found(self) -> int:
        """Near-copies that are judged copies."""
        return sum(index in self.judged for index in self.planted)

    @cached_property
    def traced(self) -> int:
        """Near-copies that are judged copies of the volume that they are copies of."""
        return sum(self.judged.get(index) == source for index, source in self.planted.items())

    @cached_property
    def alarms(self) -> int:
        """Others that are judged copies."""
        return len(self.judged) - self.found

    def as_json(self) -> dict[str, int]:
        """The counts."""
        planted = len(self.planted)
        counts = {"planted": planted, "found": self.found, "traced": self.traced}
        return {**counts, "others": self.count - planted, "alarms": self.alarms}


def benchmark(
    out: Path,
    seeds: int = 5,
    reference: int = 300,
    holdout: int = 150,
    count: int = 200,
    share: float = 0.05,
    shape: tuple[int, int, int] = (44, 52, 44),
    spacing: float = 4.0,
    rotation: float = 0.0,
    zoom: float = 1.0,
    blur: float = 0.0,
) -> int:
    """Near-copies found and false alarms, with and without held-out volumes, over several seeds of LabelMap corpora.

    Args:
        out: folder of the corpora (made once) and of results-….json.
        seeds: how many times, each with people of its own.
        reference: volumes copied from.
        holdout: held-out volumes.
        count: volumes audited.
        share: of them that are near-copies.
        shape: voxels of a volume.
        spacing: of a voxel, mm.
        rotation: degrees by which near-copies are turned besides.
        zoom: factor by which they are larger besides.
        blur: SD in voxels by which they are smoothed besides.
    """
    rows = []
    copies = {"share": share, "rotation": rotation, "zoom": zoom, "blur": blur}
    people = {"shape": shape, "spacing": spacing}
    for seed in range(seeds):
        corpora = make(out / f"seed-{seed}", seed, (reference, holdout, count), people, copies)
        for held_out in (corpora["holdout"], None):
            row = detect(corpora["planted"], corpora["reference"], held_out)
            rows.append({"seed": seed, "holdout": held_out is not None, **row.as_json()})
            print(rows[-1], flush=True)
    write_atomically(out / f"results-{_name(copies)}.json", json.dumps(rows, indent=1))
    return 0


def make(
    out: Path, seed: int, sizes: tuple[int, int, int], people: Mapping[str, Any], copies: Mapping[str, float]
) -> dict[str, Path]:
    """The corpora reference, holdout and planted, of these ``sizes``, in a folder.

    Args:
        out: the folder.
        seed: other people, other copies.
        sizes: volumes of each.
        people: options of LabelMap.
        copies: options of :class:`Planted`.
    """
    from synth.engine import Job, generate
    from synth.generator import GeneratorSpec
    from synth.pool import Workers
    from synth.progress import progress_bar

    out.mkdir(parents=True, exist_ok=True)
    names = {"reference": "reference", "holdout": "holdout", "planted": _name(copies)}
    paths = {role: out / f"{name}.zarr" for role, name in names.items()}
    planted = GeneratorSpec("synth.audit.planted.Planted", {"source": paths["reference"], **copies})
    for place, (name, path) in enumerate(paths.items()):
        spec = planted if name == "planted" else GeneratorSpec("LabelMap", dict(people))
        job = Job(spec, sizes[place], 10 * seed + place, path)
        with progress_bar(f"generate {name}") as show:
            generate(job, Workers(0), progress=show)
    return paths


def _name(copies: Mapping[str, float]) -> str:
    """``planted-share-0.05``, what is as usual left out."""
    usual = {"rotation": 0.0, "zoom": 1.0, "blur": 0.0}
    return "planted" + "".join(f"-{name}-{value:g}" for name, value in copies.items() if value != usual.get(name))


def detect(planted: Path, reference: Path, holdout: Path | None) -> Benchmark:
    """Only the search for copies of an audit."""
    from threadpoolctl import threadpool_limits

    from synth.audit import features
    from synth.audit.grid import Volumes
    from synth.audit.searching import find_copies
    from synth.progress import progress_bar

    made, real = Volumes(Corpus(planted), "synthetic"), Volumes(Corpus(reference), "reference")
    apart = Volumes(Corpus(holdout), "held-out") if holdout is not None else None
    sets = [real, made] + ([apart] if apart is not None else [])
    described = []
    for one in sets:
        with progress_bar(f"features, {one.role}") as show:
            described.append(features.describe_all(one, show))
    with threadpool_limits(1):
        copies = find_copies(made, real, apart, features.standardised_by(*described), progress_bar)
    return Benchmark({"copies": copies.as_json(0)}, made.corpus)


if __name__ == "__main__":
    import sys

    from synth.options import call

    sys.exit(call(benchmark, sys.argv[1:], "python -m synth.audit.planted"))
