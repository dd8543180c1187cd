"""Several processes: torchrun's variables, two Ray Train workers against one with twice the batch, kill -9."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pretrain.launch import World, sentence_of, world_here
from pretrain.train import TrainOptions, pretrain
from pretrain.weights import load_weights, read_config
from synth.corpus import Corpus
from synth.errors import UserError
from tests.conftest import PLUGIN, elsewhere

ONE = TrainOptions("vit_xs", "plainly.Plainly", 6, 8, precision="fp32", probe_every=0)
TOLERANCE = (
    2e-5  # of weights after six steps of at most 1e-3: sums in another order, and AdamW divides by small numbers
)


@pytest.fixture(autouse=True)
def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The objective without randomness is importable."""
    monkeypatch.syspath_prepend(str(PLUGIN))


def curve(out: Path) -> list[tuple[int, float]]:
    """(step, loss) as the CSV has them."""
    with (out / "log" / "version_0" / "metrics.csv").open(newline="") as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file) if row["loss"]]


def assert_same_training(one: Path, two: Path) -> None:
    ours, theirs = load_weights(one)[0].state_dict(), load_weights(two)[0].state_dict()
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=TOLERANCE, rtol=0), name
    assert [step for step, _ in curve(one)] == [step for step, _ in curve(two)]
    for (_, a), (_, b) in zip(curve(one), curve(two), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_without_variables_there_is_one_process_with_them_torchrun_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert world_here() == World()
    told = {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "n",
        "MASTER_PORT": "1",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    here = world_here()
    assert here == World(5, 8, 1, 4) and not here.first
    assert here.for_lightning()["num_nodes"] == 2 and here.for_lightning()["devices"] == 4
    assert here.told(ONE).workers == 8
    with pytest.raises(UserError, match="torchrun has started 8"):
        here.told(replace(ONE, workers=3))


def test_nodes_may_have_unequal_numbers_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 0)  # which a Trainer sets for good: later tests are alone again
    for name, value in {"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    for here in (World(2, 3, 0, 1), World(1, 3, 1, 2)):
        trainer = lightning.Trainer(
            accelerator="cpu", logger=False, **{**here.for_lightning(), "sync_batchnorm": False}
        )
        assert trainer.world_size == 3 and trainer.global_rank == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_of_torchrun_train_as_one_with_the_doubled_batch(planted: Corpus, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["pretrain", "run", "--corpus", str(planted.path), "--out", str(tmp_path / "two"), "--batch-size", "4"]
    words += ["--backbone", "vit_xs", "--objective", "plainly.Plainly", "--steps", "6", "--precision", "fp32"]
    words += ["--probe-every", "0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    command += ["--master-port", str(port), "-m", "brainloom", *words]
    ended = subprocess.run(command, env=elsewhere(str(PLUGIN)), capture_output=True, text=True, timeout=110)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("volumes/s") == 1  # one speaks for both
    pretrain(planted.path, tmp_path / "one", ONE)
    assert read_config(tmp_path / "two").training["workers"] == 2
    assert_same_training(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ray_train_workers_train_as_one_with_the_doubled_batch(
    planted: Corpus, tmp_path: Path, ray_of_two: object
) -> None:
    pytest.importorskip("pyarrow")
    about = pretrain(planted.path, tmp_path / "two", replace(ONE, batch_size=4, workers=2))
    assert about.training["workers"] == 2 and not (tmp_path / "two" / "checkpoints").exists()
    pretrain(planted.path, tmp_path / "one", ONE)
    assert_same_training(tmp_path / "one", tmp_path / "two")


def test_what_a_worker_refuses_is_found_in_what_ray_raises() -> None:
    inner, outer = RuntimeError("a worker failed"), RuntimeError("the run failed")
    inner.__cause__ = UserError("choose another --out")
    outer.worker_failures = {0: inner}  # type: ignore[attr-defined]
    assert sentence_of(outer) == "choose another --out" and sentence_of(RuntimeError("else")) == ""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_by_kill_9_the_same_command_gives_the_undisturbed_curve(planted: Corpus, tmp_path: Path) -> None:
    def command(out: Path) -> list[str]:
        words = [
            "pretrain",
            "run",
            "--corpus",
            str(planted.path),
            "--out",
            str(out),
            "--steps",
            "150",
            "--batch-size",
            "4",
        ]
        words += ["--backbone", "vit_xs", "--objective", "mae", "--precision", "fp32", "--probe-every", "0"]
        return [sys.executable, "-m", "brainloom", *words]

    killed = subprocess.Popen(command(tmp_path / "killed"), env=elsewhere(), stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list((tmp_path / "killed").rglob("*-last.ckpt")) and time.monotonic() < until:
        assert killed.poll() is None
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    for name in ("killed", "whole"):
        ended = subprocess.run(command(tmp_path / name), env=elsewhere(), capture_output=True, text=True, timeout=100)
        assert ended.returncode == 0, ended.stderr
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert [step for step, _ in curve(tmp_path / "whole")] == list(range(10, 151, 10))
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert files[0] == files[1]
