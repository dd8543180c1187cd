"""benchmark realism: shares inside the real ranges, pictures, bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import realism, realism_figures
from synth.labelmap import LabelMap
from synth.quality import METRICS
from tests.conftest import Run
from tests.synth.test_labelmap import GRID, render


def rows_at(real: pd.DataFrame, column: str, count: int) -> pd.DataFrame:
    return pd.DataFrame({metric: [real.loc[metric, column]] * count for metric in METRICS})


def test_the_share_inside_counts_volumes_between_the_5th_and_95th_percentile() -> None:
    real = realism.real_percentiles()
    inside, outside = rows_at(real, "p50", 3), rows_at(real, "p95", 1) * 1.01
    table = realism.inside(pd.concat([inside, outside]), real)
    assert list(table.index) == list(METRICS)
    assert (table["inside"] == 0.75).all()
    words = realism.summary({"metrics": table.to_dict("index")})
    assert "75.0%" in words and "not reached" in words


def test_real_percentiles_ascend() -> None:
    real = realism.real_percentiles()
    assert set(real.index) == set(METRICS)
    assert ((real["p05"] < real["p50"]) & (real["p50"] < real["p95"])).all()


def test_a_synthetic_and_a_real_volume_are_drawn_side_by_side(tmp_path: Path) -> None:
    sample = render(LabelMap(**GRID))
    scan = (sample.image[0][::2, ::2, ::2], (8.0, 8.0, 8.0))
    realism_figures.side_by_side(sample, scan, tmp_path / "both.png")
    assert (tmp_path / "both.png").stat().st_size > 5_000


def test_white_matter_is_found_in_the_histogram() -> None:
    image = np.concatenate([np.full(8000, 0.1), np.full(5000, 0.6), np.full(9000, 1.0)]).astype(np.float32)
    image += np.random.Generator(np.random.Philox(0)).normal(0, 0.02, image.shape).astype(np.float32)
    image = np.random.Generator(np.random.Philox(1)).permutation(image)[:21952].reshape(28, 28, 28)
    assert realism_figures.white_level(image) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    "words, says",
    [
        (("--count", "0"), "--count is 0"),
        (("--cohort", "nowhere"), "holds no *_T1w.nii"),
        (("--out", "taken"), "'taken' is a file"),
        (("--workers", "-1"), "--workers is -1"),
        (("--anatomies", "nowhere"), "there is no folder 'nowhere'"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_made(
    words: tuple[str, str], says: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("mine")
    given = ("--out", "new", *words) if words[0] != "--out" else words
    answer = run("benchmark", "realism", *given)
    assert answer.code == 2 and says in answer.err and answer.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]
