"""benchmark run diffusion.yaml: trains, samples and measures; a stopped run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.diffusion import Prior
from synth.corpus import Corpus
from synth.diffusion.generator import Diffusion
from synth.keys import rng_for
from tests.conftest import Run

RECIPE = """
kind: diffusion
generator: {class_path: LabelMap, init_args: {shape: [24, 28, 24], spacing: 8.0}}
count: 24
held_out: 12
samples: 10
seeds: 1
conditions: [age, ventricular_volume]
autoencoder_steps: 2
diffusion_steps: 2
flow_steps: 1
ddim_steps: 2
segmenter_steps: 2
workers: 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("diffusion")
    (out / "recipe.yaml").write_text(RECIPE)
    return out


@pytest.mark.timeout(300)
def test_one_command_trains_samples_and_measures(folder: Path, run: Run) -> None:
    answer = run("benchmark", "run", folder / "recipe.yaml", "--out", folder / "run")
    assert answer.code == 0, answer.err
    results = json.loads((folder / "run" / "results.json").read_text())
    assert set(results["mmd"]) == {"flow 0", "ddim 0", "age only, flow", "age only, ddim", "prior"}
    assert results["ventricles"] == {"flow 0": None, "ddim 0": None}, "two steps make no segmenter to be trusted"
    assert results["seconds"]["rectified_flow"] > 0
    assert "MMD (KID) to held-out volumes" in answer.out and (folder / "run" / "samples.png").exists()
    assert set(Corpus(folder / "run" / "age_only_flow.zarr").covariates().columns) & {"age", "ventricular_volume"} == {
        "age"
    }


def test_the_prior_decodes_the_noise_itself(folder: Path) -> None:
    weights = folder / "run" / "rectified_flow"
    prior, model = Prior(weights, steps=1), Diffusion(weights, steps=1)
    params = prior.draw(rng_for(0, 0))
    assert params == model.draw(rng_for(0, 0))
    assert not np.array_equal(prior.render(params).image, model.render(params).image)
    told = {**params, "conditions": {**params["conditions"], "age": 20.0}}
    assert np.array_equal(prior.render(params).image, prior.render(told).image), "it listens to nothing"


def test_a_recipe_without_what_is_asked_about_is_refused(folder: Path, run: Run) -> None:
    recipe = folder / "other.yaml"
    recipe.write_text(RECIPE.replace("[age, ventricular_volume]", "[age]"))
    answer = run("benchmark", "run", recipe, "--out", folder / "other")
    assert answer.code == 2 and "ventricular_volume" in answer.err and not (folder / "other").exists()
