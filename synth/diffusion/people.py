"""Whom a diffusion model is asked for: covariates drawn from ranges, from a table, or from a corpus of label maps."""

from __future__ import annotations

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
        conditions: what the model is told.

    Raises:
        UserError: no such file, a column that is not there, a value that is missing or out of the trained range.
    """

    def __init__(self, path: Path, conditions: Sequence[Condition]) -> None:
        self.path = Path(path)
        table = with_our_names(read_table(self.path, "participant_id"))
        self.rows: list[Person] = []
        for number, row in enumerate(covariates_of(table, [c.name for c in conditions])):
            self.rows.append(_checked(row, conditions, f"row {number + 1} of '{self.path}'"))
        if not self.rows:
            raise UserError(f"'{self.path}' has no rows; expected one a person")

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """The conditions of one row, and its number."""
        row = int(rng.integers(len(self.rows)))
        return {"conditions": self.rows[row], "row": row}

    def parents(self) -> list[dict[str, Any]]:
        """The file."""
        return [{"kind": "table of people", "name": self.path.name, "sha256": sha256_of(self.path)}]


class Masks:
    """Samples of a corpus with label maps: the conditions are theirs, and volumes follow their label maps.

    Args:
        path: the corpus; grid and label numbers are those that the model was trained on.
        conditions: what the model is told.
        shape: voxels of the model's volumes.
        labels: label numbers that it knows.

    Raises:
        UserError: no such corpus, no label maps, another grid, a condition that is not there or out of range.
    """

    def __init__(
        self, path: Path, conditions: Sequence[Condition], shape: tuple[int, int, int], labels: dict[int, str]
    ) -> None:
        self.corpus, self.conditions = Corpus(path), list(conditions)
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
        told = _checked(self.corpus.entry(number)["covariates"], self.conditions, f"sample {number}", clip=True)
        return {"conditions": told, "mask": number}

    def parents(self) -> list[dict[str, Any]]:
        """The corpus and what it was made from."""
        parent = dict(self.corpus.parent())
        further = parent.pop("parents", [])
        return [{**parent, "sha256": parent["identity"]}, *further]


def told_of(row: Person, conditions: Sequence[Condition]) -> Person:
    """Condition → value of one person, numbers outside the trained range at its end."""
    return _checked(row, conditions, "a person", clip=True)


def _checked(row: Person, conditions: Sequence[Condition], what: str, clip: bool = False) -> Person:
    told: Person = {}
    for condition in conditions:
        value = condition.value(row)
        if value is None:
            raise UserError(
                f"{what} has no '{condition.name}', which the weights are told; give it or leave it --untold"
            )
        if condition.words:
            told[condition.name] = str(value)
            condition.encode(value)
            continue
        number = float(value)
        if clip:
            number = float(np.clip(number, condition.low, condition.high))
        if not condition.low <= number <= condition.high:
            raise UserError(
                f"{what}: {condition.name} is {number:g}; expected the trained range {condition.low:g} to {condition.high:g}"
            )
        told[condition.name] = number
    return told


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
        unknown = [word for word in diagnoses if word not in condition.words]
        if unknown:
            raise UserError(f"diagnoses holds '{unknown[0]}'; the weights know {', '.join(condition.words)}")
        shares = dict(zip(condition.words, condition.shares, strict=True))
        return replace(condition, words=diagnoses, shares=tuple(shares[word] for word in diagnoses))
    return condition
