"""The benchmark ``labelmap``: LabelMap beside a plain loop and other packages, on one label map.

Every row gets the same label map. Rows that work on the output grid (the plain loop and the peers) get it resampled to
that grid by nearest neighbour beforehand, untimed; brainloom reads the file's own grid and resamples inside its time.
Every timed call makes a new random volume, parameters drawn anew; brainloom's includes ``draw`` and ``render``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.speed import gpu, peers
from benchmarks.speed.timing import Row, Shape, run_row

SPACING_MM = 1.0
MAIN = "brainloom, random, strong"
PLAIN = "plain loop"
FULL = "person, morphometry, affine + diffeomorphic warp, mixture, partial volume, texture and every effect by its default probability; volumes measured"
LOOP = "warp, mixture, bias field, noise: one compiled loop and nothing else"
GPU_EDGES = {128: 16, 192: 8}  # voxels along each axis: volumes at once


def rows(label_map: Path | None, on_grid: Path, size: int, with_gpu: bool) -> list[Row]:
    """Every row; ``on_grid``: .npy of the label map on the ``size``³ grid."""
    main, whole_head, double = grids(size)
    labels = {"labels": str(on_grid)}

    def ours(name: str, shape: Shape, **options: Any) -> Row:
        given = {"anatomies": label_map and str(label_map), "shape": list(shape), **options}
        return Row(name, "ours", shape, f"{__name__}:ours", given, FULL)

    def peer(name: str, function: str, includes: str, **options: Any) -> Row:
        return Row(name, "peer", main, f"benchmarks.speed.peers:{function}", {**labels, **options}, includes)

    strong = {"contrast": "random", "deformation": "strong"}
    listed = [
        ours(MAIN, main, **strong),
        ours(MAIN, whole_head, **strong),
        ours(MAIN, double, **strong),
        ours("brainloom, t1w, mild", main, contrast="t1w", deformation="mild"),
        Row(PLAIN, "floor", main, "benchmarks.speed.plain:plain_loop", labels, LOOP),
        peer("TorchIO", "torchio", peers.TORCHIO),
        peer("cornucopia SynthFromLabel", "cornucopia", peers.CORNUCOPIA),
        peer("cornucopia SynthFromLabel, light", "cornucopia", peers.CORNUCOPIA_LIGHT, light=True),
        peer("nobrainer SynthSegGenerator", "nobrainer", peers.NOBRAINER),
    ]
    if with_gpu:
        for edge, batch in GPU_EDGES.items():
            given = {"anatomies": label_map and str(label_map), "shape": [edge] * 3, "batch": batch}
            listed.append(Row(f"{MAIN}, GPU", "gpu", (edge, edge, edge), "benchmarks.speed.gpu:Rendering", given, FULL))
    return listed


def grids(size: int) -> tuple[Shape, Shape, Shape]:
    """The grid of the comparison, a whole-head one and a doubled one: 128³, 160×192×160 and 256³ for 128."""
    head = (size * 5 // 4, size * 3 // 2, size * 5 // 4)
    return (size, size, size), head, (2 * size, 2 * size, 2 * size)


def ours(
    anatomies: str | None, shape: list[int], contrast: Any, deformation: Any, seed: int = 1
) -> Callable[[int], Any]:
    """Maker of brainloom's rows: draw and render, every other option at its default."""
    from synth.keys import rng_for
    from synth.labelmap import LabelMap

    place = None if anatomies is None else Path(anatomies)
    grid = (shape[0], shape[1], shape[2])
    generator = LabelMap(grid, SPACING_MM, place, contrast=contrast, deformation=deformation)
    return lambda i: generator.render(generator.draw(rng_for(seed, i)))


def resampled(label_map: Path, shape: Shape) -> npt.NDArray[np.int16]:
    """The label map on a 1 mm RAS+ grid about the middle of its brain, by nearest neighbour; 0 outside it."""
    from synth.anatomy.source import load_anatomy

    anatomy = load_anatomy(label_map)
    numbers = np.array([label.number for label in anatomy.labels], np.int16)
    steps = [(np.arange(n) - (n - 1) / 2) * SPACING_MM for n in shape]
    at = [
        np.rint(step / spacing + middle).astype(int)
        for step, spacing, middle in zip(steps, anatomy.spacing, anatomy.centre, strict=True)
    ]
    inside = [(line >= 0) & (line < n) for line, n in zip(at, anatomy.index.shape, strict=True)]
    out = np.zeros(shape, np.int16)
    out[np.ix_(*inside)] = numbers[anatomy.index[np.ix_(*(line[held] for line, held in zip(at, inside, strict=True)))]]
    return out


def write_on_grid(label_map: Path, shape: Shape, folder: Path) -> Path:
    """``labels.npy`` and, for peers that take files, ``labels.nii`` (uncompressed); returns the former."""
    import nibabel

    from synth.sample import centred_affine

    array = resampled(label_map, shape)
    affine = centred_affine(shape, (SPACING_MM,) * 3)
    nibabel.save(nibabel.Nifti1Image(array, affine), folder / "labels.nii")
    np.save(folder / "labels.npy", array)
    return folder / "labels.npy"


def ratios(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """What the rows come to; medians throughout, None where a row it takes was skipped.

    ``fastest_peer`` and by how many times it is slower than ours on the same grid; ``ours_by_plain_loop``: our time by
    the loop's; ``ns_per_voxel`` of ours by grid; ``growth``: of the largest grid by that of the smallest (at most 1
    when the cost grows no faster than the voxels).
    """
    timed = [row for row in measured if "skipped" not in row]
    own = sorted((row for row in timed if row["name"] == MAIN), key=lambda row: float(np.prod(row["shape"])))
    main = next((row for row in own if row["shape"] == smallest_grid(measured)), None)
    plain = next((row for row in timed if row["kind"] == "floor"), None)
    same = [row for row in timed if row["kind"] == "peer" and main and row["shape"] == main["shape"]]
    fastest = min(same, key=lambda row: row["ms_median"], default=None)
    return {
        "fastest_peer": fastest and fastest["name"],
        "fastest_peer_by_ours": fastest["ms_median"] / main["ms_median"] if fastest and main else None,
        "ours_by_plain_loop": main["ms_median"] / plain["ms_median"] if main and plain else None,
        "ns_per_voxel": {"×".join(map(str, row["shape"])): row["ns_per_voxel"] for row in own},
        "growth": own[-1]["ns_per_voxel"] / own[0]["ns_per_voxel"] if len(own) > 1 else None,
        "peak_mb_largest": own[-1]["peak_mb"] if own else None,
    }


def smallest_grid(measured: list[dict[str, Any]]) -> list[int] | None:
    """The grid of the comparison: the smallest one of the rows that ran on the CPU, skipped ones too."""
    shapes = [list(row["shape"]) for row in measured if row["kind"] != "gpu"]
    return min(shapes, key=lambda shape: float(np.prod(shape)), default=None)


def measure_rows(
    label_map: Path | None, size: int, repeats: int, only: tuple[str, ...], show: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Every row, measured one after the other; ``only``: words, one of which a row's name holds (case apart).

    Raises:
        UserError: a label map that cannot be read, or no row with such a name.
    """
    from synth.anatomy.source import builtin_path
    from synth.errors import UserError

    with tempfile.TemporaryDirectory(prefix="brainloom-speed-") as folder:
        every = rows(label_map, Path(folder) / "labels.npy", size, gpu.available())
        chosen = [row for row in every if not only or any(word.lower() in row.name.lower() for word in only)]
        if not chosen:
            names = ", ".join(dict.fromkeys(row.name for row in every))
            raise UserError(f"--only {','.join(only)} names no row; expected words from: {names}")
        write_on_grid(label_map or builtin_path(), grids(size)[0], Path(folder))
        for row in chosen:
            show(f"{row.name}, {'×'.join(map(str, row.shape))}")
            yield run_row(row, repeats)
