"""Many experiments in one table: an arm is a row, a task on a test set a column. Published numbers stand apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from benchmarks.page.story import kind_of, main_metric, value_of
from benchmarks.page.tables import data, named, table


@dataclass(frozen=True)
class Leaderboard:
    """``head``: names of the columns; ``rows``: arm's name, then a value with interval or None for each column."""

    head: list[str]
    rows: list[list[Any]]
    kinds: list[str]


def leaderboard(results: list[dict[str, Any]], names: list[str]) -> Leaderboard:
    """Gather experiments, the best rows first; an arm measured twice in the same column keeps a row per run, named after it.

    The order is that of the mean place over the columns; checks (shuffled labels, planted signal) stand last.

    Args:
        results: of experiments.
        names: of their runs, each its own.
    """
    cohorts = {one["cohort"].get("name") for one in results}
    columns: list[str] = []
    cells: dict[str, dict[str, Any]] = {}
    kinds: dict[str, str] = {}
    for one, run in zip(results, names, strict=True):
        metric, _ = main_metric(one)
        for test_set in one["test_sets"]:
            where = f"{one['cohort'].get('name')}, {test_set}" if len(cohorts) > 1 else test_set
            column = f"{one['task']} · {where} · {named(metric)}"
            columns += [] if column in columns else [column]
            for arm in one["arms"]:
                name = arm["name"]
                name = f"{name} ({run})" if column in cells.get(name, {}) else name
                cells.setdefault(name, {})[column] = value_of(arm, test_set, metric)
                kinds[name] = kind_of(arm)
    higher = {f"{named(main_metric(one)[0])}": main_metric(one)[1] for one in results}
    order = sorted(cells, key=_places(cells, kinds, {column: higher[column.split(" · ")[-1]] for column in columns}))
    rows = [[name, *(cells[name].get(column) for column in columns)] for name in order]
    return Leaderboard(["arm", *columns], rows, [kinds[name] for name in order])


def _places(
    cells: dict[str, dict[str, Any]], kinds: dict[str, str], higher: dict[str, bool]
) -> Callable[[str], tuple[bool, float]]:
    """Key of an arm: whether it is a check, then its mean place over the columns that it has."""
    places: dict[str, list[int]] = {name: [] for name in cells}
    for column, is_higher in higher.items():
        known = {
            name: one[column]["value"] for name, one in cells.items() if one.get(column) and kinds[name] != "check"
        }
        for place, name in enumerate(sorted(known, key=known.__getitem__, reverse=is_higher)):
            places[name].append(place)
    return lambda name: (
        kinds[name] == "check",
        sum(places[name]) / len(places[name]) if places[name] else float("inf"),
    )


def shown(board: Leaderboard) -> str:
    """The measured table, sortable."""
    return (
        '<section aria-labelledby="leaderboard"><h2 id="leaderboard">Leaderboard</h2>'
        "<p>Measured here, every row under the protocol of its run; 95 % intervals; in order of the mean place over the columns, "
        "checks of the line itself last. A head sorts its column.</p>"
        + table("Leaderboard, measured", board.head, board.rows, board.kinds)
        + data("leaderboard", board.head, board.rows)
        + "</section>"
    )


def published_rows() -> list[dict[str, Any]]:
    """What others published, each with its source."""
    content: list[dict[str, Any]] = yaml.safe_load((resources.files("benchmarks") / "published.yaml").read_text())
    return content


PUBLISHED = ("method", "task", "cohort", "metric", "value", "source")
NOT_OURS = "Other people, other scans, other splits: not comparable row by row with what was measured."


def published_for(tasks: set[str]) -> list[list[Any]]:
    """The cells under PUBLISHED of what concerns these tasks."""
    names = ("name", *PUBLISHED[1:])
    return [[one[name] for name in names] for one in published_rows() if one["task"] in tasks]


def published(tasks: set[str]) -> str:
    """A table of its own with numbers from elsewhere; empty where none concern these tasks."""
    rows = published_for(tasks)
    if not rows:
        return ""
    return (
        '<section aria-labelledby="published"><h2 id="published">Published elsewhere, not measured here</h2>'
        f"<p>{NOT_OURS}</p>" + table("Published elsewhere", PUBLISHED, rows) + "</section>"
    )
