"""What --init is given: found, read without running anything, refused in one sentence, told of in the weights."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pretrain.backbones import BACKBONES, ViT, make_backbone
from pretrain.backbones.table import _vit
from pretrain.card import card
from pretrain.starts import make_start
from pretrain.starts.files import read_source
from pretrain.train import TrainOptions, pretrain
from pretrain.weights import Weights, load_weights, read_config, save_weights
from synth.corpus import Corpus
from synth.errors import UserError
from tests.conftest import Run

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
STARTS, OLD = FIXTURES / "starts", FIXTURES / "weights-0.1.0"
SHAPE = (32, 40, 32)


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones as small as the fixtures."""
    monkeypatch.setitem(BACKBONES, "toy", _vit(32, 2, 2, 8))


def our_weights(
    folder: Path, word: str = "toy", shape: tuple[int, int, int] = SHAPE, seed: int = 3, **more: Any
) -> Weights:
    """Weights that were never trained, in a folder."""
    corpus = {
        "name": "c.zarr",
        "identity": "c",
        "count": 1,
        "seed": 1,
        "recipe": {"generator": {"class_path": "LabelMap"}},
    }
    backbone = make_backbone(word, shape, seed=seed)
    about = Weights(
        backbone.name, shape, (5.0,) * 3, 1, "mae", {}, {}, corpus, options=backbone.word.partition(":")[2], **more
    )
    save_weights(folder, backbone, about)
    return about


def test_scratch_is_the_fresh_backbone() -> None:
    backbone, report = make_start("scratch", "sfcn_s", SHAPE, seed=2)
    assert report is None
    fresh = make_backbone("sfcn_s", SHAPE, seed=2).state_dict()
    assert all(torch.equal(fresh[name], tensor) for name, tensor in backbone.state_dict().items())


def test_our_weights_start_a_backbone_of_another_size_and_with_more_channels(tmp_path: Path) -> None:
    our_weights(tmp_path / "w", "toy:positions=learned")
    backbone, report = make_start(str(tmp_path / "w"), "toy:checkpointing=true", (40, 40, 40), channels=2)
    assert isinstance(backbone, ViT) and report is not None
    assert backbone.word == "toy:positions=learned,checkpointing=true"
    assert report.interpolated == {"positions": "4 × 5 × 4 → 5 × 5 × 5"}
    assert report.inflated == {"embed.weight": "1 channels → 2"} and report.fresh == []
    image = torch.randn(1, 1, *SHAPE)
    with torch.no_grad():
        before, _ = load_weights(tmp_path / "w")
        again, _ = make_start(str(tmp_path / "w"), "toy", SHAPE)
        assert torch.equal(before(image), again.eval()(image))


def test_weights_of_the_first_release_are_a_start() -> None:
    backbone, report = make_start(str(OLD), "sfcn_s", SHAPE)
    assert report is not None and len(report.loaded) == len(backbone.state_dict())
    assert report.parent is not None and report.parent["corpus"]["seed"] == 3


def test_a_start_keeps_its_own_corpus_and_start_in_the_pedigree(tmp_path: Path) -> None:
    our_weights(tmp_path / "first")
    _, report = make_start(str(tmp_path / "first"), "toy", SHAPE)
    assert report is not None
    our_weights(tmp_path / "second", start=report.record())
    _, report = make_start(str(tmp_path / "second"), "toy", SHAPE)
    assert report is not None
    our_weights(tmp_path / "third", start=report.record())
    assert [corpus["name"] for corpus in read_config(tmp_path / "third").corpora()] == ["c.zarr"] * 3


def test_a_cohort_that_a_start_was_trained_on_is_refused(people: Corpus, tmp_path: Path) -> None:
    from finetune.cohort import load_cohort
    from finetune.protocol import Arm, Bench, Protocol
    from finetune.tasks import find_task

    parent = {"backbone": "toy", "objective": "mae", "corpus": people.parent(), "start": None}
    start = {
        "source": "w",
        "kind": "our weights",
        "loaded": [],
        "inflated": {},
        "interpolated": {},
        "skipped": {},
        "fresh": [],
        "notes": [],
    }
    our_weights(tmp_path / "w", start={**start, "parent": parent})
    import numpy as np

    bench = Bench(load_cohort(people.path), find_task("ad"), [], np.zeros(0), Protocol(), tmp_path / "out")
    with pytest.raises(UserError, match="this very cohort"):
        bench.check(Arm("x", "frozen", tmp_path / "w"))


def test_pre_training_from_a_start_prints_its_report_and_keeps_it(corpus: Corpus, tmp_path: Path, run: Run) -> None:
    words = ("--corpus", corpus.path, "--steps", 2, "--batch-size", 4, "--objective", "mae", "--backbone", "toy")
    answer = run("pretrain", "run", *words, "--init", STARTS / "dinov3", "--out", tmp_path / "w")
    assert answer.code == 0, answer.err
    assert "DINOv3 ViT (transformers)" in answer.err and "inflated embed.weight: 3 × 8 × 8" in answer.err
    backbone, about = load_weights(tmp_path / "w")
    assert about.start is not None and about.start["source"] == str(STARTS / "dinov3")
    assert about.word == backbone.word and "rope=true" in about.options
    told = card(about)
    assert "began from" in told and "licence of the start: not stated beside it" in told
    again = pretrain(corpus.path, tmp_path / "w", TrainOptions("toy", "mae", 2, 4, init=str(STARTS / "dinov3")))
    assert again.start == about.start  # finished: nothing is trained again


def test_finished_weights_of_the_first_release_are_recognised(tmp_path: Path) -> None:
    from pretrain.train import _finished

    shutil.copytree(OLD, tmp_path / "w")
    about = read_config(tmp_path / "w")
    options = TrainOptions("sfcn_s", "supervised", 3, 4)
    assert _finished(tmp_path / "w", options, about.corpus) is not None
    with pytest.raises(UserError, match="init scratch, asked for was there"):
        _finished(tmp_path / "w", TrainOptions("sfcn_s", "supervised", 3, 4, init="there"), about.corpus)


def narrower(folder: Path, **changes: Any) -> str:
    """The ViT fixture with another config.json."""
    shutil.copytree(STARTS / "vit", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return str(folder)


@pytest.mark.parametrize(
    "word, said",
    [
        ("vit_s", "has 2 blocks, backbone vit_s has 12; choose another start: no backbone is 32 wide and 2 deep"),
        ("wide", "has 32 wide tokens, backbone wide has 48"),
        ("sfcn_s", "is a ViT and backbone sfcn_s is none"),
    ],
)
def test_other_blocks_are_refused_with_what_is_different(word: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "wide", _vit(48, 2, 2, 8))
    with pytest.raises(UserError, match=said):
        make_start(str(STARTS / "vit"), word, SHAPE)


def test_other_heads_and_other_activations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 4 heads, backbone toy has 2"):
        make_start(narrower(tmp_path / "heads", num_attention_heads=4), "toy", SHAPE)
    with pytest.raises(UserError, match="quick_gelu"):
        make_start(narrower(tmp_path / "act", hidden_act="quick_gelu"), "toy", SHAPE)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t.pop("encoder.layer.1.output.dense.bias"), "lacks 1 tensors of the backbone's blocks, such as blocks.1.mlp.2.bias"),
        (lambda t: t.pop("embeddings.position_embeddings"), "without a table of positions"),
        (lambda t: t.update({"embeddings.position_embeddings": torch.zeros(1, 30, 32)}), "30 positions, which are no square"),
        (lambda t: t.update({"student_backbone.x": torch.zeros(1), "encoder.layer.0.mlp.weights_in.weight": torch.zeros(8, 8)}), "gated"),
        (lambda t: t.update({"module.embeddings.cls_token": torch.zeros(1, 1, 32)}), "two tensors for class_token"),
    ],
)  # fmt: skip
def test_an_incomplete_or_foreign_vit_is_refused(change: Any, said: str, tmp_path: Path) -> None:
    tensors = load_file(STARTS / "vit" / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "vit.safetensors")
    with pytest.raises(UserError, match=said):
        make_start(str(tmp_path / "vit.safetensors"), "toy", SHAPE)


def test_a_file_of_another_kind_is_refused_with_the_kinds_that_are_known(tmp_path: Path) -> None:
    save_file({"model.0.conv.weight": torch.zeros(4, 1, 3, 3, 3)}, tmp_path / "unet.safetensors")
    with pytest.raises(UserError, match=r"no kind that --init knows .*begins with model\.0\.conv\.weight.* VideoMAE"):
        make_start(str(tmp_path / "unet.safetensors"), "sfcn_s", SHAPE)


class Trap:
    """A pickle that would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match="cannot be read as tensors alone"):
        make_start(str(tmp_path / "trap.pth"), "sfcn_s", SHAPE)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "made, said",
    [
        ({"a.safetensors": b"not one"}, "cannot be read as tensors alone"),
        ({"a.safetensors": b"", "b.safetensors": b""}, "holds 2 files"),
        ({"notes.txt": b"x"}, "holds no tensors"),
        ({"model.safetensors.index.json": b'{"weight_map": {"a": "part-1.safetensors"}}'}, "is missing"),
        ({"config.json": b"{", "model.safetensors": b""}, "cannot be read|damaged"),
    ],
)
def test_a_folder_that_cannot_be_read_is_refused(made: dict[str, bytes], said: str, tmp_path: Path) -> None:
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        make_start(str(tmp_path), "sfcn_s", SHAPE)


def test_a_divided_model_and_the_licence_beside_it_are_read(tmp_path: Path) -> None:
    tensors = load_file(STARTS / "vit" / "model.safetensors")
    halves = [dict(list(tensors.items())[::2]), dict(list(tensors.items())[1::2])]
    for number, half in enumerate(halves):
        save_file(half, tmp_path / f"model-{number}.safetensors")
    where = {name: f"model-{number}.safetensors" for number, half in enumerate(halves) for name in half}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    source = read_source(str(tmp_path))
    assert set(source.tensors) == set(tensors) and source.licence == "apache-2.0"
    _, report = make_start(str(tmp_path), "toy", SHAPE)
    assert report is not None and report.notes == ["licence of the start: apache-2.0"]


def test_a_name_that_is_neither_here_nor_a_hub_id_is_refused(run: Run, corpus: Corpus, tmp_path: Path) -> None:
    answer = run("pretrain", "run", "--corpus", corpus.path, "--out", tmp_path / "w", "--init", "no such thing")
    assert answer.code == 2 and answer.err.count("\n") == 1 and "no hub id such as owner/name" in answer.err
    assert not (tmp_path / "w").exists()
