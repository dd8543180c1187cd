"""``brainloom synth audit``: what a synthetic corpus is worth, measured against what its generator learnt from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.audit import diversity, features
from synth.audit.distances import Doubles, bootstrap_mean, digits
from synth.audit.fidelity import fidelity
from synth.audit.findings import Findings
from synth.audit.gate import verdict
from synth.audit.grid import Volumes, check_comparable
from synth.audit.image_quality import Quality, quality_of
from synth.audit.limits import not_judged
from synth.audit.lineage import another_reference, check_held_out
from synth.audit.listening import listening
from synth.audit.measuring import Measured, Method, compared, measure, method_for
from synth.audit.searching import Bar, find_copies
from synth.corpus import Corpus
from synth.errors import UserError
from synth.storage import write_atomically

FORMAT, FORMAT_VERSION = "brainloom-audit", 1


@dataclass(frozen=True)
class Options:
    """What an audit may be told.

    Attributes:
        max_copies: share of samples that may be copies, above 0 to 1.
        seed: of every random choice.
        segmenter_steps: training steps of the segmenter.
        pairs: pairs of volumes for MS-SSIM, of each corpus.
    """

    max_copies: float = 0.01
    seed: int = 0
    segmenter_steps: int = 500
    pairs: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.max_copies <= 1:
            raise UserError(
                f"--max-copies is {self.max_copies}; expected a share above 0, at most 1, such as 0.01 (no number of samples "
                "shows that there are none at all)"
            )
        if self.segmenter_steps < 1 or self.pairs < 1:
            raise UserError(
                f"--segmenter-steps is {self.segmenter_steps} and --pairs {self.pairs}; expected 1 or more of each"
            )


def run(synthetic: Path, reference: Path, held_out: Path | None, out: Path, options: Options, bar: Bar) -> Findings:
    """Audit a corpus, write ``audit.json``, ``audit.html``, ``copies.tsv`` and the pictures into ``out``.

    Raises:
        UserError: no such corpus, too few volumes, different grids, held-out volumes that are in the reference or that
            the samples derive from.
    """
    from threadpoolctl import threadpool_limits

    from synth.audit.page import write_page

    made, real = Volumes(Corpus(synthetic), "synthetic"), Volumes(Corpus(reference), "reference")
    apart = Volumes(Corpus(held_out), "held-out") if held_out is not None else None
    check_comparable(made, real, apart)
    if apart is not None:
        check_held_out(made, apart)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out '{out}' cannot be made ({error.strerror}); expected a folder") from error
    with threadpool_limits(1):  # sums are added in one order, however many cores there are
        found = find(made, real, apart, options, bar)
    write_page(found, out)
    write_atomically(out / "copies.tsv", _copies_table(found))
    write_atomically(out / "audit.json", json.dumps(without_nan(found.results), indent=1, allow_nan=False) + "\n")
    return found


def find(made: Volumes, real: Volumes, apart: Volumes | None, options: Options, bar: Bar) -> Findings:
    """Everything that can be said about the samples; nothing is written."""
    sets = [real, made] + ([apart] if apart is not None else [])
    described = features.standardised_by(*(_described(one, bar) for one in sets))
    copies = find_copies(made, real, apart, described, bar, options.seed)
    method = method_for(real, apart, options.segmenter_steps, options.seed, bar)
    of_made, of_real = (_measured(one, method, bar) for one in (made, real))
    quality = Quality(*(_quality(one, method, bar) for one in (made, real)))
    likeness = {one.role: _likeness(one, options, bar) for one in sets}
    axes, distances = fidelity(
        {one.role: vectors[:, 0] for one, vectors in zip(sets, described, strict=True)}, options.seed
    )
    judged = copies.as_json(options.seed)
    other = another_reference(made, real)
    gate = verdict(judged, options.max_copies, [other] if other else [])
    results = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "corpora": {one.role.replace("-", "_"): _about(one) for one in (made, real, *([apart] if apart else []))},
        "grid": {"shape": list(made.shape), "spacing_mm": [digits(s) for s in made.spacing], "coarsened": made.factor},
        "options": asdict(options),
        "verdict": gate,
        "copies": judged,
        "fidelity": distances,
        "diversity": _diversity(likeness, made, options),
        "volumes": {"method": method.as_json(), "regions": compared(of_made, of_real)},
        "listening": listening(made, of_made, real, of_real, options.seed),
        "quality": {"masks": method.name, "metrics": quality.as_json()},
        "not_judged": [*gate["why"], *not_judged(made, real, apart, of_made, quality)],
    }
    return Findings(made, real, apart, results, copies, of_made, of_real, quality, axes, likeness)


def _described(volumes: Volumes, bar: Bar) -> npt.NDArray[np.float32]:
    with bar(f"features, {volumes.role}") as show:
        return features.describe_all(volumes, show)


def _measured(volumes: Volumes, method: Method, bar: Bar) -> Measured:
    with bar(f"volumes, {volumes.role}") as show:
        return measure(volumes, method, show)


def _quality(volumes: Volumes, method: Method, bar: Bar) -> dict[str, Doubles]:
    with bar(f"image quality, {volumes.role}") as show:
        return quality_of(volumes, method, show)


def _likeness(volumes: Volumes, options: Options, bar: Bar) -> Doubles:
    with bar(f"MS-SSIM, {volumes.role}") as show:
        return diversity.ms_ssim(volumes, options.pairs, options.seed, show)


def _about(volumes: Volumes) -> dict[str, Any]:
    corpus = volumes.corpus
    return {
        "name": corpus.name,
        "identity": corpus.identity(),
        "volumes": len(corpus),
        "generator": corpus.header.recipe["generator"]["class_path"],
        "seed": corpus.header.seed,
        "label_maps": corpus.has_labels,
    }


def without_nan(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _diversity(likeness: dict[str, Doubles], made: Volumes, options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"scales": diversity.scales(made.shape), "pairs": options.pairs}
    for role, values in likeness.items():
        found[role.replace("-", "_")] = bootstrap_mean(values, options.seed, f"likeness {role}").as_json()
    return found


def _copies_table(found: Findings) -> str:
    """One line a sample: nearest reference volume and verdict, in both spaces."""
    pixels, space = found.copies.pixels, found.copies.features
    lines = [
        "sample\tcopy\treference\tmirrored\tshift_x\tshift_y\tshift_z\tdistance\tratio\tfeature_reference\tfeature_ratio"
    ]
    for i in range(len(found.synthetic)):
        row: list[object] = [i, int(found.copies.copied[i]), pixels.samples.index[i], int(pixels.samples.mirrored[i])]
        row += [
            *pixels.samples.shift[i],
            digits(float(pixels.samples.distance[i])),
            digits(float(pixels.samples.ratio[i])),
        ]
        row += [space.samples.index[i], digits(float(space.samples.ratio[i]))]
        lines.append("\t".join(map(str, row)))
    return "\n".join(lines) + "\n"
