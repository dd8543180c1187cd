"""benchmark speed diffusion: both samplers do the same work on the same networks."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.speed.diffusion import Monai, Ours, drawn, networks_for, ratios, sentences
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


def test_rows_in_bfloat16_call_the_networks_in_it_and_the_others_in_32_bits() -> None:
    for bf16, kind in ((False, torch.float32), (True, torch.bfloat16)):
        for row in (Ours(SHAPE, "rectified_flow", 2, bf16), Monai(SHAPE, 4, bf16)):
            answers: list[torch.dtype] = []
            row.networks.unet.register_forward_hook(lambda *told, kept=answers: kept.append(told[2].dtype))
            row(0)
            assert set(answers) == {kind}


def test_ratios_are_said_beside_what_they_were_measured_against() -> None:
    times = {
        "brainloom, DDIM 50": 60.0,
        "brainloom, rectified flow 10": 20.0,
        "brainloom, rectified flow 10, bf16": 10.0,
        "MONAI inferer, DDIM 50": 200.0,
        "MONAI inferer, DDIM 50, 4 at once": 60.0,
        "MONAI inferer, DDIM 50, 4 at once, bf16": 30.0,
    }
    rows = [{"name": name, "ms_all": [ms] * 3} for name, ms in times.items()]
    steps, flow, halved = sentences(ratios(rows))
    assert "3.33 times" in steps and "(given 4 at once: 1.00)" in steps
    assert "10.00 times" in flow and "(given 4 at once: 3.00)" in flow
    assert "20.00 times" in halved and "(given 4 at once: 6.00, and in bfloat16 too: 3.00)" in halved
    assert sentences(ratios([])) == []


def test_one_run_writes_rows_ratios_and_a_chart(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "speed"
    answer = run("benchmark", "speed", "diffusion", "--out", out, "--size", 32, "--repeats", 7, "--only", "flow")
    assert answer.code == 0, answer.err
    results = json.loads((out / "results.json").read_text())
    flow = "brainloom, rectified flow 10"
    assert [(row["name"], row["repeats"]) for row in results["rows"]] == [(flow, 7), (f"{flow}, bf16", 7)]
    assert set(results["ratios"]) >= {"same_steps", "equal_quality"} and (out / "speed.png").exists()
