"""The command ``brainloom synth audit``."""

from __future__ import annotations

import sys
from pathlib import Path


def audit(
    synth: Path,
    /,
    reference: Path,
    out: Path,
    holdout: Path | None = None,
    max_copies: float = 0.01,
    seed: int = 0,
    segmenter_steps: int = 500,
    pairs: int = 100,
) -> int:
    """Fidelity, diversity, conditioning and memorisation of a synthetic corpus, as a page and as audit.json.

    Exit code 1 when more samples than --max-copies are judged copies of reference volumes, or when it cannot be said that
    there are fewer (too few samples, known copies missed, another reference than the generator learnt from), 0
    otherwise: a gate for a release. Minutes of work on a CPU; nothing is downloaded.

    Args:
        synth: folder of the corpus to audit.
        reference: corpus that its generator learnt from.
        out: folder of audit.html, audit.json, copies.tsv and the pictures.
        holdout: other volumes of the reference's source, which the generator never saw; without them membership cannot be
            judged.
        max_copies: share of samples, above 0 to 1, that may be copies: the exact 95 % interval must not reach beyond it.
        seed: of every random choice; the same inputs and seed give the same audit.json.
        segmenter_steps: training steps of the small segmenter that measures volumes.
        pairs: pairs of volumes of each corpus that diversity is measured on.
    """
    from synth.audit.audit import Options, run
    from synth.progress import progress_bar

    options = Options(max_copies, seed, segmenter_steps, pairs)
    found = run(synth, reference, holdout, out, options, progress_bar)
    copies, verdict = found.results["copies"], found.results["verdict"]
    print(
        f"{synth}: {copies['count']} of {copies['samples']} samples judged copies ({copies['rate']:.1%}); "
        f"the gate of {verdict['max_copies']:.1%} {verdict['state']}"
    )
    for sentence in verdict["why"]:
        print(f"brainloom: {sentence}", file=sys.stderr)
    print(f"page: {out / 'audit.html'}, results: {out / 'audit.json'}")
    return 0 if verdict["passes"] else 1
