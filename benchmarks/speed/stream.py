"""The benchmark ``stream``: volumes a second into batch buffers, ours beside other readers, on the same volumes.

Every row but those of crops and of the training step gives batches of 16 whole volumes, uint8, in a shuffled order. Rows
of one group are measured in turns (:mod:`benchmarks.speed.turns`), so ratios are medians over turns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.speed import stream_loaders as loaders
from benchmarks.speed import stream_peers as peers
from benchmarks.speed.stream_data import SEVEN
from benchmarks.speed.timing import Row, Shape
from benchmarks.speed.turns import paired

LIMIT = "limit"
WARM, LOADERS, COLD, CROPS, STEP = "whole volumes", "loaders", "from the disk", "crops", "training step"
FORMS = ("none", "zstd", SEVEN)
STEP_NAME = "training step fed by the stream"
_HERE = "benchmarks.speed.stream_ours"


def rows(folder: Path, size: int) -> list[Row]:
    """Every row; ``folder``: where the volumes are or will be (:class:`benchmarks.speed.stream_data.Data`)."""
    whole, given = (size, size, size), {"folder": str(folder)}
    step = Row(STEP_NAME, "ours", whole, f"{_HERE}:Step", given, STEP_WORDS, STEP, threads=2)
    return [
        *warm_rows(whole, given),
        *loader_rows(whole, given),
        *cold_rows(whole, given),
        *crop_rows(size, given),
        step,
    ]


TENSORSTORE = {
    "one by one": ("plain", peers.TENSORSTORE),
    "one by one, indices kept": ("kept", peers.TENSORSTORE_KEPT),
    "16 at once": ("at once", peers.TENSORSTORE_BEST),
}
STEP_WORDS = "sfcn_s, forward, backward and SGD in float32, two volumes at once, two threads; codec zstd"


def warm_rows(shape: Shape, given: dict[str, Any]) -> list[Row]:
    """From the page cache: the limit, ours, and readers of the same arrays."""

    def ours(name: str, includes: str, form: str = "none", **options: Any) -> Row:
        return Row(
            f"brainloom, {name}", "ours", shape, f"{_HERE}:Ours", {**given, "form": form, **options}, includes, WARM
        )

    def peer(name: str, maker: str, includes: str, **options: Any) -> Row:
        return Row(name, "peer", shape, f"benchmarks.speed.stream_peers:{maker}", {**given, **options}, includes, WARM)

    stored = "Stream, as stored, two threads, all volumes shuffled together"
    listed = [
        Row(LIMIT, "floor", shape, f"{_HERE}:Limit", given, "two threads copy from a memory map into buffers", WARM),
        *(ours(form, stored, form) for form in FORMS),
        ours("none, window", "the same, shards shuffled four at a time", window=4),
        ours("none, float32", "the same, as intensities", as_stored=False),
        ours("none, label maps", "the same, with label maps (int16, zstd)", labels=True),
        peer("numpy memory map", "memory_map", peers.MEMORY_MAP),
    ]
    for form in FORMS:
        listed += [
            *(
                peer(f"tensorstore, {form}, {name}", "tensorstore", words, form=form, how=how)
                for name, (how, words) in TENSORSTORE.items()
            ),
            peer(f"zarr-python, {form}", "zarr_python", peers.ZARR, form=form),
            peer(f"zarrs, {form}", "zarr_python", peers.ZARRS, form=form, zarrs=True),
        ]
    return listed


def loader_rows(shape: Shape, given: dict[str, Any]) -> list[Row]:
    """From the page cache: loaders that have files of their own."""
    listed = [
        ("nibabel, .nii.gz", "nibabel_gz", {}, loaders.NIBABEL),
        ("MONAI CacheDataset", "monai", {"persistent": False}, loaders.MONAI_CACHE),
        ("MONAI PersistentDataset", "monai", {"persistent": True}, loaders.MONAI_PERSISTENT),
        ("WebDataset, .npy", "webdataset", {}, loaders.WEBDATASET),
        ("LitData", "litdata", {}, loaders.LITDATA),
    ]
    return [
        Row(name, "peer", shape, f"benchmarks.speed.stream_loaders:{maker}", {**given, **options}, includes, LOADERS)
        for name, maker, options, includes in listed
    ]


def cold_rows(shape: Shape, given: dict[str, Any]) -> list[Row]:
    """From the disk: the page cache has nothing of the files when a call begins."""
    words = "one epoch; the files were dropped from the page cache before"
    listed = [Row(f"{LIMIT}, cold", "floor", shape, f"{_HERE}:cold_limit", given, words, COLD)]
    for form in FORMS[:2]:
        options = {**given, "form": form}
        listed += [
            Row(f"brainloom, {form}, cold", "ours", shape, f"{_HERE}:cold_ours", options, words, COLD),
            Row(
                f"tensorstore, {form}, cold",
                "peer",
                shape,
                "benchmarks.speed.stream_peers:tensorstore_cold",
                options,
                words,
                COLD,
            ),
        ]
    return listed


def crop_rows(size: int, given: dict[str, Any]) -> list[Row]:
    """Random crops of half the edge, from the page cache."""
    crop = size // 2
    shape, words = (crop, crop, crop), "a random crop of every volume, batches of 16"
    listed = [
        Row(
            f"brainloom, {name}",
            "ours",
            shape,
            f"{_HERE}:Ours",
            {**given, "form": form, "crop": list(shape)},
            words,
            CROPS,
        )
        for form, name in (("none", "crops of none"), ("zstd", "crops of zstd"), ("blocks", "crops of zstd blocks"))
    ]
    maker, options = "benchmarks.speed.stream_peers:TensorStoreCrops", {**given, "crop": crop}
    return [*listed, Row("tensorstore, crops of zstd blocks", "peer", shape, maker, options, words, CROPS)]


def forms_of(chosen: list[Row]) -> list[str]:
    """The forms of the volumes that some rows read: raw always, it is what the others are checked against."""
    needed = ["raw"]
    for row in chosen:
        form = {CROPS: "blocks", STEP: "zstd"}.get(row.group)
        needed.append(str(row.options.get("form", form or "raw")))
    return list(dict.fromkeys(needed))


def ratios(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """What the rows come to: medians over turns, None where a row it takes was skipped.

    ``limit_by_none``: our volumes a second, codec none, by the limit's. ``none_by_tensorstore…``: ours by tensorstore's,
    one by one with its defaults (``best``: the quickest of its rows); ``zstd_by_…`` likewise, with the stored bytes by raw
    bytes there. ``step``: a training step's time from a cached batch by that from the stream.
    """
    held = {row["name"]: row for row in measured}
    found: dict[str, Any] = {"none_by_limit": paired(held.get(LIMIT), held.get("brainloom, none"))}
    for form in FORMS:
        ours = held.get(f"brainloom, {form}")
        each = [paired(held.get(f"tensorstore, {form}, {how}"), ours) for how in TENSORSTORE]
        word = {SEVEN: "zstd7"}.get(form, form)
        found[f"{word}_by_tensorstore"] = each[0]
        found[f"{word}_by_tensorstore_best"] = min((ratio for ratio in each if ratio is not None), default=None)
        found[f"{word}_stored_share"] = (ours or {}).get("stored_share")
        if form == SEVEN:
            continue
        cold = held.get(f"brainloom, {form}, cold")
        found[f"{form}_by_tensorstore_cold"] = paired(held.get(f"tensorstore, {form}, cold"), cold)
        found[f"{form}_by_limit_cold"] = paired(held.get(f"{LIMIT}, cold"), cold)
    blocks = held.get("brainloom, crops of zstd blocks")
    found["crops_by_tensorstore"] = paired(held.get("tensorstore, crops of zstd blocks"), blocks)
    step = held.get(STEP_NAME, {})
    found["step"], found["step_quartiles"] = step.get("cached_by_stream"), step.get("cached_by_stream_quartiles")
    found["neighbours"] = (held.get("brainloom, none, window") or {}).get("neighbours")
    return found


def sentences(found: dict[str, Any]) -> list[str]:
    """The ratios in words; what could not be measured is left out."""
    said = [
        ("none_by_limit", "Codec none: brainloom gives {:.2f} of the volumes a second that two threads can copy."),
        ("none_by_tensorstore", "Codec none: {:.2f} times as many as tensorstore one by one."),
        ("none_by_tensorstore_best", "Codec none: {:.2f} times as many as tensorstore at its best."),
        ("zstd_by_tensorstore", "Codec zstd: {:.2f} times as many as tensorstore one by one"),
        ("zstd_by_tensorstore_best", "Codec zstd: {:.2f} times as many as tensorstore at its best"),
        ("zstd7_by_tensorstore", "Codec zstd, 7 bits: {:.2f} times as many as tensorstore one by one"),
        ("zstd7_by_tensorstore_best", "Codec zstd, 7 bits: {:.2f} times as many as tensorstore at its best"),
        ("none_by_limit_cold", "From the disk, codec none: {:.2f} of what the limit gives."),
        ("none_by_tensorstore_cold", "From the disk, codec none: {:.2f} times as many as tensorstore."),
        ("zstd_by_tensorstore_cold", "From the disk, codec zstd: {:.2f} times as many as tensorstore."),
        ("crops_by_tensorstore", "Crops of zstd blocks: {:.2f} times as many as tensorstore."),
    ]
    lines = []
    for name, text in said:
        if found[name] is not None:
            share = found.get(f"{name.split('_')[0]}_stored_share")
            told = "" if text.endswith(".") else f"; stored bytes by raw bytes {share:.2f}."
            lines.append(text.format(found[name]) + told)
    if found["step"] is not None:
        low, high = found["step_quartiles"]
        lines.append(
            f"A training step takes, fed by one cached batch, {found['step']:.3f} [{low:.3f}, {high:.3f}] of its time when "
            "fed by the stream."
        )
    if found["neighbours"]:
        own, uniform = found["neighbours"]
        lines.append(
            f"Shuffled four shards at a time, {100 * own:.1f} % of neighbours are of one shard; "
            f"{100 * uniform:.1f} % when all volumes are shuffled together."
        )
    return lines
