"""HTML tables of an audit's results."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from synth.audit.groups import NAMES
from synth.audit.image_quality import NAMES as METRIC_NAMES

NOTHING = "–"


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a caption; the first cell of every row is its heading. Empty without rows."""
    if not rows:
        return ""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def number(value: float | None, count: int = 3) -> str:
    """A number with ``count`` significant digits, a dash for none."""
    return NOTHING if value is None else f"{value:.{count}g}"


def span(value: dict[str, float] | None, scale: float = 1.0) -> str:
    """A value with its 95 % interval, a dash for none."""
    if value is None:
        return NOTHING
    v, low, high = (value[name] / scale for name in ("value", "low", "high"))
    return f"{v:.3g} [{low:.3g}, {high:.3g}]"


def percent(value: float | None) -> str:
    """A share as per cent."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def rate(value: dict[str, float]) -> str:
    """A share with its interval and count."""
    return (
        f"{percent(value['value'])} [{percent(value['low'])}, {percent(value['high'])}], {value['count']:.0f} volumes"
    )


def corpora(results: dict[str, Any]) -> str:
    """Name, size, generator and identity of every corpus, and the grid."""
    rows = [
        (
            role.replace("_", "-"),
            one["name"],
            str(one["volumes"]),
            one["generator"],
            str(one["seed"]),
            "yes" if one["label_maps"] else "no",
            one["identity"][:16],
        )
        for role, one in results["corpora"].items()
    ]
    grid = results["grid"]
    shape, spacing = (" × ".join(f"{n:g}" for n in grid[name]) for name in ("shape", "spacing_mm"))
    return table(
        f"Corpora; compared at {shape} voxels of {spacing} mm",
        ("", "name", "volumes", "generator", "seed", "label maps", "identity"),
        rows,
    )


def copies(results: dict[str, Any]) -> str:
    """What each space found."""
    spaces = {name: results[name] for name in ("pixels", "features")}
    rows = [
        ["judged copies", *(rate(one["rate"]) for one in spaces.values())],
        ["threshold of the ratio", *(number(one["threshold"]) for one in spaces.values())],
        [f"{results['threshold_from']} below it", *(rate(one["clean_below_threshold"]) for one in spaces.values())],
        ["median ratio, samples", *(number(one["ratio"]["p50"]) for one in spaces.values())],
        [f"median ratio, {results['threshold_from']}", *(number(one["clean_ratio"]["p50"]) for one in spaces.values())],
        [
            "median distance to the nearest reference volume",
            *(number(one["distance"]["p50"]) for one in spaces.values()),
        ],
    ]
    if "membership_auc" in results["pixels"]:
        rows += [
            [
                "the same, of as many reference as held-out",
                *(number(one["distance_to_as_many_training"]["p50"]) for one in spaces.values()),
            ],
            ["median distance to held-out", *(number(one["distance_to_held_out"]["p50"]) for one in spaces.values())],
            [
                "samples nearer to training (50 % by chance)",
                *(rate(one["nearer_to_training"]) for one in spaces.values()),
            ],
            ["membership AUC (0.5 by chance)", *(span(one["membership_auc"]) for one in spaces.values())],
        ]
    return table("Nearest neighbours", ("", *spaces), rows)


def asked(results: dict[str, Any]) -> str:
    """Asked against measured volumes, both corpora."""
    rows = []
    for region, one in results["volumes"]["synthetic"].items():
        for role, found in (("samples", one), ("reference", results["volumes"]["reference"].get(region))):
            if found is not None:
                errors = (f"{found['rmse_mm3'] / 1000:.3g}", f"{found['bias_mm3'] / 1000:.3g}")
                rows.append((f"{NAMES[region]}, {role}", span(found["r"]), span(found["slope"]), *errors))
    head = ("", "r [95 %]", "slope, measured on asked", "RMSE, ml", "bias, ml")
    return table("Volumes asked for against volumes measured", head, rows)


def slopes(results: dict[str, Any]) -> str:
    """Change with age."""
    rows = [
        (NAMES[region], span(one["synthetic"], 1000), span(one["reference"], 1000))
        for region, one in results["mm3_per_year"].items()
        if one["synthetic"] is not None
    ]
    return table("Change of the measured volume with the age asked for, ml a year", ("", "samples", "reference"), rows)


def words(results: dict[str, Any]) -> str:
    """Differences between the words of covariates."""
    rows = []
    for name, one in results["words"].items():
        for word, regions in one["words"].items():
            for region, found in regions.items():
                label = f"{name}: {word} against {one['against']}, {NAMES[region]}"
                rows.append((label, span(found["synthetic"]), span(found["reference"])))
    return table("Differences in measured volume, Cohen's d", ("", "samples", "reference"), rows)


def fidelity(results: dict[str, Any]) -> str:
    """Distances of samples and yardstick, and MS-SSIM."""
    made, yardstick = results["fidelity"]["synthetic"], results["fidelity"]["yardstick_values"]
    rows = [
        ("Fréchet distance", span(made["frechet"]), span(yardstick["frechet"])),
        ("KID", span(made["kid"]), span(yardstick["kid"])),
        ("MMD², Gaussian kernel", span(made["mmd_gaussian"]), span(yardstick["mmd_gaussian"])),
        *(
            (name, number(made[name]), number(yardstick[name]))
            for name in ("precision", "recall", "density", "coverage")
        ),
    ]
    first = table("Distance to the reference", ("", "samples", results["fidelity"]["yardstick"]), rows)
    roles = [role for role in ("synthetic", "reference", "held_out") if role in results["diversity"]]
    row = ("MS-SSIM", *(span(results["diversity"][role]) for role in roles))
    caption = f"MS-SSIM between {results['diversity']['pairs']} random pairs of one corpus; lower is more diverse"
    return first + table(caption, ("", *(role.replace("_", "-") for role in roles)), [row])


def volumes(results: dict[str, Any]) -> str:
    """Regions of both corpora, and the error of the measurement."""
    rows = [
        (
            NAMES[region],
            f"{one['synthetic_mean'] / 1000:.4g} ± {one['synthetic_sd'] / 1000:.3g}",
            f"{one['reference_mean'] / 1000:.4g} ± {one['reference_sd'] / 1000:.3g}",
            number(one["difference_sd"]),
            number(one["ks"]),
            number(one["ks_p"], 2),
        )
        for region, one in results["regions"].items()
    ]
    head = ("", "samples, ml", "reference, ml", "difference, SD", "KS distance", "p")
    found = table("Measured volumes, mean ± SD", head, rows)
    method = results["method"]
    if method["errors"] is None:
        return found
    errors = [
        (NAMES[region], number(one["dice"]), number(one["r"]), f"{one['rmse'] / 1000:.3g}", f"{one['bias'] / 1000:.3g}")
        for region, one in method["errors"].items()
    ]
    return found + table(
        f"The measurement's own error, on {method['checked_on']}",
        ("", "Dice", "r with the true volume", "RMSE, ml", "bias, ml"),
        errors,
    )


def quality(results: dict[str, Any]) -> str:
    """Metrics: medians and shares inside both ranges."""
    rows = []
    for metric, one in results["metrics"].items():
        ranges = [
            NOTHING if found is None else f"{found['p50']:.3g} [{found['p05']:.3g}, {found['p95']:.3g}]"
            for found in (one["synthetic"], one["reference"], one["real_scans_1mm"])
        ]
        rows.append(
            (METRIC_NAMES[metric], *ranges, percent(one["inside_reference"]), percent(one["inside_real_scans"]))
        )
    head = ("", "samples", "reference", "real scans, 1 mm", "inside reference's", "inside real scans'")
    return table("Median [5 %, 95 %], and the share of samples inside the range of the others", head, rows)
