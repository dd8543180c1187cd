"""Cohort: participants with scans, targets and sites — from a BIDS folder or a corpus."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.anatomy.source import sha256_of
from synth.bids import SIMULATED_PARENT, data_set_name, read_participants, with_our_names
from synth.corpus import Corpus
from synth.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Cohort:
    """People to learn from and to test on.

    Attributes:
        name: of the data set.
        table: one row per participant, indexed by ``participant_id``; columns age (years), sex, diagnosis (CN, MCI, AD,
            PD or as given), site where known, and every other column of the source.
        scans: participant → NIfTI file (BIDS) or sample number (corpus).
        corpus: the corpus the cohort is, or None for BIDS.
        parents: what the cohort derives from; empty for real people.
        simulated: whether these people exist only in a computer.
    """

    name: str
    table: pd.DataFrame
    scans: dict[str, Path | int]
    corpus: Corpus | None = None
    parents: list[dict[str, Any]] = field(default_factory=list)
    simulated: bool = False


def load_cohort(folder: Path) -> Cohort:
    """A BIDS folder or a corpus.

    Raises:
        UserError: no such folder, neither BIDS nor corpus, duplicate participants, a participant without a T1w scan.
    """
    if not folder.is_dir():
        raise UserError(f"there is no cohort '{folder}'; expected a BIDS folder or a corpus")
    if (folder / "zarr.json").is_file():
        return _from_corpus(Corpus(folder))
    if not (folder / "participants.tsv").is_file():
        raise UserError(f"cohort '{folder}' has no participants.tsv; expected a BIDS folder or a corpus")
    return _from_bids(folder)


def _from_corpus(corpus: Corpus) -> Cohort:
    """Samples as participants; of a corpus of scans its participants, each with the first of their scans."""
    table = corpus.covariates()
    table.index = [f"sample{index:06d}" for index in range(len(corpus))]
    if "participant_id" in table.columns:  # else two sessions of somebody could be on both sides of a split
        names = table.pop("participant_id")
        table.index = names.where(names.notna(), table.index.to_series()).tolist()
    table.index.name = "participant_id"
    scans: dict[str, Path | int] = {}
    for index, name in enumerate(table.index):
        scans.setdefault(str(name), index)
    table = table[~table.index.duplicated()]
    parent = corpus.parent()
    kinds = {above.get("kind") for above in parent["parents"]}
    return Cohort(
        corpus.name,
        with_our_names(table),
        scans,
        corpus,
        [parent],
        simulated="scan" not in kinds or "corpus" in kinds,
    )


def _from_bids(folder: Path) -> Cohort:
    table = read_participants(folder)
    scans = {name: _scan(folder, name) for name in table.index}
    parents, simulated = [], False
    if (folder / SIMULATED_PARENT).is_file():
        parents, simulated = [json.loads((folder / SIMULATED_PARENT).read_text())], True
    return Cohort(data_set_name(folder), with_our_names(table), dict(scans), None, parents, simulated)


def _scan(folder: Path, participant: str) -> Path:
    """The participant's first T1w scan; sessions and runs in name order."""
    own = folder / participant
    found = sorted(path for path in own.rglob("*_T1w.nii*") if path.parent.name == "anat")
    if not found:
        raise UserError(
            f"participant {participant} of '{folder}' has no scan; expected {participant}/**/anat/*_T1w.nii.gz, "
            "or leave the row out of participants.tsv"
        )
    return found[0]


def refuse_leak(cohort: Cohort, weights_corpus: dict[str, Any], weights: str) -> None:
    """Raise UserError when weights were made from people, or simulated draws, that the cohort holds.

    Shared are: the very corpus; draws of one generator under one seed; label maps of the same people, or scans; the
    cohort a generator was trained on. The built-in template is nobody's anatomy and may be shared.
    """
    for parent in cohort.parents:
        if parent.get("identity") == weights_corpus.get("identity"):
            raise UserError(
                f"weights '{weights}' were pre-trained on this very cohort ({parent.get('name')}); use another"
            )
        same_class = _class_of(parent) == _class_of(weights_corpus) and not _is_of_scans(parent)
        if same_class and parent.get("seed") == weights_corpus.get("seed"):
            raise UserError(
                f"weights '{weights}' and the cohort were both drawn by {_class_of(parent)} with seed "
                f"{parent.get('seed')}: the same people; generate the cohort with another --seed"
            )
    seen = _people(weights_corpus)
    held = {key for parent in cohort.parents for key in _people(parent)}
    if _people(weights_corpus, ("scan",)):  # only then is it worth reading the cohort's files
        held |= {sha256_of(scan) for scan in cohort.scans.values() if isinstance(scan, Path)}
    shared = seen & held
    if shared:
        raise UserError(
            f"weights '{weights}' and the cohort derive from the same {len(shared)} label map(s) or scans; "
            "an evaluation must not share people with pre-training"
        )


def _class_of(parent: dict[str, Any]) -> str:
    return str(parent.get("recipe", {}).get("generator", {}).get("class_path"))


def _is_of_scans(parent: dict[str, Any]) -> bool:
    """Whether a corpus was made of scans, of which no seed says who is in them."""
    return any(above.get("kind") == "scan" for above in parent.get("parents", []))


def _people(parent: dict[str, Any], kinds: tuple[str, ...] = ("label map", "scan")) -> set[str]:
    """Checksums of every label map or scan of a person among a record's parents, all generations."""
    found = set()
    for above in parent.get("parents", []):
        if above.get("kind") in kinds and above.get("sha256"):
            found.add(str(above["sha256"]))
        found |= _people(above, kinds)
    return found
