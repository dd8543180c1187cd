"""Whom a diffusion model is asked for: covariates drawn from ranges, from a table, or from a corpus of label maps."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from synth.anatomy.source import sha256_of
from synth.bids import read_table, with_our_names
from synth.corpus import Corpus
from synth.covariates import covariates_of
from synth.diffusion.conditions import Condition
from synth.errors import UserError
from synth.sample import Covariate

Person = dict[str, Covariate]


class People(Protocol):
    """Where persons come from."""

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """``conditions`` of one person, and whatever says who it was."""

    def parents(self) -> list[dict[str, Any]]:
        """Files that persons are drawn from."""


class Ranges:
    """Numbers uniform in their ranges and independent of one another, words as often as in the training corpus."""

    def __init__(self, conditions: Sequence[Condition]) -> None:
        self.conditions = list(conditions)

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """One value a condition."""
        return {"conditions": {condition.name: condition.draw(rng) for condition in self.conditions}}

    def parents(self) -> list[dict[str, Any]]:
        """None."""
        return []


class Table:
    """Rows of a tab-separated file, each as likely as any other.

    Args:
        path: with a column for every condition, by its name or one that cohorts use for it (diagnosis: dx, group …).
            Numbers outside the trained range are taken as its end, which is said once.
        conditions: what the model is told.
        partly: whether single values may be missing; they are left to the model.

    Raises:
        UserError: no such file, a column that is not there, a value that is missing, a word that was not learnt.
    """

    def __init__(self, path: Path, conditions: Sequence[Condition], partly: bool = False) -> None:
        self.path = Path(path)
        table = with_our_names(read_table(self.path, "participant_id"))
        found = covariates_of(table, [c.name for c in conditions])
        if not found:
            raise UserError(f"'{self.path}' has no rows; expected one a person")
        some = [condition for condition in conditions if any(condition.value(row) is not None for row in found)]
        self.rows: list[Person] = []
        for number, row in enumerate(found):
            where = f"row {number + 1} of '{self.path}'"
            _checked(row, [condition for condition in conditions if condition not in some], where)
            self.rows.append(_checked(row, conditions, where, partly))
        self.outside = [_outside(condition, found) for condition in some if not condition.words]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """The conditions of one row, and its number."""
        row = int(rng.integers(len(self.rows)))
        return {"conditions": self.rows[row], "row": row}

    def parents(self) -> list[dict[str, Any]]:
        """The file. Says once which of its numbers lie outside the trained ranges."""
        if sentences := [sentence for sentence in self.outside if sentence]:
            print(f"brainloom: warning: '{self.path}': {'; '.join(sentences)}", file=sys.stderr)
        self.outside = []
        return [{"kind": "table of people", "name": self.path.name, "sha256": sha256_of(self.path)}]


class Masks:
    """Samples of a corpus with label maps: the conditions are theirs, and volumes follow their label maps.

    Args:
        path: the corpus; grid and label numbers are those that the model was trained on.
        conditions: what the model is told.
        shape: voxels of the model's volumes.
        labels: label numbers that it knows.
        partly: whether a sample may lack conditions; they are left to the model.

    Raises:
        UserError: no such corpus, no label maps, another grid, a condition that is not there.
    """

    def __init__(
        self,
        path: Path,
        conditions: Sequence[Condition],
        shape: tuple[int, int, int],
        labels: dict[int, str],
        partly: bool = False,
    ) -> None:
        self.corpus, self.conditions, self.partly = Corpus(path), list(conditions), partly
        if not self.corpus.has_labels:
            raise UserError(f"corpus '{path}' has no label maps; expected one that LabelMap made")
        if self.corpus.image_shape[1:] != shape:
            raise UserError(
                f"label maps of '{path}' have {'×'.join(map(str, self.corpus.image_shape[1:]))} voxels; the weights were "
                f"trained on {'×'.join(map(str, shape))}"
            )
        strange = {int(number) for number in self.corpus.header.labels} - set(labels) - {0}
        if strange:
            raise UserError(
                f"'{path}' has label {min(strange)}, which the weights do not know; generate it as they were"
            )

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """The conditions of one sample, and its number."""
        number = int(rng.integers(len(self.corpus)))
        told = _checked(self.corpus.entry(number)["covariates"], self.conditions, f"sample {number}", self.partly)
        return {"conditions": told, "mask": number}

    def parents(self) -> list[dict[str, Any]]:
        """The corpus and what it was made from."""
        parent = dict(self.corpus.parent())
        further = parent.pop("parents", [])
        return [{**parent, "sha256": parent["identity"]}, *further]


def told_of(row: Person, conditions: Sequence[Condition]) -> Person:
    """Condition → value of one person, numbers outside the trained range at its end."""
    return _checked(row, conditions, "a person")


def _outside(condition: Condition, rows: Sequence[Person]) -> str:
    """How many rows have a number out of the trained range, in words; nothing if none."""
    values = [value for value in map(condition.value, rows) if value is not None]
    count = sum(not condition.low <= float(value) <= condition.high for value in values)
    if not count:
        return ""
    return (
        f"{condition.name} of {count} row(s) lies outside the trained range {condition.low:g} to {condition.high:g} and is "
        "taken as its end"
    )


def _checked(row: Person, conditions: Sequence[Condition], what: str, partly: bool = False) -> Person:
    """Condition → value, numbers outside the trained range at its end; with ``partly`` those that are missing are left out."""
    told: Person = {}
    for condition in conditions:
        value = condition.value(row)
        if value is None:
            if partly:
                continue
            raise UserError(
                f"{what} has no '{condition.name}', which the weights are told; give it or leave it --untold"
            )
        if condition.words:
            condition.encode(value)
            told[condition.name] = str(value)
        else:
            told[condition.name] = float(np.clip(_number(condition, value, what), condition.low, condition.high))
    return told


def _number(condition: Condition, value: Covariate, what: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{what}: {condition.name} is '{value}'; expected a number") from None


def narrowed(condition: Condition, ages: tuple[float, float] | None, diagnoses: tuple[str, ...]) -> Condition:
    """The condition as it is drawn: within the ages and diagnoses that were asked for."""
    if condition.name == "age" and ages is not None:
        if len(ages) != 2 or not condition.low <= ages[0] <= ages[1] <= condition.high:
            raise UserError(
                f"ages is {','.join(map(str, ages))}; expected youngest,oldest within the trained range "
                f"{condition.low:g},{condition.high:g}"
            )
        return replace(condition, low=float(ages[0]), high=float(ages[1]))
    if condition.name == "diagnosis" and diagnoses:
        return _among(condition, diagnoses, "diagnoses holds")
    return condition


def asked_for(text: str, conditions: Sequence[Condition]) -> list[Condition]:
    """The conditions as they are drawn under ``name=value,name=low:high,name=word|word``; words as often, relative to one
    another, as in the training corpus.

    Raises:
        UserError: a name that the weights are not told or that comes twice, a number out of the trained range, a word that
            was not learnt.
    """
    wishes = dict(_wish(part, text) for part in text.split(",")) if text else {}
    if text and len(wishes) < text.count(",") + 1:
        raise UserError(f"asked is '{text}'; expected every condition once (several words as site=A|B)")
    known = [condition.name for condition in conditions]
    for name in wishes:
        if name not in known:
            raise UserError(f"asked names '{name}', which the weights are not told; they are told {', '.join(known)}")
    return [_narrow(one, wishes[one.name]) if one.name in wishes else one for one in conditions]


def _wish(part: str, text: str) -> tuple[str, str]:
    name, equals, value = (piece.strip() for piece in part.partition("="))
    if not (name and equals and value):
        raise UserError(f"asked is '{text}'; expected such as sex=F,age=60:75,site=A|B")
    return name, value


def _narrow(condition: Condition, wish: str) -> Condition:
    if condition.words:
        return _among(
            condition, tuple(dict.fromkeys(word.strip() for word in wish.split("|"))), f"asked {condition.name} is"
        )
    try:
        low, high = float(wish.partition(":")[0]), float(wish.rpartition(":")[2])
    except ValueError:
        low = high = float("nan")
    if wish.count(":") > 1 or not condition.low <= low <= high <= condition.high:
        raise UserError(
            f"asked {condition.name} is '{wish}'; expected one number or low:high within the trained range "
            f"{condition.low:g}:{condition.high:g}"
        )
    return replace(condition, low=low, high=high)


def _among(condition: Condition, words: tuple[str, ...], what: str) -> Condition:
    unknown = [word for word in words if word not in condition.words]
    if unknown:
        raise UserError(f"{what} '{unknown[0]}'; the weights know {', '.join(condition.words)}")
    shares = dict(zip(condition.words, condition.shares, strict=True))
    return replace(condition, words=words, shares=tuple(shares[word] for word in words))
