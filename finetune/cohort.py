"""Cohort: participants with scans, targets and sites — from a BIDS folder or a corpus."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.corpus import Corpus
from synth.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

COLUMN_NAMES = {  # what cohorts call the columns, in the order they are looked for
    "age": ("age", "Age", "AGE", "age_at_scan"),
    "sex": ("sex", "Sex", "gender", "M/F"),
    "diagnosis": ("diagnosis", "group", "Group", "dx", "DX", "DX_bl"),
    "site": ("site", "Site", "center", "scanner_site"),
}
DIAGNOSIS_WORDS = {
    "CN": ("cn", "nc", "hc", "control", "controls", "healthy", "nondemented", "healthy control"),
    "MCI": ("mci", "emci", "lmci", "smci", "pmci"),
    "AD": ("ad", "alzheimer", "alzheimers", "alzheimer's disease", "dementia", "demented"),
    "PD": ("pd", "parkinson", "parkinsons", "parkinson's disease"),
}
SIMULATED_PARENT = Path("derivatives") / "brainloom" / "corpus.json"


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
    table = corpus.covariates()
    table.index = [f"sample{index:06d}" for index in range(len(corpus))]
    table.index.name = "participant_id"
    scans: dict[str, Path | int] = {str(name): index for index, name in enumerate(table.index)}
    return Cohort(corpus.name, _named(table), scans, corpus, [corpus.parent()], simulated=True)


def _from_bids(folder: Path) -> Cohort:
    import pandas as pd

    try:
        table = pd.read_csv(folder / "participants.tsv", sep="\t", na_values=["n/a"], dtype={"participant_id": str})
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(
            f"'{folder / 'participants.tsv'}' is not a table ({error}); expected tab-separated values"
        ) from error
    if "participant_id" not in table.columns:
        raise UserError(
            f"'{folder / 'participants.tsv'}' has no column participant_id; it has {', '.join(table.columns)}"
        )
    repeated = table["participant_id"][table["participant_id"].duplicated()].tolist()
    if repeated:
        raise UserError(
            f"participants.tsv of '{folder}' lists {repeated[0]} more than once; expected one row a participant"
        )
    table = table.set_index("participant_id")
    scans = {name: _scan(folder, name) for name in table.index}
    parents, simulated = [], False
    if (folder / SIMULATED_PARENT).is_file():
        parents, simulated = [json.loads((folder / SIMULATED_PARENT).read_text())], True
    return Cohort(_bids_name(folder), _named(table), dict(scans), None, parents, simulated)


def _scan(folder: Path, participant: str) -> Path:
    """The participant's first T1w scan; sessions and runs in name order."""
    own = folder / participant
    if Path(participant).name != participant or not participant.startswith("sub-"):
        raise UserError(f"participants.tsv of '{folder}' holds '{participant}'; expected names such as sub-01")
    found = sorted(path for path in own.rglob("*_T1w.nii*") if path.parent.name == "anat")
    if not found:
        raise UserError(
            f"participant {participant} of '{folder}' has no scan; expected {participant}/**/anat/*_T1w.nii.gz, "
            "or leave the row out of participants.tsv"
        )
    return found[0]


def _bids_name(folder: Path) -> str:
    path = folder / "dataset_description.json"
    try:
        return str(json.loads(path.read_text())["Name"])
    except (OSError, ValueError, KeyError):
        return folder.resolve().name


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """Our column names and diagnosis words beside the source's own."""
    table = table.copy()
    for ours, theirs in COLUMN_NAMES.items():
        for name in theirs:
            if name in table.columns:
                table[ours] = table[name]
                break
    if "diagnosis" in table.columns:
        words = {word: ours for ours, known in DIAGNOSIS_WORDS.items() for word in known}
        table["diagnosis"] = [words.get(str(value).strip().lower(), value) for value in table["diagnosis"]]
    return table


def refuse_leak(cohort: Cohort, weights_corpus: dict[str, Any], weights: str) -> None:
    """Raise UserError when weights were made from people, or simulated draws, that the cohort holds.

    Shared are: the very corpus; draws of one generator under one seed; label maps of the same people; the cohort a
    generator was trained on. The built-in template is nobody's anatomy and may be shared.
    """
    for parent in cohort.parents:
        if parent.get("identity") == weights_corpus.get("identity"):
            raise UserError(
                f"weights '{weights}' were pre-trained on this very cohort ({parent.get('name')}); use another"
            )
        same_class = _class_of(parent) == _class_of(weights_corpus)
        if same_class and parent.get("seed") == weights_corpus.get("seed"):
            raise UserError(
                f"weights '{weights}' and the cohort were both drawn by {_class_of(parent)} with seed "
                f"{parent.get('seed')}: the same people; generate the cohort with another --seed"
            )
    shared = _people(weights_corpus) & {key for parent in cohort.parents for key in _people(parent)}
    if shared:
        raise UserError(
            f"weights '{weights}' and the cohort derive from the same {len(shared)} label map(s) or scans; "
            "an evaluation must not share people with pre-training"
        )


def _class_of(parent: dict[str, Any]) -> str:
    return str(parent.get("recipe", {}).get("generator", {}).get("class_path"))


def _people(parent: dict[str, Any]) -> set[str]:
    """Checksums of every label map or scan of a person among a record's parents, all generations."""
    found = set()
    for above in parent.get("parents", []):
        if above.get("kind") in ("label map", "scan") and above.get("sha256"):
            found.add(str(above["sha256"]))
        found |= _people(above)
    return found
