"""Commands of the room synth."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from synth.diffusion.settings import RECIPES, Autoencoding, Controlling, Denoising, Size, TrainOptions
from synth.errors import UserError
from synth.generator import GeneratorSpec
from synth.options import with_recipes

if TYPE_CHECKING:
    from synth.engine import Outcome

DEFAULT = GeneratorSpec("LabelMap")


def generate(
    out: Path,
    count: int,
    generator: GeneratorSpec = DEFAULT,
    seed: int = 0,
    workers: int | None = None,
    shard_size: int = 16,
    dtype: Literal["uint8", "uint7", "float16", "float32"] = "uint8",
    codec: Literal["zstd", "none"] = "zstd",
    chunk: int = 0,
    append: bool = False,
    address: str | None = None,
    gpus_per_worker: float = 0.0,
    dashboard: bool = False,
) -> int:
    """Make a corpus of synthetic volumes, or go on with one that was interrupted.

    Sample i depends on (recipe, seed, i) alone: not on workers, shard size or machine load.

    Args:
        out: folder of the corpus to make (NAME.zarr), or a URL such as s3://bucket/NAME.zarr.
        count: number of volumes.
        generator: LabelMap, Diffusion, Scans, Video, an installed plug-in's name, or module.Class.
        seed: another seed is another corpus.
        workers: Ray workers, one per core if not given; 0 works in this process without Ray.
        shard_size: volumes per shard, the unit of work and of writing.
        dtype: how image voxels are stored; uint8 keeps a scale and an offset per volume, uint7 drops the noisiest bit and
            compresses better.
        codec: of image voxels; none is larger and read faster.
        chunk: voxels along each axis of the blocks that a random crop reads; 0 keeps whole volumes together.
        append: let a smaller corpus of the same recipe grow to --count; what it holds stays as it is.
        address: a running Ray cluster to join (auto, or ray://HOST:PORT).
        gpus_per_worker: GPUs, or a share of one, that each worker has to itself.
        dashboard: serve Ray's dashboard on this machine (loopback only).
    """
    from synth.engine import Job
    from synth.engine import generate as run
    from synth.pool import Workers
    from synth.progress import progress_bar

    job = Job(generator, count, seed, out, shard_size, dtype, codec, chunk, append)
    team = Workers(_worker_count(workers, address), address, gpus_per_worker, dashboard)
    with progress_bar(f"generate {out.name}") as progress:
        outcome = run(job, team, progress=progress)
    if _tell_failures(outcome):
        return 1
    print(f"{out}: {count} volumes, {outcome.made} shard(s) made now in {outcome.seconds:.1f} s")
    return 0


def plan(
    out: Path,
    count: int,
    generator: GeneratorSpec = DEFAULT,
    seed: int = 0,
    workers: int | None = None,
    shard_size: int = 16,
    dtype: Literal["uint8", "uint7", "float16", "float32"] = "uint8",
    codec: Literal["zstd", "none"] = "zstd",
    chunk: int = 0,
    append: bool = False,
    address: str | None = None,
    gpus_per_worker: float = 0.0,
    dashboard: bool = False,
) -> int:
    """What generate with the same options will cost: disk, memory, core-hours, GPU-hours, shards. Nothing is written.

    Up to a shard of volumes, a few seconds of them, are made in a process of their own and thrown away.

    Args:
        out: folder or URL of the corpus; one that is there already and not finished is planned to its end.
        count: number of volumes.
        generator: LabelMap, Diffusion, an installed plug-in's name, or module.Class.
        seed: another seed is another corpus.
        workers: Ray workers, one per core if not given; 0 is this process without Ray.
        shard_size: volumes per shard.
        dtype: how image voxels are stored.
        codec: of image voxels.
        chunk: voxels along each axis of a block; 0 for whole volumes.
        append: let a smaller corpus grow.
        address: a running Ray cluster to join.
        gpus_per_worker: GPUs, or a share of one, that each worker has to itself.
        dashboard: as for generate.
    """
    from synth.engine import Job
    from synth.plan import plan as make_plan
    from synth.pool import Workers

    job = Job(generator, count, seed, out, shard_size, dtype, codec, chunk, append)
    print(make_plan(job, Workers(_worker_count(workers, address), address, gpus_per_worker, dashboard)))
    return 0


def _worker_count(workers: int | None, address: str | None) -> int | None:
    """Ray workers: those asked for, else one a core of this machine, else (on a cluster) all there are."""
    import os

    if workers is not None and workers < 0:
        raise UserError(f"--workers is {workers}; expected 0 or more")
    if workers is not None or address is not None:
        return workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tell_failures(outcome: Outcome) -> bool:
    """Print what went wrong in a run, if anything did."""
    for problem in outcome.failed.values():
        print(f"brainloom: failed: {problem}", file=sys.stderr)
    if outcome.stopped:
        print(f"brainloom: stopped: {outcome.stopped}; mend that and run the same command again", file=sys.stderr)
    elif outcome.failed:
        print(
            f"{len(outcome.failed)} failed, see above; the others are kept, the same command tries these again",
            file=sys.stderr,
        )
    return bool(outcome.failed or outcome.stopped)


def inspect(corpus: Path, /, png: Path | None = None, rows: int = 6) -> int:
    """Print what a corpus holds; with --png draw a mosaic of volumes and label maps.

    Args:
        corpus: folder of the corpus.
        png: picture to write.
        rows: volumes in the picture.
    """
    from synth.corpus import Corpus
    from synth.picture import figure, save_png
    from synth.sample import spacing_of

    opened = Corpus(corpus)
    if png is not None:
        if rows < 1:
            raise UserError(f"--rows is {rows}; expected 1 or more")
        step = max(1, len(opened) // rows)
        save_png(figure(opened, list(range(0, len(opened), step))[:rows]), png)
    generator = opened.header.recipe["generator"]
    entry = opened.entry(0)
    spacing = " × ".join(f"{s:g}" for s in spacing_of(entry["affine"]))
    print(
        f"{corpus}: {len(opened)} volumes {opened.image_shape} at {spacing} mm, by {generator['class_path']}, "
        f"seed {opened.header.seed}, {'complete' if opened.complete else 'not complete'}"
    )
    if opened.complete:
        table = opened.covariates()
        for name in table.columns:
            print("  " + _summary(name, table[name]))
    if png is not None:
        print(f"picture: {png}")
    return 0


def _summary(name: str, values: object) -> str:
    import pandas as pd

    series = pd.Series(values)
    if pd.api.types.is_numeric_dtype(series):
        return f"{name}: mean {series.mean():.4g}, SD {series.std():.3g}, {series.min():.4g} to {series.max():.4g}"
    counts = series.value_counts()
    return f"{name}: " + ", ".join(f"{word} {n}" for word, n in counts.head(8).items())


def verify(corpus: Path, /, same_as: Path | None = None) -> int:
    """Check every bit of a corpus against its records and its seal; exit code 1 if any differs.

    Args:
        corpus: folder of the corpus.
        same_as: another corpus; whether both hold the same samples is told instead.
    """
    from synth.corpus import Corpus
    from synth.progress import progress_bar
    from synth.verify import differences, open_to_check
    from synth.verify import verify as check

    if same_as is not None:
        found_differences = list(differences(Corpus(corpus), Corpus(same_as)))
        print("\n".join(found_differences) or f"{corpus} and {same_as} hold the same samples, bit by bit")
        return 1 if found_differences else 0
    opened, problems = open_to_check(corpus)
    with progress_bar(f"verify {corpus.name}", "shards") as progress:
        for shard, found in check(opened):
            problems += found
            progress(min(shard + 1, opened.header.shards), opened.header.shards)
    problems = list(dict.fromkeys(problems))
    for problem in problems:
        print(f"damaged: {problem}")
    if problems:
        return 1
    print(f"{corpus}: {len(opened)} volumes, every bit as recorded; identity {opened.identity()[:16]}")
    return 0


def repair(corpus: Path, /, workers: int | None = None) -> int:
    """Make again what is damaged in a corpus, from its own recipe, and nothing else.

    Args:
        corpus: folder of the corpus.
        workers: Ray workers, one per core if not given; 0 works in this process without Ray.
    """
    from synth.engine import repair as mend
    from synth.options import make_spec
    from synth.pool import Workers
    from synth.progress import progress_bar
    from synth.verify import open_to_check

    opened, wrong = open_to_check(corpus)
    recipe = opened.header.recipe["generator"]
    spec = make_spec(recipe["class_path"], recipe["init_args"])
    with progress_bar(f"repair {opened.name}") as progress:
        outcome = mend(corpus, spec, Workers(_worker_count(workers, None)), progress)
    if _tell_failures(outcome):
        return 1
    mended = [f"{outcome.made} shard(s)"] * bool(outcome.made) + [w.split(" ")[0] + " metadata" for w in wrong]
    print(
        f"{corpus}: {'mended ' + ', '.join(mended) if mended else 'metadata, cards and covariates are as they should be'}"
    )
    return 0


def explain(corpus: Path, index: int, /, check: bool = False) -> int:
    """Print the birth certificate of one volume: recipe, seed, every drawn parameter, parents, checksum.

    Args:
        corpus: folder of the corpus.
        index: number of the volume, from 0.
        check: render it again and compare bit by bit.
    """
    from synth.corpus import Corpus

    opened = Corpus(corpus)
    entry = opened.entry(index)
    header = opened.header
    print(
        json.dumps(
            {
                "recipe": header.recipe,
                "seed": header.seed,
                "versions": opened.versions(index),
                "parents": header.parents,
                **entry,
            },
            indent=2,
        )
    )
    return _check_again(opened, index) if check else 0


def _check_again(opened: object, index: int) -> int:
    import numpy as np

    from synth.corpus import Corpus, as_stored, checksum
    from synth.options import make_spec

    assert isinstance(opened, Corpus)
    recipe = opened.header.recipe["generator"]
    entry = opened.entry(index)
    sample = make_spec(recipe["class_path"], recipe["init_args"]).build().render(entry["params"])
    image, _ = as_stored(sample.image, opened.header.recipe["dtype"])
    label = None if sample.label is None else sample.label.astype(np.int16)
    same = checksum(image, label) == entry["sha256"]
    print(f"rendered again: {'the same bits' if same else 'different bits'}")
    return 0 if same else 1


def export(
    corpus: Path, /, out: Path, format: Literal["bids", "nifti-zarr"] = "bids", indices: str | None = None
) -> int:
    """Write a corpus as a BIDS folder (sub-*/anat/*_T1w.nii.gz, participants.tsv, label maps) or as NIfTI-Zarr.

    Args:
        corpus: folder of the corpus.
        out: folder to make.
        format: bids, or nifti-zarr (one .nii.zarr a volume; needs the package nifti-zarr).
        indices: which volumes, as FIRST-LAST; all if not given.
    """
    from synth.corpus import Corpus
    from synth.export import write
    from synth.progress import progress_bar

    opened = Corpus(corpus)
    chosen = list(range(len(opened)))
    if indices is not None:
        first, dash, last = indices.partition("-")
        if not (dash and first.isdigit() and last.isdigit() and int(first) <= int(last) < len(opened)):
            raise UserError(f"--indices is '{indices}'; expected FIRST-LAST within 0-{len(opened) - 1}")
        chosen = list(range(int(first), int(last) + 1))
    with progress_bar(f"export {corpus.name}") as progress:
        write(opened, out, chosen, format, progress)
    print(f"{out}: {len(chosen)} participants")
    return 0


@with_recipes(RECIPES)
def train(
    corpus: Path,
    out: Path,
    generator: str = "Diffusion",
    conditions: tuple[str, ...] = ("age", "sex", "diagnosis"),
    networks: Size = Size(),
    autoencoder: Autoencoding = Autoencoding(),
    diffusion: Denoising = Denoising(),
    control: Controlling = Controlling(),
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    previews: int = 4,
    seed: int = 0,
) -> int:
    """Train a generator that learns on a corpus; then generate with --generator.weights OUT.

    --config takes a recipe: a file, or tiny (the defaults: CPU, minutes), small (one GPU, hours) or published (the
    networks of Pinaya et al. 2022).

    Args:
        corpus: folder of the corpus to learn from.
        out: folder of the weights to make.
        generator: Diffusion.
        conditions: covariates the model is told, numbers or words; NAME=A+B tells a sum, and ventricular_volume and
            brain_volume stand for sums of the regional volumes.
        precision: auto computes in bfloat16 where the processor does.
        previews: pictures of reconstructions and samples for each stage, in OUT/progress.
        seed: of initialisation, order and noise.
    """
    from synth.errors import near

    if generator != "Diffusion":
        raise UserError(f"generator '{generator}' does not learn; near: {near(generator, ['Diffusion'])}")
    from synth.diffusion.train import train_diffusion

    stages = (networks, autoencoder, diffusion, control)
    train_diffusion(corpus, out, TrainOptions(tuple(conditions), *stages, precision, previews, seed))
    return 0
