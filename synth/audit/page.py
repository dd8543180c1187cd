"""``audit.html``: one self-contained page, its pictures inside it, that says what was found and how it was measured."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

from synth.audit import pictures, tables
from synth.audit.findings import Findings
from synth.picture import png_bytes
from synth.storage import LocalStorage, write_atomically

STYLE = """
:root{color-scheme:light dark;--ink:#1d2733;--paper:#fff;--line:#dfe5ea;--soft:#f4f7f9;--good:#1b6e3c;--bad:#a3261b;--link:#1f5f7a}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--paper:#14191f;--line:#2c3640;--soft:#1c232b;--good:#7fd6a0;--bad:#ff9b8f;--link:#8cc8e0}}
body{font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;max-width:72rem;padding:1.5rem}
h1{font-size:1.7rem;margin:.2em 0}h2{margin-top:2.2em;border-bottom:1px solid var(--line);padding-bottom:.2em}a{color:var(--link)}
.verdict{font-size:1.15rem;background:var(--soft);border-left:6px solid var(--good);padding:.8rem 1rem}
.verdict.fails{border-color:var(--bad)}.word{font-weight:700;color:var(--good)}.fails .word{color:var(--bad)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
caption{text-align:left;font-weight:600;padding:.4rem 0}
th,td{text-align:left;padding:.3rem .7rem;border-bottom:1px solid var(--line);white-space:nowrap}
figure{margin:1rem 0}figcaption{font-size:.85rem}img{max-width:100%;height:auto;border-radius:4px}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(19rem,1fr));gap:1rem}
"""


def write_page(found: Findings, out: Path) -> None:
    """Write the pictures (``*.png``) and ``audit.html`` into a folder."""
    draw = Drawer(out)
    name = found.results["corpora"]["synthetic"]["name"]
    body = [
        f"<h1>Audit of {escape(name)}</h1>",
        verdict(found.results),
        "<h2>What was compared</h2>" + tables.corpora(found.results),
        draw(
            pictures.mosaic(found),
            "examples",
            "Four samples (left) beside four reference volumes (right), each in three planes.",
        ),
        "<h2>Does it copy?</h2>" + copies(found, draw),
        "<h2>Does it listen?</h2>" + listens(found, draw),
        "<h2>Fidelity and diversity</h2>" + fidelity(found, draw),
        "<h2>Volumes of tissues and structures</h2>" + volumes(found, draw),
        "<h2>Image quality</h2>" + quality(found, draw),
        "<h2>What cannot be judged</h2><ul>"
        + "".join(f"<li>{escape(s)}</li>" for s in found.results["not_judged"])
        + "</ul>",
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Audit of {escape(name)}</title>"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>"
    )
    write_atomically(out / "audit.html", page)


class Drawer:
    """Writes figures as PNG into a folder and gives the HTML that shows them."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __call__(self, sheet: Any | None, name: str, says: str, caption: bool = True) -> str:
        """A ``figure`` with the picture inside it, ``says`` as its alternative text and, if wanted, below it."""
        if sheet is None:
            return ""
        png = png_bytes(sheet)
        LocalStorage(self.out).write(f"{name}.png", [png])
        text = base64.b64encode(png).decode()
        below = f"<figcaption>{escape(says)}</figcaption>" if caption else ""
        return f'<figure><img alt="{escape(says)}" src="data:image/png;base64,{text}">{below}</figure>'


def verdict(results: dict[str, Any]) -> str:
    """The first lines: the gate, and the few figures that matter most."""
    judged, copies = results["verdict"], results["copies"]
    kind = "" if judged["passes"] else " fails"
    lines = [
        f'<p><span class="word">The gate {judged["state"]}.</span> {copies["count"]} of {copies["samples"]} samples '
        f"({percent(copies['rate'])}; 95 % interval {percent(copies['low'])} to {percent(copies['high'])}) are judged copies "
        f"of reference volumes; at most {percent(judged['max_copies'])} may be.</p>"
    ]
    lines += [f"<p>{escape(sentence)}</p>" for sentence in judged["why"]]
    auc = copies["pixels"].get("membership_auc")
    if auc is not None:
        lines.append(
            f"<p>Nearness to a sample tells training volumes from held-out ones with AUC {span(auc)} (0.5: not at all).</p>"
        )
    frechet, yardstick = (results["fidelity"][name]["frechet"] for name in ("synthetic", "yardstick_values"))
    lines.append(
        f"<p>Fréchet distance to the reference {span(frechet)}; of {escape(results['fidelity']['yardstick'])} {span(yardstick)}.</p>"
    )
    for region, one in results["listening"]["volumes"]["synthetic"].items():
        if region in ("ventricles", "brain"):
            lines.append(f"<p>Asked and measured volume of the {region}: r = {span(one['r'])}.</p>")
    return f'<div class="verdict{kind}">{"".join(lines)}</div>'


def percent(share: float) -> str:
    """A share as per cent."""
    return f"{100 * share:.1f} %"


def span(value: dict[str, float], count: int = 3) -> str:
    """A value and its interval."""
    return f"{value['value']:.{count}g} [{value['low']:.{count}g}, {value['high']:.{count}g}]"


def copies(found: Findings, draw: Drawer) -> str:
    """The search explained, its histograms, its tables and the closest pairs."""
    results = found.results["copies"]
    rows = []
    for rank, pair in enumerate(results["closest"], 1):
        state = "judged a copy" if pair["copy"] else "not judged a copy"
        lies = "mirrored, " if pair["mirrored"] else ""
        says = (
            f"Sample {pair['sample']} above and reference volume {pair['reference']} below: {state}; {lies}ratio {pair['ratio']:.3g} "
            f"in {pair['space']}."
        )
        rows.append(draw(pictures.closest_pair(found, pair), f"pair_{rank:02d}", says))
    return (
        "<p>Every sample is laid on every reference volume that resembles it, over all shifts, plain and mirrored, and what "
        "its detail leaves unexplained is measured; features are compared likewise. That distance is divided by the median "
        "distance of the next candidates: an ordinary head lies about as near to several others, a copy far nearer to one. "
        f"The threshold comes from {results['threshold_from']}, aimed at far fewer than 1 % false alarms; a sample below it in "
        f"either space is judged a copy. Of {results['known']['count']} near-copies made of the reference itself, "
        f"{results['known']['found']} would be.</p>"
        + draw(
            pictures.ratios(found),
            "ratios",
            "Histograms of the ratio of samples and of volumes that are no copies, in pixels and in features; left of the "
            "dashed threshold is judged a copy.",
        )
        + tables.copies(results)
        + f'<h3>The {len(rows)} closest pairs</h3><div class="pairs">{"".join(rows)}</div>'
    )


def listens(found: Findings, draw: Drawer) -> str:
    """Asked against measured."""
    results = found.results["listening"]
    asked = draw(
        pictures.asked(found),
        "asked_measured",
        "Volumes asked for against volumes measured: samples red, reference volumes blue, dashed where both are equal.",
    )
    age = draw(
        pictures.with_age(found),
        "with_age",
        "Measured ventricles and brain against the age asked for, samples and reference.",
    )
    if not (results["volumes"]["synthetic"] or age or results["words"]):
        return "<p>The samples carry no covariate that can be measured here.</p>"
    return (
        "<p>Every volume is measured on the picture that was made, with the method and the error given below under volumes; "
        "the reference's own row is what perfect listening looks like through that measurement.</p>"
        + asked
        + tables.asked(results)
        + age
        + tables.slopes(results)
        + tables.words(results)
    )


def fidelity(found: Findings, draw: Drawer) -> str:
    """Distances of the two sets, and diversity."""
    results = found.results["fidelity"]
    return (
        f"<p>Feature space: {escape(results['network'])}. Nothing was downloaded; figures compare corpora audited here, not "
        f"papers. The yardstick is {escape(results['yardstick'])}. The Fréchet distance is taken on {results['frechet_axes']} "
        f"principal axes ({percent(results['frechet_variance_kept'])} of the variance), over draws of "
        f"{results['frechet_volumes']} volumes of each set, covariances by {results['frechet_covariance']}. KID and MMD are "
        "unbiased and lie around 0 where there is no difference.</p>"
        + tables.fidelity(found.results)
        + draw(
            pictures.feature_map(found),
            "features",
            "Left: every volume on the two leading principal axes of the features. Right: MS-SSIM between pairs of volumes of "
            "one corpus; samples to the right of the reference are less diverse.",
        )
    )


def volumes(found: Findings, draw: Drawer) -> str:
    """Distributions of measured volumes and the error of the measurement."""
    return (
        f"<p>Measured by: {escape(found.results['volumes']['method']['name'])}.</p>"
        + draw(
            pictures.volumes(found),
            "volumes",
            "Measured volumes in ml, samples and reference, one point a volume, medians as bars.",
        )
        + tables.volumes(found.results["volumes"])
    )


def quality(found: Findings, draw: Drawer) -> str:
    """MRIQC's metrics."""
    return (
        f"<p>MRIQC's metrics after N4, in masks by: {escape(found.results['quality']['masks'])}. The band is the 5–95 % range of "
        "1,101 real T1-weighted scans of ABIDE at about 1 mm: on a coarser grid voxels mix tissues, and the reference's own "
        "range is the fair one.</p>"
        + draw(
            pictures.quality(found),
            "quality",
            "Image-quality metrics of samples and reference, one point a volume; the band is the range of real scans at 1 mm.",
        )
        + tables.quality(found.results["quality"])
    )
