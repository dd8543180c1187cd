"""What release 0.1.0 made goes on loading, and equal seeds go on giving what they gave there."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.backbones import Backbone, make_backbone
from pretrain.weights import load_weights, read_config
from synth.errors import UserError

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
OLD = FIXTURES / "weights-0.1.0"
GOLDEN: dict[str, Any] = json.loads((FIXTURES / "backbones-0.1.0.json").read_text())


def _feature(backbone: Backbone, shape: tuple[int, ...]) -> torch.Tensor:
    noise = np.random.Generator(np.random.Philox(7)).standard_normal((1, 1, *shape)).astype(np.float32)
    with torch.no_grad():
        return backbone(torch.from_numpy(noise))[0]


@pytest.mark.parametrize("name", sorted(set(GOLDEN) - {"weights"}))
def test_a_seed_gives_the_weights_and_the_feature_that_it_gave(name: str) -> None:
    golden = GOLDEN[name]
    backbone = make_backbone(name, tuple(golden["shape"]), seed=0).eval()
    state = backbone.state_dict()
    names = "\n".join(f"{key} {tuple(value.shape)} {value.dtype}" for key, value in state.items())
    assert hashlib.sha256(names.encode()).hexdigest() == golden["keys_sha256"]
    absolute = sum(float(value.double().abs().sum()) for value in state.values())
    assert absolute == pytest.approx(golden["absolute_sum"], rel=1e-6)
    feature = _feature(backbone, golden["shape"])
    assert feature[:6].tolist() == pytest.approx(
        golden["feature"], rel=1e-3, abs=1e-4
    )  # other CPUs sum in other orders
    assert float(feature.double().abs().sum()) == pytest.approx(golden["feature_sum"], rel=1e-3)


def test_weights_of_the_first_release_load_and_compute_what_they_did() -> None:
    backbone, about = load_weights(OLD)
    assert (about.backbone, about.word, about.options, about.start) == ("sfcn_s", "sfcn_s", "", None)
    assert about.corpora() == [about.corpus]
    feature = _feature(backbone, about.shape)
    assert feature[:6].tolist() == pytest.approx(GOLDEN["weights"]["feature"], rel=1e-3, abs=1e-4)


def test_weights_of_a_later_release_are_refused_by_their_version(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "w")
    config = json.loads((OLD / "config.json").read_text())
    (tmp_path / "w" / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(UserError, match="format version 99; this brainloom reads 1 to 2"):
        read_config(tmp_path / "w")
