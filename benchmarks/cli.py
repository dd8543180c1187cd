"""Commands of the room benchmarks."""

from __future__ import annotations

from pathlib import Path


def report(*runs: Path, out: Path, published: bool = True) -> int:
    """Gather finished runs into one leaderboard and one self-contained report.html, with report.md and results.json.

    Args:
        runs: folders made by finetune run, or whole runs (benchmark run, demo); also weights and corpora, whose curves and
            pictures are then shown.
        out: folder of the report.
        published: whether numbers published elsewhere stand beside it, in a table of their own.
    """
    from benchmarks.report import Story, write_report

    print(f"report: {write_report(Story.of(list(runs)), out, published)}")
    return 0


def speed(
    what: str,
    /,
    out: Path,
    anatomies: Path | None = None,
    repeats: int = 9,
    size: int = 128,
    only: tuple[str, ...] = (),
) -> int:
    """How long one volume takes, beside other packages; every row in a process of its own.

    Args:
        what: the benchmark: labelmap (label-map synthesis beside a plain loop, TorchIO, cornucopia and nobrainer, one
            thread), stream (volumes a second into batches beside tensorstore, zarr, MONAI, WebDataset and LitData, two
            threads), corpus (what writing, Ray, formats and planning cost), diffusion (sampling beside MONAI's inferer),
            train (steps of ViT-B/16, MAE and DenseNet121 beside MONAI's, two threads).
        out: folder of results.json (machine, versions, rows, ratios) and speed.png.
        anatomies: a label map, or a folder whose first one (by name) is taken; the built-in one if absent.
        repeats: volumes (labelmap) or turns (stream, corpus) timed for each row, at least 7; more volumes where they are
            quick.
        size: voxels along each axis; labelmap also times brainloom at 5/4 × 3/2 × 5/4 and at twice that; diffusion takes
            11/32 × 13/32 × 11/32 of it, a head at 4 mm for 128, and train 3/4, 96 for 128.
        only: words; only rows whose name (of stream and corpus also group or kind: ours, peer, floor) holds one of them
            are measured.
    """
    from benchmarks.speed.run import run

    return run(what, out, anatomies, repeats, size, only)


def run(
    recipe: Path | None = None,
    /,
    *,
    out: Path,
    cohort: tuple[str, ...] = (),
    external: tuple[str, ...] = (),
    generator: tuple[str, ...] = (),
    generator_options: tuple[str, ...] = (),
    scans: Path | None = None,
    clips: Path | None = None,
    profile: str | None = None,
) -> int:
    """Run a recipe, or learn what a generator is worth beside the built-in one; goes on where a stopped run was.

    Args:
        recipe: YAML with kind: NAME and that kind's options; left out with --generator.
        out: folder of its results, weights, pictures and, of kind matrix, report.html.
        cohort: BIDS folder or corpus of the people, instead of the recipe's; or TASK=FOLDER for each task, with commas.
        external: TASK=FOLDER of cohorts that are only tested on.
        generator: NAME or module.Class; several with commas: as many volumes of each as of the profile's own are
            pre-trained on and judged alike.
        generator_options: NAME=VALUE for their constructors, with commas, such as weights=ldm.
        scans: BIDS folder of real scans, to pre-train on them too.
        clips: folder of video clips, to pre-train on them too.
        profile: with --generator, tiny or a YAML of kind matrix: what generators are compared with, on whom, how; with a
            recipe one of its profiles, by itself full where --cohort is given, else tiny, if it has them.
    """
    from benchmarks.recipe import chosen_recipe, with_generators, with_source

    benchmark = chosen_recipe(recipe, bool(generator), profile, cohort, external)
    for called, name, folder in (("real scans", "Scans", scans), ("video", "Video", clips)):
        if folder is not None:
            benchmark = with_source(benchmark, called, name, {"folder": str(folder.absolute())})
    return (with_generators(benchmark, generator, generator_options) if generator else benchmark).run(out)


def morphometry(
    out: Path,
    draws: int = 200,
    people: int = 500,
    spacing: float = 1.0,
    anatomies: Path | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> int:
    """Volumes asked for against volumes on the label maps, and simulated groups' effect sizes against the effects table.

    Minutes of work; the same command goes on where it was stopped.

    Args:
        out: folder of draws.tsv, people.tsv, results.json and two pictures.
        draws: people of any age and diagnosis whose volumes are compared with what was asked.
        people: people in each of the groups CN, MCI, AD and PD, at 2 mm; 0 leaves the comparison out.
        spacing: mm of the label maps of the draws.
        anatomies: folder of label maps; the built-in one if absent.
        seed: another seed is other people.
        workers: processes, at most two if not given.
    """
    from benchmarks.chunks import processes
    from benchmarks.morphometry import Check, summary
    from benchmarks.morphometry import run as measure
    from synth.errors import UserError
    from synth.labelmap_options import checked_spacing
    from synth.progress import progress_bar

    if draws < 1 or people < 0 or people == 1:
        raise UserError(f"--draws is {draws} and --people {people}; expected 1 or more draws and 0, 2 or more people")
    workers = processes(out, workers)
    checked_spacing(spacing)
    check = Check(draws, people, spacing, seed, str(anatomies) if anatomies else None)
    check.generator(spacing).parents()  # bad options are refused before anything is written
    with progress_bar("morphometry", "people") as show:
        results = measure(check, out, workers, show)
    print(summary(results))
    print(f"results: {out / 'results.json'}, {out / 'asked_realised.png'}")
    return 0


def realism(
    out: Path,
    count: int = 200,
    anatomies: Path | None = None,
    cohort: Path | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> int:
    """MRIQC's image-quality metrics of simulated T1-weighted volumes at 1 mm against those of 1,101 real scans.

    Minutes of work; the same command goes on where it was stopped.

    Args:
        out: folder of realism.tsv, results.json and the pictures.
        count: volumes.
        anatomies: folder of label maps; the built-in one if absent.
        cohort: BIDS folder; its first T1w scan is drawn beside a synthetic volume (publish no face).
        seed: another seed is other volumes.
        workers: processes, at most two if not given.
    """
    from benchmarks.chunks import processes
    from benchmarks.realism import Realism, summary
    from benchmarks.realism import run as measure
    from synth.errors import UserError
    from synth.progress import progress_bar

    if count < 1:
        raise UserError(f"--count is {count}; expected 1 or more volumes")
    workers = processes(out, workers)
    check = Realism(count, seed, str(anatomies) if anatomies else None)
    check.generator().parents()
    with progress_bar("realism") as show:
        results = measure(check, out, cohort, workers, show)
    print(summary(results))
    print(f"results: {out / 'results.json'}, {out / 'realism.png'}")
    return 0
