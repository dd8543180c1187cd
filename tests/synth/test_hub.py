"""Weights at an id of the Hugging Face hub; no test asks the network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from synth.diffusion.published import BundleWeights
from synth.diffusion.weights import open_weights
from synth.errors import UserError
from tests.conftest import ROOT

TWIN = ROOT / "tests" / "fixtures" / "published_twin"


def test_hub_id_is_fetched_and_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked: list[str] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(TWIN))
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_weights(Path("MONAI/brain_image_synthesis_latent_diffusion_model")), BundleWeights)
    assert asked == ["MONAI/brain_image_synthesis_latent_diffusion_model"]


def test_hub_id_reaches_workers_as_it_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from synth.engine import spec_json
    from synth.generator import GeneratorSpec

    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for given, wanted in (("MONAI/bundle", "MONAI/bundle"), ("folder", str(tmp_path / "folder"))):
        assert (
            json.loads(spec_json(GeneratorSpec("Diffusion", {"weights": Path(given)})))["init_args"]["weights"]
            == wanted
        )


def test_hub_that_cannot_be_reached_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match="no folder 'MONAI/nothing', and as an id of the Hugging Face hub it could not be"
    ):
        open_weights(Path("MONAI/nothing"))


def test_slip_in_a_local_path_asks_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    for place in ("weights/lmd", "nowhere", str(tmp_path / "a" / "b")):
        with pytest.raises(UserError, match="there are no weights"):
            open_weights(Path(place))
