"""What a latent diffusion model is told about a person: covariates as one vector of numbers in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.corpus import Corpus
from synth.errors import UserError, near
from synth.regions import BRAIN, VENTRICULAR, total
from synth.sample import Covariate

UNTOLD = -1.0
"""Entries of a condition that the model is not told (classifier-free guidance, Ho & Salimans 2022)."""
OUTERMOST = 0.01  # share of volumes at either end of a number's range that count as the range's end
SUMS = {"ventricular_volume": VENTRICULAR, "brain_volume": BRAIN}
"""Conditions that are sums of a corpus's covariates wherever it has none of that name: mm³."""


@dataclass(frozen=True)
class Condition:
    """One covariate as learnt from a corpus: a number with its range, or a word with its categories.

    Attributes:
        name: the covariate's name.
        low, high: range of a number in its own unit (age in years), beyond which it is told as the range's end; 0 and 0 of
            a word.
        words: categories in alphabetical order; empty for a number.
        shares: how often each word occurs in the corpus, sum 1.
        parts: covariates whose sum it is; empty where it is a covariate itself.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    words: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Entries in the vector: one for a number or for two words (0 and 1), else one per word (one-hot)."""
        return len(self.words) if len(self.words) > 2 else 1

    def encode(self, value: Covariate) -> list[float]:
        """The entries of one value, each in [0, 1]. Raises UserError for a word that was not learnt."""
        if self.words and str(value) not in self.words:
            raise UserError(f"{self.name} is '{value}'; the weights know {', '.join(self.words)}")
        if not self.words:
            share = (float(value) - self.low) / (self.high - self.low) if self.high > self.low else 0.0
            return [min(max(share, 0.0), 1.0)]
        place = self.words.index(str(value))
        return [float(place)] if self.width == 1 else [float(at == place) for at in range(self.width)]

    def value(self, covariates: Mapping[str, Covariate]) -> Covariate | None:
        """Its value among a sample's covariates: under its own name, or the sum of its parts; None if it is not there."""
        if self.name in covariates or not self.parts:
            return covariates.get(self.name)
        return total(covariates, self.parts)

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
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
        return cls(**fields)


def learn(corpus: Corpus, names: Sequence[str]) -> list[Condition]:
    """Ranges and categories of the named covariates in a corpus. ``name=a+b`` names a sum of covariates.

    Volumes that lack one are trained untold of it; how many is printed.

    Raises:
        UserError: no name, a name twice, one that the corpus lacks, or one that no volume has.
    """
    asked = [_parted(word) for word in names]
    if not asked or len({name for name, _ in asked}) != len(asked):
        raise UserError(f"--conditions is '{','.join(names)}'; expected one or more covariates, none of them twice")
    rows: list[dict[str, Covariate]] = [entry["covariates"] for entry in corpus.entries()]
    held = sorted({name for row in rows for name in row})
    return [_learn_one(corpus, name, _known(corpus, name, parts, held), rows) for name, parts in asked]


def _parted(word: str) -> tuple[str, tuple[str, ...]]:
    """``name=a+b`` as (name, (a, b)); a plain name has no parts."""
    name, equals, sum_of = word.partition("=")
    return name.strip(), tuple(part.strip() for part in sum_of.split("+")) if equals else ()


def _known(corpus: Corpus, name: str, parts: tuple[str, ...], held: Sequence[str]) -> tuple[str, ...]:
    """The parts of a condition that this corpus has; none where it has the condition itself.

    Raises:
        UserError: a condition or a part that the corpus lacks.
    """
    if not parts and name in held:
        return ()
    if not parts and name in SUMS and any(part in held for part in SUMS[name]):
        return tuple(part for part in SUMS[name] if part in held)
    for wanted in parts or (name,):
        if wanted not in held:
            raise UserError(f"corpus '{corpus.path}' has no covariate '{wanted}'; near names: {near(wanted, held)}")
    return parts


def _learn_one(corpus: Corpus, name: str, parts: tuple[str, ...], rows: Sequence[Mapping[str, Covariate]]) -> Condition:
    there = Condition(name, parts=parts)
    values = [value for value in (there.value(row) for row in rows) if value is not None]
    if not values:
        raise UserError(f"no volume of '{corpus.path}' has all of covariate '{name}'; expected it in some at least")
    if missing := len(rows) - len(values):
        print(f"{name}: {missing} of {len(rows)} volumes do not have it; the model is left untold of it there")
    if not any(isinstance(value, str) for value in values):
        low, high = np.quantile(np.array(values, np.float64), _ends(len(values)))
        return Condition(name, float(low), float(high), parts=parts)
    found = [str(value) for value in values]
    words = tuple(sorted(set(found)))
    return Condition(name, words=words, shares=tuple(round(found.count(word) / len(found), 6) for word in words))


def _ends(count: int) -> tuple[float, float]:
    """Quantiles that a range reaches from and to: of many values all but the outermost, of which a model sees too little."""
    return (OUTERMOST, 1 - OUTERMOST) if count * OUTERMOST >= 1 else (0.0, 1.0)


def width(conditions: Sequence[Condition]) -> int:
    """Length K of the condition vector."""
    return sum(condition.width for condition in conditions)


def encode(conditions: Sequence[Condition], covariates: Mapping[str, Covariate]) -> npt.NDArray[np.float32]:
    """The condition vector ``[K]`` of one person, every entry in [0, 1], or UNTOLD where a condition is not there."""
    entries: list[float] = []
    for condition in conditions:
        value = condition.value(covariates)
        entries += [UNTOLD] * condition.width if value is None else condition.encode(value)
    return np.array(entries, np.float32)


def spans(conditions: Sequence[Condition]) -> list[slice]:
    """Where each condition's entries are in the vector."""
    ends = np.cumsum([condition.width for condition in conditions]).tolist()
    return [slice(end - condition.width, end) for condition, end in zip(conditions, ends, strict=True)]
