"""``brainloom pretrain probe``: finished weights beside an untrained backbone and shuffled covariates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pretrain.backbones import make_backbone
from pretrain.held_out import split
from pretrain.probes import Reading
from pretrain.probing import Outlook, Probe
from pretrain.weights import Weights, load_weights
from synth.corpus import Corpus
from synth.errors import UserError
from synth.keys import rng_for
from synth.sample import spacing_of
from synth.stream.merged import Merged


@dataclass(frozen=True)
class Comparison:
    """What was read from weights, from an untrained backbone of the same kind, and from weights with shuffled covariates.

    ``own``: whether the corpus is the one that the weights were trained on.
    """

    about: Weights
    probe: Probe
    own: bool
    trained: Outlook
    untrained: Outlook
    shuffled: tuple[Reading, ...]


def probe_weights(folder: Path, places: Sequence[str], samples: int) -> Comparison:
    """Probe finished weights on a corpus.

    Raises:
        UserError: no weights, no finished corpus, volumes of another shape or spacing, too few samples.
    """
    if samples < 32:
        raise UserError(f"--samples is {samples}; expected 32 or more")
    backbone, about = load_weights(folder)
    corpus = Merged([Corpus(place) for place in places])
    _check_fits(about, corpus)
    training, held_out = split(corpus)
    probe = Probe(corpus, training, held_out, samples)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fresh = make_backbone(about.word, about.shape, about.channels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, about folds with few of a class
        trained, untrained = probe.look(backbone.to(device)), probe.look(fresh.to(device))
        chance = probe.look(backbone, rng_for(0, 0, "shuffled covariates"))
    own = about.corpus.get("identity") == corpus.parent()["identity"]
    if not trained.readings:
        raise UserError(
            f"corpus '{corpus.path}' has {len(probe.held_out)} samples in its last tenth and covariates "
            f"{', '.join([*probe.targets.numbers, *probe.targets.words]) or 'none'}; expected 8 samples and one that varies"
        )
    return Comparison(about, probe, own, trained, untrained, chance.readings)


def _check_fits(about: Weights, corpus: Merged) -> None:
    if not corpus.complete:
        raise UserError(f"corpus '{corpus.path}' is not complete; run its generate command again to go on")
    shape, spacing = corpus.image_shape, spacing_of(np.array(corpus.entry(0)["affine"]))
    if shape != (about.channels, *about.shape) or not np.allclose(spacing, about.spacing, rtol=0.01):
        raise UserError(
            f"corpus '{corpus.path}' holds volumes {shape} at {spacing} mm; the weights expect "
            f"{(about.channels, *about.shape)} at {about.spacing} mm"
        )


def table(found: Comparison) -> list[str]:
    """The comparison as lines of text."""
    whose = "the corpus it was trained on" if found.own else "another corpus than it was trained on"
    lines = [
        f"{found.about.backbone}, {found.about.objective}, on {whose}: fitted to {len(found.probe.training)} volumes, "
        f"tested on {len(found.probe.held_out)} others",
        f"  {'covariate':<24} {'metric':<18} {'linear [95 %]':<22} {'kNN':>6} {'untrained':>10} {'shuffled':>9} {'chance':>7}",
    ]
    untrained = {reading.covariate: reading for reading in found.untrained.readings}
    shuffled = {reading.covariate: reading for reading in found.shuffled}
    for one in found.trained.readings:
        beside = [
            f"{other[one.covariate].linear:.2f}" if one.covariate in other else "–" for other in (untrained, shuffled)
        ]
        interval = f"{one.linear:.2f} [{one.low:.2f}, {one.high:.2f}]"
        lines.append(
            f"  {one.covariate:<24} {one.metric:<18} {interval:<22} {one.knn:>6.2f} {beside[0]:>10} {beside[1]:>9} {one.chance:>7.2f}"
        )
    lines.append(
        f"  RankMe {found.trained.rankme:.1f} (untrained {found.untrained.rankme:.1f}), spread {found.trained.spread:.3f} "
        f"(untrained {found.untrained.spread:.3f})"
    )
    if found.trained.alarm:
        lines.append(f"  warning: {found.trained.alarm}")
    return lines
