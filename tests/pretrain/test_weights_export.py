"""A MONAI bundle of weights: MONAI itself builds the network, loads it and computes what the backbone does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from pretrain.backbones import BACKBONES, make_backbone
from pretrain.backbones.table import _vit
from pretrain.export import export_bundle
from pretrain.intensity import standardise
from pretrain.weights import Weights, load_weights, save_weights
from tests.conftest import Run

SHAPE = (32, 40, 32)
CORPUS = {"name": "c.zarr", "identity": "c", "count": 1, "seed": 1, "recipe": {"generator": {"class_path": "LabelMap"}}}


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small ViT."""
    monkeypatch.setitem(BACKBONES, "toy", _vit(48, 2, 2, 8))


def weights_of(word: str, folder: Path) -> Path:
    backbone = make_backbone(word, SHAPE, seed=3)
    options = backbone.word.partition(":")[2]
    save_weights(
        folder, backbone, Weights(backbone.name, SHAPE, (5.0, 5.0, 5.0), 1, "mae", {}, {}, CORPUS, options=options)
    )
    return folder


def opened(bundle: Path, **changes: Any) -> Any:
    from monai.bundle import ConfigWorkflow

    files = {
        "config_file": str(bundle / "configs" / "inference.json"),
        "meta_file": str(bundle / "configs" / "metadata.json"),
    }
    workflow = ConfigWorkflow(
        workflow_type="inference", logging_file=False, bundle_root=str(bundle), **files, **changes
    )
    workflow.initialize()
    return workflow


@pytest.mark.parametrize(
    "word", ["toy", "toy:positions=learned", "toy:class_token=true", "sfcn_s", "resnet18", "densenet121", "swin"]
)
def test_monai_builds_and_loads_the_network_and_it_computes_the_same(word: str, tmp_path: Path) -> None:
    backbone, _ = load_weights(weights_of(word, tmp_path / "w"))
    export_bundle(tmp_path / "w", tmp_path / "bundle")
    parser = opened(tmp_path / "bundle").parser
    network, pool = (parser.get_parsed_content(name) for name in ("network", "pool"))
    image = torch.randn(1, 1, *SHAPE)
    with torch.no_grad():
        assert torch.allclose(pool(network(image)), backbone(image), atol=1e-5)
    torch.set_grad_enabled(True)
    needs = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())["required_packages_version"]
    ours = not type(network).__module__.startswith(("monai", "torch"))
    assert ("brainloom" in needs) == ours == (word in ("sfcn_s", "toy:class_token=true"))


def test_the_bundle_turns_scans_into_features(tmp_path: Path, run: Run) -> None:
    weights_of("toy", tmp_path / "w")
    answer = run("pretrain", "export", tmp_path / "w", "--format", "monai-bundle", "--out", tmp_path / "bundle")
    assert answer.code == 0, answer.err
    scans, (backbone, _) = tmp_path / "scans", load_weights(tmp_path / "w")
    scans.mkdir()
    volume = np.random.Generator(np.random.Philox(1)).random(SHAPE, np.float32) ** 3
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([5.0, 5.0, 5.0, 1.0])), scans / "a.nii.gz")
    workflow = opened(tmp_path / "bundle", dataset_dir=str(scans))
    workflow.run()
    workflow.finalize()
    with torch.no_grad():
        expected = backbone(standardise(torch.from_numpy(volume)[None, None])).numpy()
    assert np.allclose(np.load(tmp_path / "bundle" / "features.npy"), expected, atol=1e-4)


def test_an_out_that_is_there_and_weights_that_are_not_are_refused(tmp_path: Path, run: Run) -> None:
    weights_of("toy", tmp_path / "w")
    answer = run("pretrain", "export", tmp_path / "w", "--out", tmp_path / "w")
    assert answer.code == 2 and "is there already" in answer.err
    answer = run("pretrain", "export", tmp_path, "--out", tmp_path / "bundle")
    assert answer.code == 2 and "holds no weights" in answer.err and not (tmp_path / "bundle").exists()
