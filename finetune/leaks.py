"""The leak guard: nobody who is tested is in what was trained on, be it the cohort, the pre-training or a generator."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from finetune.index import remembered
from synth.anatomy.source import sha256_of
from synth.errors import UserError
from synth.nifti import read_scan, voxel_digest
from synth.provenance import ancestors

if TYPE_CHECKING:
    from finetune.cohort import Cohort
    from finetune.splits import Split

Record = Mapping[str, Any]
Key = tuple[str, ...]
"""What tells people and scans apart: ("sha256", …) of a file, ("voxels", …), ("person", data set, participant)."""


def refuse_leak(cohort: Cohort, weights_corpus: Record, weights: str, tested: set[str] | None = None) -> None:
    """Raise UserError when weights were made from people, or simulated draws, that the cohort holds.

    Shared are, in any generation above the weights (the corpus they saw, the generator that made it, what the generator
    was trained on): the very corpus; draws of one generator under one seed; label maps of the same people; scans with
    the same bytes or the same voxels; other scans of the same participant of the same data set. The built-in template
    is nobody's anatomy and may be shared.

    Args:
        cohort: the people.
        weights_corpus: parent record of a corpus that the weights saw.
        weights: what the sentence calls them.
        tested: the participants who are tested, all if None; scans of others may be shared.
    """
    if "mixture" in weights_corpus.get("recipe", {}):
        for part in weights_corpus["parents"]:
            refuse_leak(cohort, part, weights, tested)
        return
    seen = list(ancestors([weights_corpus]))
    _refuse_corpora(list(_same_people(cohort.parents)), seen, weights)
    _refuse_people(cohort, seen, weights, tested)


def _same_people(parents: Iterable[Record]) -> Iterator[Record]:
    """The corpora whose people are the cohort's: its own record and, where it is made of their scans, that above it."""
    for parent in parents:
        if parent.get("kind", "corpus") == "corpus":
            yield parent
            if re.split(r"[.:]", _class_of(parent))[-1] == "Scans":
                yield from _same_people(above for above in parent.get("parents", []) if above.get("kind") == "corpus")


def _refuse_corpora(held: Sequence[Record], seen: Sequence[Record], weights: str) -> None:
    for generation, above in enumerate(seen):
        for own in held:
            if _same_corpus(own, above):
                how = "on" if generation == 0 else "on what was made from"
                raise UserError(
                    f"weights '{weights}' were pre-trained {how} this very cohort ({own.get('name')}); use another"
                )
            if _same_draws(own, above):
                what = "the cohort" if generation == 0 else "the cohort and a corpus above the weights"
                raise UserError(
                    f"weights '{weights}' and the cohort were both drawn by {_class_of(own)} with seed "
                    f"{own.get('seed')} ({what}): the same people; generate the cohort with another --seed"
                )


def _same_corpus(own: Record, above: Record) -> bool:
    return bool(above.get("identity")) and own.get("identity") == above["identity"]


def _same_draws(own: Record, above: Record) -> bool:
    """Whether one generator drew both under one seed; of scans no seed says who is in them."""
    drawn = _class_of(above) and _class_of(own) == _class_of(above) and not (_of_scans(own) or _of_scans(above))
    return bool(drawn) and own.get("seed") == above.get("seed")


def _class_of(parent: Record) -> str:
    return str(parent.get("recipe", {}).get("generator", {}).get("class_path") or "")


def _of_scans(parent: Record) -> bool:
    """Whether a corpus was made of scans, of which no seed says who is in them."""
    return any(above.get("kind") == "scan" for above in parent.get("parents", []))


def _refuse_people(cohort: Cohort, seen: Sequence[Record], weights: str, tested: set[str] | None) -> None:
    found = {key: record for record in seen for key in _keys(record)}
    held = _held(cohort, {key[0] for key in found})
    shared = [key for key in found if key in held and (not held[key] or tested is None or held[key] in tested)]
    scans = {str(found[key].get("sha256")) for key in shared if key[0] != "person"}
    if scans:
        raise UserError(
            f"weights '{weights}' and the cohort derive from the same {len(scans)} label map(s) or scans; "
            "an evaluation must not share people with pre-training"
        )
    if shared:
        names = sorted({key[2] for key in shared})
        raise UserError(
            f"weights '{weights}' were made from scans of {len(names)} participant(s) of the cohort "
            f"({', '.join(names[:3])} of data set '{found[shared[0]].get('data_set')}'); "
            "an evaluation must not share people with pre-training: leave them out of one of the two"
        )


def refuse_shared(cohort: Cohort, external: Cohort) -> None:
    """Raise UserError when an external cohort holds people, or simulated draws, that the cohort or what it was made of holds.

    The same is asked as of weights by :func:`refuse_leak`, in both directions: which of the two was made of the other's
    people does not matter.
    """
    told = f"external cohort '{external.name}' and cohort '{cohort.name}'"
    for one, other in ((cohort, external), (external, cohort)):
        for own in _same_people(one.parents):
            for above in ancestors(other.parents):
                if _same_corpus(own, above):
                    raise UserError(f"{told} are one corpus, or one was made from the other; expected other people")
                if _same_draws(own, above):
                    raise UserError(
                        f"{told} were both drawn by {_class_of(own)} with seed {own.get('seed')}: the same people; "
                        "generate one of them with another --seed"
                    )
    ours, theirs = (
        _held(one, {key[0] for record in ancestors(other.parents) for key in _keys(record)})
        for one, other in ((cohort, external), (external, cohort))
    )
    shared = set(ours) & set(theirs)
    if shared:
        names = sorted({ours[key] or theirs[key] for key in shared} - {""})
        raise UserError(
            f"{told} share participants or scans ({', '.join(names[:3]) or f'{len(shared)} label maps or scans'}); "
            "an external cohort must share nobody: leave them out of one of the two"
        )


def _keys(record: Record) -> Iterator[Key]:
    """By what a label map or scan of a person is known; nothing for any other record."""
    if record.get("kind") not in ("label map", "scan"):
        return
    for name in ("sha256", "voxels"):
        if record.get(name):
            yield name, str(record[name])
    if record.get("kind") == "scan" and record.get("data_set") and record.get("name"):
        yield _person(str(record["data_set"]), PurePosixPath(str(record["name"])).parts[0])


def _person(data_set: str, participant: str) -> Key:
    return "person", " ".join(data_set.casefold().split()), participant


def _held(cohort: Cohort, kinds: set[str]) -> dict[Key, str]:
    """Key → participant (empty where no single one) of everybody in the cohort; files are read only where it matters."""
    held: dict[Key, str] = {}
    names = set(cohort.people(cohort.scans)) if cohort.corpus is not None else set()
    for record in ancestors(cohort.parents):
        whose = PurePosixPath(str(record.get("name", ""))).parts[:1] if record.get("kind") == "scan" else ()
        owner = whose[0] if whose and whose[0] in names else ""
        held.update({key: owner for key in _keys(record)})
    if cohort.data_set:
        held.update({_person(cohort.data_set, name): name for name in cohort.files})
    owners = {path: name for name, paths in cohort.files.items() for path in paths}
    for kind, make in (("sha256", sha256_of), ("voxels", _voxels_of)):
        if kind in kinds and owners:
            folder = _folder_of(cohort)
            held.update({(kind, said): owners[path] for path, said in remembered(folder, kind, owners, make) if said})
    return held


def _folder_of(cohort: Cohort) -> Path:
    name, paths = next((name, paths) for name, paths in cohort.files.items() if paths)
    return next(above.parent for above in paths[0].parents if above.name == name)


def _voxels_of(path: Path) -> str:
    """Digest of a scan's voxels; empty for one that cannot be read, which is refused where it is used."""
    try:
        return voxel_digest(read_scan(path)[0])
    except UserError:
        return ""


def refuse_twins(cohort: Cohort, rows: Sequence[str], digests: Mapping[str, str], splits: Iterable[Split]) -> None:
    """Raise UserError when one participant is trained on whose scan has the very voxels of another who is tested.

    Args:
        cohort: the people.
        rows: of the cohort, at the positions that splits speak of.
        digests: row → digest of its voxels.
        splits: every split of the experiment.
    """
    people = cohort.people(rows)
    groups: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(digests[row], []).append(position)
    twins = [group for group in groups.values() if len({people[position] for position in group}) > 1]
    if not twins:
        return
    for split in splits:
        train, test = set(split.train.tolist()), set(split.test.tolist())
        for group in twins:
            learnt, asked = [p for p in group if p in train], [p for p in group if p in test]
            if learnt and asked:
                raise UserError(
                    f"participants {people[learnt[0]]} and {people[asked[0]]} of cohort '{cohort.name}' have the same "
                    "voxels, and one would be trained on and the other tested; leave one out of participants.tsv"
                )
