"""Writes report.html, report.md and results.json into one folder."""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from benchmarks.page import leaderboard, sections, tables, viewer
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
    board = leaderboard.leaderboard(results, [folder.name for folder in story.experiments])
    made, said = sections.provenance(results, story), findings(results)
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
    page = html(results, story, board, made, published)
    out.mkdir(parents=True, exist_ok=True)
    if out.resolve() not in [folder.resolve() for folder in story.experiments]:
        write_atomically(out / "results.json", json.dumps(gathered, indent=1))
    write_atomically(out / "report.md", markdown(said, board))
    write_atomically(out / "report.html", page)
    return out / "report.html"


def html(
    results: list[dict[str, Any]], story: Story, board: leaderboard.Leaderboard, made: dict[str, Any], published: bool
) -> str:
    """The page."""
    own = resources.files("benchmarks.page")
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in findings(results))
    body = [
        f'<h1>brainloom report</h1><div class="finding">{said}</div>',
        leaderboard.shown(board),
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


def markdown(said: list[str], board: leaderboard.Leaderboard) -> str:
    """The finding and the leaderboard as Markdown."""

    def line(cells: list[Any]) -> str:
        return "| " + " | ".join(tables.shown(cell).replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"

    rows = [line(board.head), line(["---"] * len(board.head)), *map(line, board.rows)]
    return "# brainloom report\n\n" + "\n\n".join(said) + "\n\n## Leaderboard, measured\n\n" + "\n".join(rows) + "\n"
