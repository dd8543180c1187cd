"""From what a generator learnt, as its samples have written down, and whether the corpora of an audit agree with that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synth.audit.grid import Volumes
from synth.errors import UserError
from synth.provenance import ancestors


def training_corpus(made: Volumes) -> Mapping[str, Any] | None:
    """The record of the corpus that the generator's weights learnt from; None where there are no weights, or where these
    name none (published ones)."""
    above = list(ancestors(made.corpus.header.parents))
    for at, parent in enumerate(above):
        if parent.get("kind") == "generator weights":
            return next((one for one in above[at + 1 : at + 2] if one.get("kind") == "corpus"), None)
    return None


def check_held_out(made: Volumes, held_out: Volumes) -> None:
    """Raise UserError where the samples derive from the held-out corpus: it taught the generator, or gave label maps."""
    identity = held_out.corpus.identity()
    if any(identity in (one.get("identity"), one.get("sha256")) for one in ancestors(made.corpus.header.parents)):
        raise UserError(
            f"--holdout '{held_out.corpus.path}' is among what '{made.corpus.path}' derives from; expected volumes that the "
            "generator never saw"
        )


def another_reference(made: Volumes, real: Volumes) -> str:
    """A sentence where the weights learnt from another corpus than the reference, else nothing."""
    learnt = training_corpus(made)
    if learnt is None or learnt.get("identity") == real.corpus.identity():
        return ""
    return (
        f"The generator learnt from corpus {learnt.get('name')} (identity {str(learnt.get('identity'))[:12]}…), and the "
        f"reference {real.corpus.name} is another one: whether training volumes were copied is not known. Audit against the "
        "corpus that it learnt from."
    )


def without_record(made: Volumes) -> str:
    """A sentence where the samples' weights do not say which corpus they learnt from, else nothing."""
    weights = [p for p in ancestors(made.corpus.header.parents) if p.get("kind") == "generator weights"]
    if not weights or training_corpus(made) is not None:
        return ""
    told = f" ({weights[0]['data']})" if weights[0].get("data") else ""
    return (
        f"The weights {weights[0].get('name')} do not record a corpus that they learnt from{told}: that the reference is it "
        "could not be checked."
    )


def shared_people(real: Volumes, held_out: Volumes | None) -> str:
    """A sentence where people of the reference are among the held-out ones too, else nothing."""
    if held_out is None:
        return ""
    both = {row.get("participant_id") for row in real.covariates} & {
        row.get("participant_id") for row in held_out.covariates
    }
    names = sorted(str(name) for name in both if name is not None)
    if not names:
        return ""
    return (
        f"{len(names)} participant(s), such as {names[0]}, are in the reference and among the held-out volumes: these are no "
        "strangers to the generator, and membership is worth less than it seems."
    )
