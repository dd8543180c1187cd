"""What pre-training gains over training from scratch, beside the gains that were published."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.page.leaderboard import published_rows
from benchmarks.page.story import hardest_set, kind_of, main_metric
from benchmarks.page.tables import data, table

GAIN = "gain_over_scratch"
HEAD = ("task", "family", "labels, %", "best pre-trained arm", "gain over scratch", "published", "source")


def family_of(backbone: str) -> str:
    """ViT or CNN, as Dhinagar et al. 2023 divide them."""
    return "ViT" if backbone.startswith(("vit", "swin")) else "CNN"


def gains(results: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Rows under HEAD: per task, family and share of the labels the arm that gains most on the hardest test set."""
    return [row for one in results for row in _of_experiment(one)]


def _of_experiment(one: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    where, unit = hardest_set(one), "years" if main_metric(one)[0] == "mae_years" else "of AUC"
    told = {(row["task"], row["family"]): row for row in published_rows() if "family" in row}
    backbones = {arm["name"]: arm.get("backbone") or "" for arm in one["arms"] if kind_of(arm) == "pretrained"}
    for family in ("ViT", "CNN"):
        for share in one.get("fractions", []):
            found = {
                name: share["arms"][name][where][GAIN]
                for name, backbone in backbones.items()
                if family_of(backbone) == family and GAIN in share["arms"].get(name, {}).get(where, {})
            }
            if found:
                best = max(found, key=lambda name: float(found[name]["value"]))
                other = told.get((one["task"], family))
                said = (None, None) if other is None else (f"{other['value']:g} {other['metric']}", other["source"])
                yield (f"{one['task']} ({unit})", family, share["percent"], best, found[best], *said)


def shown(results: list[dict[str, Any]]) -> str:
    """The section; empty where nothing was trained from scratch beside a pre-trained arm."""
    rows = gains(results)
    if not rows:
        return ""
    return (
        '<section aria-labelledby="gains"><h2 id="gains">Gain of pre-training</h2><p>Measured here: the arm that gains most '
        "over its backbone from scratch, which is chosen after the fact and so flattered; paired 95 % intervals. Published: "
        "other people and other scans, in the words of the abstract, which leaves open whether its percentages are points.</p>"
        + table("Gain over scratch, measured and published", HEAD, rows)
        + data("gains", HEAD, rows)
        + "</section>"
    )
