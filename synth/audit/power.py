"""Would the audit find copies at all? Near-copies made of the reference itself, of which everything is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synth.audit.grid import Floats, Volumes, coarsened, some, standardised
from synth.audit.planted import change, changed
from synth.corpus import Corpus
from synth.keys import rng_for

KNOWN = 20
SHARE = 0.5  # of them that must be found: an audit that rather misses a copy than finds it cannot pass anything


@dataclass(frozen=True, eq=False)
class KnownCopies(Volumes):
    """Near-copies of up to ``KNOWN`` volumes of a corpus: shifted, another brightness, noise, half of them mirrored.

    Attributes:
        seed: of what is done to them.
    """

    corpus: Corpus
    role: str = "known copies"
    seed: int = 0

    def __len__(self) -> int:
        return min(KNOWN, len(self.corpus))

    def image(self, index: int) -> Floats:
        """As :meth:`Volumes.image`, of one near-copy."""
        source = some(len(self.corpus), KNOWN)[index]
        params = change(rng_for(self.seed, index, "audit known copies"))
        return standardised(coarsened(changed(self.corpus.image(source)[0].astype(np.float32), params), self.factor))
