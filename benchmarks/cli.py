"""Commands of the room benchmarks."""

from __future__ import annotations

from pathlib import Path


def report(*runs: Path, out: Path) -> int:
    """Gather finished runs into one self-contained report.html.

    Args:
        runs: folders made by finetune run; also weights and corpora, whose curves and pictures are then shown.
        out: folder of the report.
    """
    from benchmarks.report import Story, write_report

    print(f"report: {write_report(Story.of(list(runs)), out)}")
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
    """How long one volume takes, on one thread, beside other packages; every row in a process of its own.

    Args:
        what: the benchmark: labelmap (label-map synthesis beside a plain loop, TorchIO, cornucopia and nobrainer).
        out: folder of results.json (machine, versions, rows, ratios) and speed.png.
        anatomies: a label map, or a folder whose first one (by name) is taken; the built-in one if absent.
        repeats: volumes timed for each row, at least 7; more where they are quick.
        size: voxels along each axis of the comparison; brainloom is also timed at 5/4 × 3/2 × 5/4 and at twice that.
        only: words; only rows whose name holds one of them are measured.
    """
    from benchmarks.speed.run import run

    return run(what, out, anatomies, repeats, size, only)


def run(recipe: Path, /, out: Path) -> int:
    """Run one benchmark of benchmarks/recipes, or a recipe of your own; goes on where a stopped run was.

    Args:
        recipe: YAML with kind: NAME and that kind's options.
        out: folder of its results.json, weights and pictures.
    """
    from benchmarks.recipe import read_recipe

    return read_recipe(recipe).run(out)
