"""Weights from a folder or the hub, and to the hub; no network is needed to know what would be asked of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch

from pretrain.hub import HUB_ID
from pretrain.starts import make_start
from pretrain.weights import from_pretrained, load_weights, push_to_hub
from synth.errors import UserError

OLD = Path(__file__).resolve().parents[1] / "fixtures" / "weights-0.1.0"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The client's cache as it is after a download of owner/weights, and no network."""
    snapshot = tmp_path / "models--owner--weights" / "snapshots" / ("0" * 40)
    shutil.copytree(OLD, snapshot)
    (tmp_path / "models--owner--weights" / "refs").mkdir()
    (tmp_path / "models--owner--weights" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("place", ["owner/weights", "owner/weights@main"])
def test_weights_come_from_the_hub_by_id(place: str, hub: Path) -> None:
    backbone, about = from_pretrained(place)
    same, _ = load_weights(OLD)
    assert about.objective == "supervised" and not backbone.training
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in backbone.state_dict().items())
    _, report = make_start(place, "sfcn_s", about.shape)
    assert report is not None and report.source == place


def test_a_folder_of_that_name_goes_first(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "weights").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no weights"):
        from_pretrained("owner/weights")


def test_what_the_hub_has_not_is_refused_in_one_sentence(hub: Path) -> None:
    with pytest.raises(UserError, match="'owner/other' here, and the hub did not give it"):
        from_pretrained("owner/other")


@pytest.mark.parametrize("word", ["../weights", "a/b/c", "/tmp/x", "x", "a/..", "~/w"])
def test_a_path_is_never_taken_for_a_hub_id(word: str) -> None:
    assert HUB_ID.match(word) is None


def test_pushing_makes_a_private_repository_of_tensors_config_and_card(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def create(self: Any, repo: str, **words: Any) -> str:
        asked.append((repo, words))
        return f"https://huggingface.co/{repo}"

    def upload(self: Any, **words: Any) -> None:
        asked.append(("upload", words))

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    assert push_to_hub(OLD, "me/weights") == "https://huggingface.co/me/weights"
    assert asked[0] == ("me/weights", {"private": True, "exist_ok": True})
    assert asked[1][1]["folder_path"] == OLD and asked[1][1]["allow_patterns"] == ["*.safetensors", "*.json", "*.md"]


def test_pushing_what_is_no_weights_or_to_a_hub_that_refuses_is_one_sentence(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no weights"):
        push_to_hub(tmp_path, "me/weights")
    with pytest.raises(UserError, match="the hub did not take"):
        push_to_hub(OLD, "me/weights")
