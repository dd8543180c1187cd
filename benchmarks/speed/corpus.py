"""The benchmark ``corpus``: what writing, Ray, formats and planning cost beside making the volumes.

Rows of one group are measured in turns (:mod:`benchmarks.speed.turns`); rendered and written rows make the same volumes
in the same turn, so their ratio is a median over turns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.speed.corpus_rows import TINY
from benchmarks.speed.timing import Row
from benchmarks.speed.turns import paired

WRITING, RAY, PER_SHARD, FORMATS, SHARDS, SCALE = (
    "writing",
    "Ray workers",
    "Ray's own cost",
    "formats",
    "shard sizes",
    "scale",
)
STRONG = {"contrast": "random", "deformation": "strong"}
RECIPES: dict[str, tuple[dict[str, Any], int]] = {"random, strong": (STRONG, 16), "t1w, mild": ({}, 4)}  # shard size
RAY_VOLUMES, RAY_SHARD = 64, 4
_HERE = "benchmarks.speed.corpus_rows"


def rows(folder: Path, label_map: Path | None, size: int) -> list[Row]:
    """Every row; ``folder``: where corpora are made."""
    volume = {"size": size, "anatomies": None if label_map is None else str(label_map)}
    return [
        *writing_rows(size, volume, folder),
        *ray_rows(size, volume, folder),
        *format_rows(size, volume, folder),
        Row(
            "scale: plan of 10 million volumes",
            "ours",
            (TINY,) * 3,
            f"{_HERE}:Plan",
            {"folder": str(folder)},
            "",
            SCALE,
        ),
    ]


def writing_rows(size: int, volume: dict[str, Any], folder: Path) -> list[Row]:
    """Generating alone, and with writing."""
    listed = []
    for name, (options, shard_size) in RECIPES.items():
        given = {**volume, "options": options, "shard_size": shard_size}
        group, words = f"{WRITING}, {name}", f"shards of {shard_size}"
        listed += [
            Row(f"rendered, {name}", "ours", (size,) * 3, f"{_HERE}:Rendered", given, "draw and render", group),
            Row(
                f"written, {name}",
                "ours",
                (size,) * 3,
                f"{_HERE}:Written",
                {**given, "folder": str(folder)},
                f"the same volumes, encoded (uint8, zstd, label maps), checksums, committed; {words}",
                group,
            ),
        ]
    return listed


def ray_rows(size: int, volume: dict[str, Any], folder: Path) -> list[Row]:
    """One worker and two; and shards that cost nothing, with Ray and without."""
    given = {**volume, "folder": str(folder), "options": STRONG, "count": RAY_VOLUMES, "shard_size": RAY_SHARD}
    words = f"corpora of {RAY_VOLUMES} volumes, random, strong, {RAY_SHARD} a shard; from the plan to the last shard"
    listed = [
        Row(
            f"{n} Ray worker{'s' * (n > 1)}",
            "ours",
            (size,) * 3,
            f"{_HERE}:generated",
            {**given, "workers": n},
            words,
            RAY,
        )
        for n in (1, 2)
    ]
    for n, name in ((0, "tiny shards, this process"), (1, "tiny shards, 1 Ray worker")):
        tiny = {"folder": str(folder), "workers": n}
        listed.append(
            Row(name, "ours", (TINY,) * 3, f"{_HERE}:tiny", tiny, "a volume a shard that costs nothing", PER_SHARD)
        )
    return listed


def format_rows(size: int, volume: dict[str, Any], folder: Path) -> list[Row]:
    """Layouts, by the time to decode a volume; and shards, by the time to commit one."""
    given = {**volume, "folder": str(folder), "options": STRONG}
    listed = []
    for dtype, codecs in (("uint8", ("none", "zstd")), ("float16", ("none", "zstd")), ("label", ("zstd",))):
        for codec in codecs:
            for chunk in (0, size // 2):
                name = f"{'int16 label' if dtype == 'label' else dtype}, {codec}, {f'blocks of {chunk}³' if chunk else 'whole volumes'}"
                options = {**given, "dtype": dtype, "codec": codec, "chunk": chunk}
                listed.append(Row(name, "ours", (size,) * 3, f"{_HERE}:Format", options, "decode a volume", FORMATS))
    for shard_size in (4, 16, 64):
        options = {**given, "shard_size": shard_size}
        name = f"commit shards of {shard_size}"
        listed.append(Row(name, "ours", (size,) * 3, f"{_HERE}:Commit", options, "encoded before", SHARDS))
    return listed


def ratios(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """What the rows come to: medians over turns, None where a row it takes was skipped.

    ``rendered_by_written``: share of the time that making volumes has of making and writing them. ``two_by_one_worker``:
    volumes a second. ``ray_ms_per_shard``: what a shard costs with one Ray worker above what it costs in one process.
    """
    held = {row["name"]: row for row in measured}
    found: dict[str, Any] = {
        "rendered_by_written": {
            name: paired(held.get(f"rendered, {name}"), held.get(f"written, {name}")) for name in RECIPES
        },
        "two_by_one_worker": paired(held.get("1 Ray worker"), held.get("2 Ray workers")),
    }
    here, ray = (held.get(f"tiny shards, {name}", {}).get("ms_median") for name in ("this process", "1 Ray worker"))
    found["ray_ms_per_shard"] = None if here is None or ray is None else ray - here
    scale = held.get("scale: plan of 10 million volumes", {})
    found["plan_s"], found["plan_peak_mb"] = scale.get("seconds"), scale.get("peak_mb")
    return found


def sentences(found: dict[str, Any]) -> list[str]:
    """The ratios in words; what could not be measured is left out."""
    said = [
        f"{name}: making volumes takes {ratio:.3f} of the time of making and writing them."
        for name, ratio in found["rendered_by_written"].items()
        if ratio is not None
    ]
    if found["two_by_one_worker"] is not None:
        said.append(f"Two Ray workers make {found['two_by_one_worker']:.2f} times as many volumes a second as one.")
    if found["ray_ms_per_shard"] is not None:
        said.append(f"A shard costs {found['ray_ms_per_shard']:.1f} ms more on a Ray worker than in one process.")
    if found["plan_s"] is not None:
        said.append(f"The plan of 10 million volumes takes {found['plan_s']:.1f} s and {found['plan_peak_mb']:.0f} MB.")
    return said
