"""What a latent diffusion model is told about a person: covariates as one vector of numbers in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.corpus import Corpus
from synth.errors import UserError, near
from synth.sample import Covariate

UNTOLD = -1.0
"""Every entry of the vector when the model is told nothing (classifier-free guidance, Ho & Salimans 2022)."""


@dataclass(frozen=True)
class Condition:
    """One covariate as learnt from a corpus: a number with its range, or a word with its categories.

    Attributes:
        name: the covariate's name.
        low, high: range of a number in its own unit (age in years); 0 and 0 of a word.
        words: categories in alphabetical order; empty for a number.
        shares: how often each word occurs in the corpus, sum 1.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    words: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Entries in the vector: one for a number or for two words (0 and 1), else one per word (one-hot)."""
        return len(self.words) if len(self.words) > 2 else 1

    def encode(self, value: Covariate) -> list[float]:
        """The entries of one value, each in [0, 1]."""
        if not self.words:
            return [(float(value) - self.low) / (self.high - self.low) if self.high > self.low else 0.0]
        place = self.words.index(str(value))
        return [float(place)] if self.width == 1 else [float(at == place) for at in range(self.width)]

    def draw(self, rng: np.random.Generator) -> Covariate:
        """A value: a number uniform in the range, a word as often as in the corpus."""
        if self.words:
            return self.words[int(rng.choice(len(self.words), p=np.array(self.shares) / sum(self.shares)))]
        value = float(rng.uniform(self.low, self.high))
        return float(np.clip(round(value, 2), self.low, self.high)) if self.name == "age" else value

    def as_json(self) -> dict[str, Any]:
        """A record for config.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Condition:
        """The condition of a record from config.json."""
        return cls(**{**record, "words": tuple(record["words"]), "shares": tuple(record["shares"])})


def learn(corpus: Corpus, names: Sequence[str]) -> list[Condition]:
    """Ranges and categories of the named covariates in a corpus.

    Raises:
        UserError: no name, a name twice, one that the corpus lacks, or one that some volumes lack.
    """
    if not names or len(set(names)) != len(names):
        raise UserError(f"--conditions is '{','.join(names)}'; expected one or more covariates, none of them twice")
    table = corpus.covariates()
    for name in names:
        if name not in table.columns:
            raise UserError(
                f"corpus '{corpus.path}' has no covariate '{name}'; near names: {near(name, table.columns)}"
            )
        if missing := int(table[name].isna().sum()):
            raise UserError(
                f"covariate '{name}' is missing in {missing} volume(s) of '{corpus.path}'; expected it in all"
            )
    return [_learn_one(name, table[name].tolist()) for name in names]


def _learn_one(name: str, values: list[Any]) -> Condition:
    if not any(isinstance(value, str) for value in values):
        return Condition(name, float(min(values)), float(max(values)))
    found = [str(value) for value in values]
    words = tuple(sorted(set(found)))
    return Condition(name, words=words, shares=tuple(round(found.count(word) / len(found), 6) for word in words))


def width(conditions: Sequence[Condition]) -> int:
    """Length K of the condition vector."""
    return sum(condition.width for condition in conditions)


def encode(conditions: Sequence[Condition], covariates: Mapping[str, Covariate]) -> npt.NDArray[np.float32]:
    """The condition vector ``[K]`` of one person, every entry in [0, 1]."""
    entries = [entry for condition in conditions for entry in condition.encode(covariates[condition.name])]
    return np.array(entries, np.float32)
