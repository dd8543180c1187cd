"""kind: ranking — generators of known quality, and what a lead is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.degraded import Blurred, Noise
from benchmarks.matrix_figures import ranking, ranking_sentences, reliability
from benchmarks.ranking import RIGHT, summary
from pretrain.testing import planted_corpus
from synth.errors import UserError
from synth.keys import rng_for
from tests.benchmarks.profiles import PROFILE
from tests.conftest import Run


def row(source: str, task: str, value: float, width: float, higher: bool = True) -> dict[str, Any]:
    about = {"task": task, "percent": 100, "backbone": "b", "objective": "o", "mode": "frozen"}
    metric = {"m": {"value": value, "low": value - width / 2, "high": value + width / 2}}
    kind = {"main_metric": "m", "higher_is_better": higher}
    return {"source": source, "metrics": {"all": metric}, **about, **kind}


def test_a_task_at_chance_counts_for_nothing_and_a_clear_one_in_full() -> None:
    tasks = ("ad", "pd", "memory")
    noise = [row(*told) for task in tasks for told in (("good", task, 0.50, 0.4), ("bad", task, 0.51, 0.4))]
    clear = [row("good", "age", 5.0, 0.5, False), row("bad", "age", 8.0, 0.5, False)]
    first, last = ranking(noise + clear)
    assert (first["source"], first["first"], first["mean_place"]) == ("good", 1, 1.75)
    assert last["mean_place"] == 1.25 and first["lead"] == pytest.approx(-last["lead"])
    lead = 1.5 / (0.5 / 3.92)
    weights = reliability(noise + clear)
    assert weights == {"ad": 0.0, "pd": 0.0, "memory": 0.0, "age": pytest.approx(1 - 1 / (2 * lead**2), rel=1e-3)}
    assert first["lead"] == pytest.approx(weights["age"] * lead / 4, rel=1e-3)
    assert first["plain_lead"] == pytest.approx((lead - 3 * 0.005 / (0.4 / 3.92)) / 4, rel=1e-3)
    assert "age 1.00" in ranking_sentences(noise + clear)[0]
    assert "no task tells them apart" in ranking_sentences(noise)[0]


def test_reliability_is_what_simulated_tasks_have() -> None:
    """Sources whose true values have the variance V, measured with the variance 1: reliability V / (V + 1)."""
    rng = np.random.default_rng(0)
    for spread in (0.0, 1.0, 3.0):
        rows = []
        for number in range(400):  # comparisons of one task
            truth = rng.normal(0, spread, 3)
            rows += [
                row(name, "t", value, 3.92) | {"percent": number}
                for name, value in zip("abc", truth + rng.normal(0, 1, 3), strict=True)
            ]
        assert reliability(rows)["t"] == pytest.approx(spread**2 / (spread**2 + 1), abs=0.1)


def test_metrics_without_an_interval_width_lead_nobody() -> None:
    assert [one["lead"] for one in ranking([row("a", "ad", 1.0, 0.0), row("b", "ad", 1.0, 0.0)])] == [0.0, 0.0]


def test_a_degraded_volume_keeps_everything_but_its_image(tmp_path: Path) -> None:
    corpus = planted_corpus(tmp_path / "blobs.zarr", 6)
    blurred, noise = Blurred(corpus.path, 20.0), Noise(corpus.path)
    for index in (2, 5):
        source = corpus.sample(index)
        made = [one.render(one.draw_at(index, rng_for(0, index))) for one in (blurred, noise)]
        for sample in made:
            assert sample.covariates == source.covariates and np.array_equal(sample.affine, source.affine)
            assert source.label is not None and sample.label is not None
            assert np.array_equal(sample.label, source.label) and sample.image.shape == source.image.shape
        smooth, grain = (np.corrcoef(one.image.ravel(), source.image.ravel())[0, 1] for one in made)
        assert 0.5 < smooth < 0.99 and abs(grain) < 0.1
        assert np.abs(np.diff(made[0].image, axis=1)).mean() < np.abs(np.diff(source.image, axis=1)).mean() / 2
    assert blurred.labels() == {1: "Head", 2: "Smooth-Blob", 3: "Chequered-Blob"}
    assert blurred.parents()[0]["identity"] == corpus.identity()


def test_repeats_are_counted_kept_and_drawn(tmp_path: Path, run: Run) -> None:
    (tmp_path / "small.yaml").write_text(PROFILE)
    recipe = tmp_path / "ranking.yaml"
    recipe.write_text(f"kind: ranking\nprofile: {tmp_path / 'small.yaml'}\nrepeats: 2\nseed: 4\nworkers: 0\n")
    answer = run("benchmark", "run", recipe, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    results = json.loads((tmp_path / "out" / "ranking.json").read_text())
    assert [one["seed"] for one in results["repeats"]] == [4, 5]
    assert results["right"] == sum(one["order"] == list(RIGHT) for one in results["repeats"])
    assert {one["source"] for one in results["repeats"][0]["ranking"]} == set(RIGHT)
    assert results["share"]["low"] <= results["right"] / 2 <= results["share"]["high"]
    assert results["median_seconds"] > 0 and (tmp_path / "out" / "ranking.png").exists()
    rows = json.loads((tmp_path / "out" / "seed-4" / "matrix.json").read_text())["rows"]
    assert {one["source"] for one in rows} == set(RIGHT)  # neither scratch nor controls
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("seed-*/**/model.safetensors")}
    assert len(kept) == 6 and run("benchmark", "run", recipe, "--out", tmp_path / "out").code == 0
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("seed-*/**/model.safetensors")}
    recipe.write_text(recipe.read_text() + "blur_mm: 5\n")
    (tmp_path / "out" / "seed-4" / "matrix.json").unlink()  # also where a repeat was stopped
    other = run("benchmark", "run", recipe, "--out", tmp_path / "out")
    assert other.code == 2 and "other options" in other.err


def test_rankings_are_counted_by_lead_and_by_place_with_an_exact_interval() -> None:
    def repeat(order: tuple[str, ...], seconds: float | None) -> dict[str, Any]:
        rows = [
            {"source": name, "lead": 1.0 - n, "plain_lead": -1.0 * n, "mean_place": n + 1.0}
            for n, name in enumerate(order)
        ]
        return {"order": list(order), "right": order == RIGHT, "ranking": rows, "seconds": seconds}

    found = summary([repeat(RIGHT, 60.0)] * 9 + [repeat(RIGHT[::-1], None)])
    assert (found["right"], found["of"], found["right_by_plain_lead"], found["right_by_mean_place"]) == (9, 10, 9, 9)
    assert found["median_seconds"] == 60.0
    assert found["share"]["low"] == pytest.approx(0.555, abs=1e-3)  # Clopper and Pearson
    assert found["share"]["high"] == pytest.approx(0.9975, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [("repeats: 0", "repeats is 0"), ("blur_mm: 0", "above 0"), ("profile: nothing", "no profile 'nothing'")],
)
def test_what_cannot_be_repeated_is_refused(tmp_path: Path, run: Run, options: str, said: str) -> None:
    (tmp_path / "ranking.yaml").write_text(f"kind: ranking\n{options}\n")
    answer = run("benchmark", "run", tmp_path / "ranking.yaml", "--out", tmp_path / "out")
    assert answer.code == 2 and said in answer.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("sd_mm", [-1.0, float("nan")])
def test_a_blur_that_is_none_is_refused(tmp_path: Path, sd_mm: float) -> None:
    with pytest.raises(UserError, match="sd_mm"):
        Blurred(tmp_path, sd_mm)
