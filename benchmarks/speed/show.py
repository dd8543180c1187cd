"""What was measured, for people: a table on the screen and a bar chart."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

COLOURS = {"ours": "#1f6f8b", "floor": "#8a97a6", "peer": "#c2571a", "gpu": "#5b8c5a"}
HEADER = ("row", "grid", "ms a volume, median [quartiles]", "volumes/s/core", "× ours", "ns/voxel", "peak MB")
RATE_HEADER = ("row", "grid", "volumes/s, median [quartiles]", "ms a volume", "cores", "peak MB", "")


def grid_of(row: dict[str, Any]) -> str:
    """128×128×128 as text."""
    return "×".join(map(str, row["shape"]))


def cells(row: dict[str, Any], ours_ms: dict[str, float]) -> list[str]:
    """One line of the table; ``ours_ms``: our median by grid, which ``× ours`` refers to."""
    if "skipped" in row:
        return [row["name"], grid_of(row), f"skipped: {row['skipped']}", "", "", "", ""]
    low, high = row["ms_quartiles"]
    reference = ours_ms.get(grid_of(row))
    return [
        row["name"],
        grid_of(row),
        f"{row['ms_median']:.1f} [{low:.1f}, {high:.1f}]",
        f"{row['volumes_per_second']:.2f}",
        f"{row['ms_median'] / reference:.2f}" if reference else "",
        f"{row['ns_per_voxel']:.1f}",
        f"{row['peak_mb']:.0f}",
    ]


def table(rows: list[dict[str, Any]], main: str) -> str:
    """The rows in columns as wide as they need; ``main``: name of the row that the others are compared with."""
    ours_ms = {grid_of(row): row["ms_median"] for row in rows if row["name"] == main and "skipped" not in row}
    return columns([list(HEADER), *(cells(row, ours_ms) for row in rows)], left=2)


def columns(lines: list[list[str]], left: int) -> str:
    """Lines of cells in columns as wide as they need, the first ``left`` of them flush left; a header on top. A line of
    one cell is a heading, one whose cell after the left ones says ``skipped`` may be longer than its column."""
    whole = [line for line in lines if len(line) > 1]
    measured = [line for line in whole if not line[left].startswith("skipped")]
    widths = [max(len(line[n]) for line in (whole if n < left else measured)) for n in range(len(lines[0]))]
    text = []
    for line in lines:
        padded = [
            cell.ljust(width) if n < left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=False))
        ]
        text.append("  ".join(padded).rstrip())
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def rate_table(rows: list[dict[str, Any]]) -> str:
    """Volumes a second, group after group, with what a row alone has to tell (``note``)."""
    lines = [list(RATE_HEADER)]
    for group, members in groupby(rows, key=lambda row: row["group"]):
        lines += [[f"{group}:"], *(rate_cells(row) for row in members)]
    return columns(lines, left=2)


def rate_cells(row: dict[str, Any]) -> list[str]:
    """One line of the table of volumes a second."""
    if "skipped" in row:
        return [f"  {row['name']}", grid_of(row), f"skipped: {row['skipped']}", *[""] * (len(RATE_HEADER) - 3)]
    low, high = row["ms_quartiles"]
    return [
        f"  {row['name']}",
        grid_of(row),
        f"{three(1000 / row['ms_median'])} [{three(1000 / high)}, {three(1000 / low)}]",
        f"{row['ms_median']:.3g}",
        f"{row['cores_busy']:.2f}",
        f"{row['peak_mb']:.0f}",
        row.get("note", ""),
    ]


def three(value: float) -> str:
    """Three digits, more where it takes more to say the whole number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def sentences(ratios: dict[str, Any]) -> list[str]:
    """The ratios in words; what could not be measured is left out."""
    said = []
    if ratios["fastest_peer"]:
        said.append(
            f"The fastest peer, {ratios['fastest_peer']}, takes {ratios['fastest_peer_by_ours']:.1f} times as long as brainloom."
        )
    if ratios["ours_by_plain_loop"]:
        said.append(f"brainloom takes {ratios['ours_by_plain_loop']:.2f} times as long as the plain loop.")
    if ratios["growth"]:
        steps = ", ".join(f"{grid} {ns:.1f}" for grid, ns in ratios["ns_per_voxel"].items())
        said.append(f"ns a voxel by grid: {steps}; largest by smallest {ratios['growth']:.2f}.")
    return said


def shared_core(rows: list[dict[str, Any]]) -> list[str]:
    """A line when rows on the CPU had less than 0.8 of a core: their times are the machine's, not the program's."""
    shared = [row for row in rows if row["kind"] != "gpu" and row.get("cores_busy", 1.0) < 0.8]
    if not shared:
        return []
    least = min(row["cores_busy"] for row in shared)
    return [
        f"{len(shared)} of {len(rows)} rows had to share their core (down to {least:.2f} of it): measure again when idle."
    ]


def gpu_sentences(rows: list[dict[str, Any]]) -> list[str]:
    """A line for every row that ran on a GPU."""
    return [
        f"{row['gpu']}, {grid_of(row)}, {row['batch']} at once: {row['rendering_volumes_per_second']:.1f} volumes/s rendered "
        f"({row['volumes_per_second']:.1f} with the draws), {100 * row['bandwidth_share']:.2g} % of its memory bandwidth "
        f"({row['copy_gb_per_second']:.0f} GB/s), {row['gpu_peak_mb']:.0f} MB of its memory"
        for row in rows
        if "bandwidth_share" in row
    ]


def chart(rows: list[dict[str, Any]], path: Path, caption: str, rate: bool = False) -> None:
    """Bars of milliseconds a volume on one thread, or of volumes a second; logarithmic, quartiles as whiskers."""
    from matplotlib.figure import Figure

    timed = [row for row in rows if "skipped" not in row][::-1]
    sheet = Figure(figsize=(8, 0.42 * max(3, len(timed)) + 1.4), facecolor="white", layout="constrained")
    axis = sheet.subplots()
    for place, row in enumerate(timed):
        low, value, high = (row["ms_quartiles"][0], row["ms_median"], row["ms_quartiles"][1])
        text = f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"
        if rate:
            low, value, high = 1000 / high, 1000 / value, 1000 / low
            text = three(value)
        spread = [[max(0.0, value - low)], [max(0.0, high - value)]]
        axis.barh(place, value, color=COLOURS[row["kind"]], xerr=spread, error_kw={"lw": 1, "ecolor": "#1d2733"})
        axis.text(high * 1.08, place, text, va="center", fontsize=8)
    axis.set_yticks(range(len(timed)), [f"{row['name']}  {grid_of(row)}" for row in timed], fontsize=8)
    axis.set_xscale("log")
    axis.margins(x=0.15, y=0.01)
    unit = "volumes a second" if rate else "milliseconds a volume, one thread"
    axis.set_xlabel(f"{unit} (median, quartiles; logarithmic)", fontsize=8)
    axis.set_title(caption, fontsize=8, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    sheet.savefig(path, dpi=150)
