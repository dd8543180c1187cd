"""BIDS folders: scans, tables of people, and names that never lead out of the folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

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
    "MCI": ("mci",),
    "AD": ("ad", "alzheimer", "alzheimers", "alzheimer's disease", "dementia", "demented"),
    "PD": ("pd", "parkinson", "parkinsons", "parkinson's disease"),
}
FINER_WORDS = {"emci": "EMCI", "lmci": "LMCI", "smci": "sMCI", "pmci": "pMCI"}
"""Early, late, stable and progressive MCI: a task may ask for one of these, and all of them are MCI."""
DETAIL = "diagnosis_detail"
"""Column with the finer words, where a table has any; ``diagnosis`` then says MCI."""
PARTICIPANTS = "participants.tsv"
DESCRIPTION = "dataset_description.json"
SIMULATED_PARENT = Path("derivatives") / "brainloom" / "corpus.json"
"""Beside people that exist only in a computer: what ``Corpus.parent()`` says of the corpus they come from."""
ENDINGS = (".nii", ".nii.gz")


def inside(folder: Path, name: str | Path) -> Path:
    """Where the file ``name`` of ``folder`` really lies, every link followed.

    Raises:
        UserError: an absolute name, one with ``..``, or one whose links lead out of the folder.
    """
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or "\\" in str(name):
        raise UserError(f"'{name}' is no name inside '{folder}'; expected a relative path without ..")
    try:
        base, real = folder.resolve(), (folder / relative).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"'{name}' in '{folder}' cannot be followed ({error}); mend the link") from error
    if not real.is_relative_to(base):
        raise UserError(f"'{name}' is a link that leads out of '{folder}'; put what it points to into the folder")
    return real


def find_scans(folder: Path, suffix: str) -> list[str]:
    """Relative paths of every ``sub-*/[ses-*/]anat/*_SUFFIX.nii[.gz]``, in order of their names.

    Raises:
        UserError: no such folder, nothing in it, or a link that leads out of it or nowhere.
    """
    if not re.fullmatch(r"[0-9A-Za-z]+", suffix):
        raise UserError(f"suffix is '{suffix}'; expected a BIDS suffix such as T1w, T2w or FLAIR")
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}'; expected a BIDS folder with sub-*/anat/*_{suffix}.nii.gz")
    found = []
    for anat in _anat_folders(folder):
        for path in _listed(folder, anat, "*"):
            if path.name.endswith(tuple(f"_{suffix}{ending}" for ending in ENDINGS)) and path.name[0] != ".":
                name = path.relative_to(folder).as_posix()
                if not inside(folder, name).is_file():
                    raise UserError(f"scan '{path}' is no file; if it is a link to nothing, fetch what it stands for")
                found.append(name)
    if not found:
        raise UserError(
            f"'{folder}' holds no {suffix} scan; expected a BIDS folder with sub-*/[ses-*/]anat/*_{suffix}.nii[.gz]"
        )
    return sorted(found)


def _anat_folders(folder: Path) -> Iterator[Path]:
    for subject in _listed(folder, folder, "sub-*"):
        for owner in (subject, *_listed(folder, subject, "ses-*")):
            yield from _listed(folder, owner, "anat")


def _listed(folder: Path, place: Path, pattern: str) -> list[Path]:
    """What lies in ``place``, which is looked into only where it lies inside ``folder``."""
    if not place.is_dir():
        return []
    inside(folder, place.relative_to(folder))
    return sorted(place.glob(pattern))


def entities(name: str) -> dict[str, str]:
    """``participant_id`` and, where there is one, ``session`` of a scan's relative path, each as its folder is called."""
    parts = PurePosixPath(name).parts
    session = {"session": parts[1]} if parts[1].startswith("ses-") else {}
    return {"participant_id": parts[0], **session}


def read_participants(folder: Path) -> pd.DataFrame:
    """participants.tsv, indexed by ``participant_id``; ``n/a`` is missing.

    Raises:
        UserError: not a table, no column participant_id, somebody twice, a name that is no ``sub-…``.
    """
    table = read_table(folder / PARTICIPANTS, "participant_id")
    if "participant_id" not in table.columns:
        raise UserError(f"'{folder / PARTICIPANTS}' has no column participant_id; it has {', '.join(table.columns)}")
    repeated = table["participant_id"][table["participant_id"].duplicated()].tolist()
    if repeated:
        raise UserError(
            f"participants.tsv of '{folder}' lists {repeated[0]} more than once; expected one row a participant"
        )
    for name in map(str, table["participant_id"]):
        if Path(name).name != name or not name.startswith("sub-"):
            raise UserError(f"participants.tsv of '{folder}' holds '{name}'; expected names such as sub-01")
    return table.set_index("participant_id")


def read_table(path: Path, key: str) -> pd.DataFrame:
    """A tab-separated table; ``n/a`` is missing, the column ``key`` is words. Raises UserError when it is none."""
    import pandas as pd

    try:
        return pd.read_csv(path, sep="\t", na_values=["n/a"], dtype={key: str})
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"'{path}' is not a table ({reason}); expected tab-separated values") from error


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON mapping; empty where it is absent or is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def data_set_name(folder: Path) -> str:
    """``Name`` of dataset_description.json, else the folder's own."""
    return str(read_json(folder / DESCRIPTION).get("Name", folder.resolve().name))


def stated_name(folder: Path) -> str:
    """``Name`` that real people's data set gives itself; empty where it gives none, or where the people are simulated."""
    if (folder / SIMULATED_PARENT).is_file():
        return ""
    return str(read_json(folder / DESCRIPTION).get("Name") or "").strip()


def licence_of(folder: Path) -> str:
    """``License`` of dataset_description.json, else ``not stated``. Raises UserError when it leads out of the folder."""
    return str(read_json(inside(folder, DESCRIPTION)).get("License") or "not stated")


def diagnosis_word(value: Any) -> Any:
    """Our word for a diagnosis: CN, MCI, AD, PD, or EMCI, LMCI, sMCI, pMCI; any other value as it is."""
    key = str(value).strip().lower()
    if key in FINER_WORDS:
        return FINER_WORDS[key]
    return next((ours for ours, known in DIAGNOSIS_WORDS.items() if key in known), value)


def diagnosis_group(value: Any) -> Any:
    """As :func:`diagnosis_word`, all kinds of MCI being MCI."""
    return "MCI" if str(value).strip().lower() in FINER_WORDS else diagnosis_word(value)


def with_our_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Our column names beside the source's own, values as they are."""
    table = table.copy()
    for ours, theirs in COLUMN_NAMES.items():
        for name in theirs:
            if name in table.columns:
                table[ours] = table[name]
                break
    return table


def with_our_names(table: pd.DataFrame) -> pd.DataFrame:
    """Our column names and diagnosis words beside the source's own; finer words than MCI stand under ``diagnosis_detail``."""
    table = with_our_columns(table)
    if "diagnosis" in table.columns:
        words = [diagnosis_word(value) for value in table["diagnosis"]]
        table["diagnosis"] = [diagnosis_group(word) for word in words]
        if any(word in FINER_WORDS.values() for word in words):
            table[DETAIL] = words
    return table
