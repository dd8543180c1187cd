"""What the tests of pre-training share: a corpus with a planted signal, small and seen once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from synth.corpus import Corpus

if TYPE_CHECKING:
    import pandas as pd


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """24 heads of 16³ voxels whose blob grows with age; label maps of three structures."""
    from pretrain.testing import planted_corpus

    return planted_corpus(tmp_path_factory.mktemp("planted") / "blobs.zarr", 24)


@dataclass(frozen=True, eq=False)
class Told:
    """A corpus of no voxels: its covariates and its shape are all that some objectives look at."""

    table: pd.DataFrame
    image_shape: tuple[int, int, int, int] = (1, 16, 16, 16)
    path: str = "told.zarr"
    has_labels: bool = False
    complete: bool = True

    def entry(self, index: int) -> dict[str, Any]:
        """What stands of one sample."""
        return {"covariates": self.table.iloc[index].to_dict()}

    def covariates(self) -> pd.DataFrame:
        """One row per sample."""
        return self.table


@pytest.fixture
def told() -> Any:
    """Makes a corpus that is only told of: columns by name."""
    import pandas as pd

    def make(**columns: Any) -> Told:
        return Told(pd.DataFrame(columns))

    return make
