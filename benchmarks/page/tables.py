"""HTML tables, the same as CSV, and figures whose data are one click away."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from html import escape
from typing import Any

METRICS = {
    "roc_auc": "ROC-AUC",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity_at_90_specificity": "sensitivity at specificity 0.9",
    "specificity_there": "specificity there",
    "f1": "F1",
    "brier": "Brier",
    "mae_years": "MAE, years",
    "r": "r",
    "r2": "R²",
    "corrected_mae": "MAE, age-corrected",
    "corrected_gap": "gap, age-corrected",
    "gain_over_scratch": "gain over scratch",
    "gain_over_untrained": "gain over untrained, frozen",
}
Row = Sequence[Any]


def named(metric: str) -> str:
    """A metric as people call it."""
    return METRICS.get(metric, metric.replace("_", " "))


def shown(value: Any) -> str:
    """A cell's text: an interval, a number or a word."""
    if value is None:
        return "–"
    if isinstance(value, dict) and "value" in value:
        digits = 1 if max(abs(value["low"]), abs(value["high"])) > 2 else 3
        return f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def cell(value: Any, tag: str = "td") -> str:
    """One cell; its sort key travels with it."""
    text = escape(shown(value))
    if isinstance(value, dict) and "value" in value:
        first, _, rest = text.partition(" [")
        return f'<{tag} data-key="{value["value"]}">{first} <small>[{rest}</small></{tag}>'
    key = f' data-key="{value}"' if isinstance(value, int | float) else ""
    scope = ' scope="row"' if tag == "th" else ""
    return f"<{tag}{scope}{key}>{text}</{tag}>"


def table(caption: str, head: Sequence[str], rows: Sequence[Row], classes: Sequence[str] = ()) -> str:
    """A table that sorts by a click on its head; the first column names the rows."""
    kinds = list(classes) or [""] * len(rows)
    body = "".join(
        f'<tr class="{kind}">{cell(row[0], "th")}{"".join(cell(value) for value in row[1:])}</tr>'
        for row, kind in zip(rows, kinds, strict=True)
    )
    heads = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in head)
    return (
        f'<div class="scroll" role="group" tabindex="0" aria-label="{escape(caption)}"><table class="sortable">'
        f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def csv_text(head: Sequence[str], rows: Sequence[Row]) -> str:
    """The same rows as CSV; an interval becomes three columns."""
    wide = [any(isinstance(row[at], dict) for row in rows) for at in range(len(head))]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [name for at, one in enumerate(head) for name in ([one, f"{one} low", f"{one} high"] if wide[at] else [one])]
    )
    for row in rows:
        cells: list[Any] = []
        for at, value in enumerate(row):
            triple = [value["value"], value["low"], value["high"]] if isinstance(value, dict) else [value, "", ""]
            cells += triple if wide[at] else [value]
        writer.writerow(cells)
    return buffer.getvalue()


def data(name: str, head: Sequence[str], rows: Sequence[Row]) -> str:
    """A figure's data: closed until asked for, with a CSV to take away."""
    address = "data:text/csv;base64," + base64.b64encode(csv_text(head, rows).encode()).decode()
    file = "".join(letter if letter.isalnum() else "_" for letter in name.lower())
    few = rows[:200]
    rest = f"<p>The first 200 of {len(rows)} rows; the CSV has all.</p>" if len(rows) > len(few) else ""
    return (
        f"<details><summary>Data: {escape(name)}</summary>"
        f'<p><a download="{file}.csv" href="{address}">Download {escape(file)}.csv</a></p>{rest}'
        f"{table(f'Data: {name}', head, few)}</details>"
    )


def figure(title: str, panels: Sequence[str], says: str, name: str, head: Sequence[str], rows: Sequence[Row]) -> str:
    """Panels side by side (one below the other on a phone), what they show, and their data."""
    return (
        f'<figure><h3>{escape(title)}</h3><div class="panels">{"".join(panels)}</div>'
        f"<figcaption>{escape(says)}</figcaption>{data(name, head, rows)}</figure>"
    )
