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


def run(recipe: Path, /, out: Path) -> int:
    """Run one benchmark of benchmarks/recipes, or a recipe of your own; goes on where a stopped run was.

    Args:
        recipe: YAML with kind: NAME and that kind's options.
        out: folder of its results.json, weights and pictures.
    """
    from benchmarks.recipe import read_recipe

    return read_recipe(recipe).run(out)
