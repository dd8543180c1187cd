"""Writes report.html, report.md and results.json into one folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from benchmarks.page import gains, leaderboard, sections, tables, viewer
from benchmarks.page.findings import findings
from benchmarks.page.story import FORMAT, Story, read_results
from synth.storage import write_atomically

FORMAT_VERSION = 1


def write_report(story: Story, out: Path, published: bool = True) -> Path:
    """Write ``out/report.html``, ``report.md`` and ``results.json``; returns the page's path.

    Args:
        story: what is shown.
        out: folder.
        published: whether numbers published elsewhere stand in a table of their own.
    """
    results = [read_results(folder) for folder in story.experiments]
    names = run_names(story.experiments)
    board = leaderboard.leaderboard(results, names)
    made, said = sections.provenance(dict(zip(names, results, strict=True)), story), [*findings(results), *story.said]
    gathered = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "findings": said,
        "leaderboard": {"columns": board.head[1:], "rows": [{"arm": r[0], "values": r[1:]} for r in board.rows]},
        "experiments": [{"folder": folder.name, **one} for folder, one in zip(story.experiments, results, strict=True)],
        "published": leaderboard.published_rows() if published else [],
        "provenance": made,
        "timings": story.timings,
    }
    page = html(results, story, board, made, said, published)
    out.mkdir(parents=True, exist_ok=True)
    if out.resolve() not in [folder.resolve() for folder in story.experiments]:
        write_atomically(out / "results.json", json.dumps(gathered, indent=1))
    tasks = {one["task"] for one in results} if published else set()
    write_atomically(out / "report.md", markdown(said, board, leaderboard.published_for(tasks)))
    write_atomically(out / "report.html", page)
    return out / "report.html"


def run_names(folders: list[Path]) -> list[str]:
    """What tells folders apart: as few of the last parts of their paths as that takes."""
    for parts in range(1, max((len(one.parts) for one in folders), default=0) + 1):
        names = ["/".join(one.parts[-parts:]) for one in folders]
        if len(set(names)) == len(names):
            return names
    return [str(one) for one in folders]


def html(
    results: list[dict[str, Any]],
    story: Story,
    board: leaderboard.Leaderboard,
    made: dict[str, Any],
    said: list[str],
    published: bool,
) -> str:
    """The page."""
    own = resources.files("benchmarks.page")
    first = "".join(f"<p>{escape(sentence)}</p>" for sentence in said)
    body = [
        f'<h1>brainloom report</h1><div class="finding">{first}</div>',
        leaderboard.shown(board),
        gains.shown(results),
        sections.said_plainly(results, story),
        *(sections.experiment(one, at, i) for i, (one, at) in enumerate(zip(results, story.experiments, strict=True))),
        sections.learning(story),
        viewer.pictures(story.corpora),
        leaderboard.published({one["task"] for one in results}) if published else "",
        sections.recipe(made),
        sections.timings(results, story),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>brainloom report</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{(own / 'style.css').read_text()}</style></head><body><main>{''.join(body)}</main>"
        f'<script type="text/javascript">{(own / "page.js").read_text()}</script></body></html>'
    )


def markdown(said: list[str], board: leaderboard.Leaderboard, published: list[list[Any]]) -> str:
    """The finding, the leaderboard and, apart from it, what others published as Markdown."""

    def line(cells: list[Any]) -> str:
        return "| " + " | ".join(tables.shown(cell).replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"

    def table(head: Sequence[str], rows: list[list[Any]]) -> str:
        return "\n".join([line(list(head)), line(["---"] * len(head)), *map(line, rows)])

    parts = ["# brainloom report", *said, "## Leaderboard, measured", table(board.head, board.rows)]
    if published:
        parts += ["## Published elsewhere, not measured here", leaderboard.NOT_OURS]
        parts += [table(leaderboard.PUBLISHED, published)]
    return "\n\n".join(parts) + "\n"
