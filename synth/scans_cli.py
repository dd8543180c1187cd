"""The command ``brainloom synth import``: real scans as a corpus."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from synth.generator import GeneratorSpec


def import_(
    bids: Path,
    /,
    out: Path,
    shape: tuple[int, int, int] = (160, 192, 160),
    spacing: float | tuple[float, float, float] = 1.0,
    strip: bool = False,
    align: bool = False,
    n4: bool = False,
    stripped: bool = False,
    suffix: str = "T1w",
    workers: int | None = None,
    shard_size: int = 16,
    dtype: Literal["uint8", "uint7", "float16", "float32"] = "uint8",
    codec: Literal["zstd", "none"] = "zstd",
    chunk: int = 0,
    address: str | None = None,
) -> int:
    """Make a corpus of the real scans of a BIDS folder, or go on with one that was interrupted.

    Every scan is checked before anything is written. Sessions and runs become volumes of their own.

    Args:
        bids: folder with sub-*/[ses-*/]anat/*_T1w.nii[.gz], and participants.tsv if there is one.
        out: folder of the corpus to make (NAME.zarr), or a URL such as s3://bucket/NAME.zarr.
        shape: voxels along left→right, posterior→anterior, inferior→superior.
        spacing: voxel size in mm, one number or three.
        strip: leave skull and scalp out; needs deepbet (pip install deepbet==1.0.2).
        align: bring every brain onto the built-in anatomy, affinely (12 degrees of freedom); needs --strip or --stripped.
        n4: take every brain's bias field out (N4); needs --strip or --stripped.
        stripped: the scans show the brain alone already; what is above zero is brain.
        suffix: which scans, by the last part of their name: T1w, T2w, FLAIR and so on.
        workers: Ray workers, one per core if not given; 0 works in this process without Ray.
        shard_size: volumes per shard, the unit of work and of writing.
        dtype: how image voxels are stored; uint8 keeps a scale and an offset per volume, uint7 drops the noisiest bit and
            compresses better.
        codec: of image voxels; none is larger and read faster.
        chunk: voxels along each axis of the blocks that a random crop reads; 0 keeps whole volumes together.
        address: a running Ray cluster to join (auto, or ray://HOST:PORT).
    """
    from synth.cli import generate
    from synth.scans import Scans

    brain = {"strip": strip, "align": align, "n4": n4, "stripped": stripped}
    options = {"folder": bids, "shape": shape, "spacing": spacing, "suffix": suffix, **brain}
    scans = Scans(**options)  # type: ignore[arg-type]
    if scans.without_scan:
        print(
            f"brainloom: warning: {len(scans.without_scan)} participant(s) of participants.tsv have no {suffix} scan and "
            f"are left out, the first is {scans.without_scan[0]}",
            file=sys.stderr,
        )
    return generate(
        out=out,
        count=len(scans),
        generator=GeneratorSpec("Scans", options),
        workers=workers,
        shard_size=shard_size,
        dtype=dtype,
        codec=codec,
        chunk=chunk,
        address=address,
    )
