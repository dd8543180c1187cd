"""How the scans of a corpus were prepared is told by the weights that were trained on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.weights import read_config
from tests.conftest import Run
from tests.synth.brains import MOVED, STILL, study

IMPORT = ("--shape", "16,16,16", "--spacing", "12", "--stripped", "--align", "--n4", "--workers", "0")
TRAIN = ("--objective", "mae", "--backbone", "vit_ti", "--steps", "1", "--batch-size", "1", "--probe-every", "0")


def test_weights_and_their_card_say_how_the_scans_were_prepared(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synth.quality.N4_ITERATIONS", (3,))  # how good it is, is not asked here
    folder, corpus, weights = study(tmp_path / "study", STILL, MOVED), tmp_path / "a.zarr", tmp_path / "weights"
    assert run("synth", "import", folder, *IMPORT, "--out", corpus).code == 0
    answer = run("pretrain", "run", "--corpus", corpus, *TRAIN, "--out", weights)
    assert answer.code == 0, answer.err
    options = read_config(weights).corpus["recipe"]["generator"]["init_args"]
    assert {name: options[name] for name in ("strip", "stripped", "align", "n4")} == {
        "strip": False,
        "stripped": True,
        "align": True,
        "n4": True,
    }
    card = (weights / "README.md").read_text()
    assert "Prepared: skull and scalp left out (`strip`), aligned affinely to the built-in anatomy (`align`)" in card
    assert "bias field taken out (N4) (`n4`)" in card
