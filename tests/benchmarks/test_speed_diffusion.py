"""benchmark speed diffusion: both samplers do the same work on the same networks."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.speed.diffusion import Monai, drawn, networks_for
from synth.diffusion.processes import make_sampler
from synth.diffusion.sampling import sample_latent
from tests.conftest import Run

SHAPE = [16, 16, 16]


def test_both_are_given_the_same_networks_noise_and_conditions() -> None:
    one, other = networks_for(SHAPE), networks_for(SHAPE)
    for name, tensor in one.unet.state_dict().items():
        assert torch.equal(tensor, other.unet.state_dict()[name])
    assert all(torch.equal(a, b) for a, b in zip(drawn(one, 3, 2), drawn(other, 3, 2), strict=True))


def test_monai_s_inferer_takes_the_same_number_of_steps_as_ours() -> None:
    row, calls = Monai(SHAPE, 1), []
    row.networks.unet.register_forward_hook(lambda *_: calls.append(1))
    row(0)
    taken = len(calls)
    noise, vector = drawn(row.networks, 0, 1)
    with torch.no_grad():
        sample_latent(row.networks, make_sampler("ddim", "v_prediction", 50), noise, vector)
    assert taken == 50 and len(calls) == 100


def test_one_run_writes_rows_ratios_and_a_chart(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "speed"
    answer = run("benchmark", "speed", "diffusion", "--out", out, "--size", 32, "--repeats", 7, "--only", "flow")
    assert answer.code == 0, answer.err
    results = json.loads((out / "results.json").read_text())
    (row,) = results["rows"]
    assert row["name"] == "brainloom, rectified flow 10" and row["repeats"] == 7
    assert set(results["ratios"]) >= {"same_steps", "equal_quality"} and (out / "speed.png").exists()
