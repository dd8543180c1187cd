"""Pre-training: weights with a pedigree, resumed exactly, a signal that is there is learnt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.backbones import make_backbone
from pretrain.objectives import make_objective
from pretrain.objectives.mae import MaskedAutoencoder
from pretrain.objectives.supervised import numeric_targets
from pretrain.train import Pretraining, TrainOptions, pretrain
from pretrain.weights import load_weights, read_config
from synth.corpus import Corpus
from synth.errors import UserError
from tests.conftest import Run

QUICK = TrainOptions(steps=6, batch_size=8)


def test_weights_name_their_corpus_and_load_back_to_the_same_features(corpus: Corpus, tmp_path: Path) -> None:
    pretrain(corpus.path, tmp_path / "w", QUICK)
    assert sorted(p.name for p in (tmp_path / "w").iterdir()) == [
        "README.md",
        "config.json",
        "log",
        "model.safetensors",
    ]
    backbone, about = load_weights(tmp_path / "w")
    assert about.corpus["identity"] == corpus.identity()
    assert about.corpus["seed"] == corpus.header.seed
    assert about.spacing == (5.0, 5.0, 5.0) and about.shape == (32, 40, 32)
    assert corpus.identity() in (tmp_path / "w" / "README.md").read_text()
    again, _ = load_weights(tmp_path / "w")
    image = torch.randn(1, 1, 32, 40, 32)
    with torch.no_grad():
        assert torch.equal(backbone(image), again(image))


def test_the_same_options_give_the_same_weights(corpus: Corpus, tmp_path: Path) -> None:
    for name in ("a", "b"):
        pretrain(corpus.path, tmp_path / name, QUICK)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_killed_and_called_again_ends_with_the_weights_of_an_undisturbed_run(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.train.CHECKPOINT_STEPS", 4)
    options = TrainOptions(steps=10, batch_size=8)
    pretrain(corpus.path, tmp_path / "whole", options)
    step = Pretraining.training_step

    def dies(self: Pretraining, batch: Any, number: int) -> torch.Tensor:
        if self.global_step == 7:
            raise RuntimeError("killed")
        return step(self, batch, number)

    with monkeypatch.context() as broken:
        broken.setattr(Pretraining, "training_step", dies)
        with pytest.raises(RuntimeError, match="killed"):
            pretrain(corpus.path, tmp_path / "killed", options)
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    for name, other in (("seed", 1), ("steps", 11), ("learning_rate", 1e-2)):
        with pytest.raises(UserError, match=f"checkpoint of a run with {name} .*, asked for was {other}"):
            pretrain(corpus.path, tmp_path / "killed", replace(options, **{name: other}))
    steps: list[int] = []

    def counts(self: Pretraining, batch: Any, number: int) -> torch.Tensor:
        steps.append(self.global_step)
        return step(self, batch, number)

    monkeypatch.setattr(Pretraining, "training_step", counts)
    pretrain(corpus.path, tmp_path / "killed", options)
    assert steps == list(range(4, 10))  # from the last checkpoint, not from the start
    whole, _ = load_weights(tmp_path / "whole")
    resumed, _ = load_weights(tmp_path / "killed")
    for (name, tensor), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.allclose(tensor.float(), other.float(), atol=1e-6), name


def test_killed_while_the_weights_are_written_ends_with_all_of_them(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(path: Path, text: str) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as broken:
        broken.setattr("pretrain.weights.write_atomically", dies)
        with pytest.raises(RuntimeError, match="killed"):
            pretrain(corpus.path, tmp_path / "w", QUICK)
    pretrain(corpus.path, tmp_path / "w", QUICK)
    assert load_weights(tmp_path / "w")[1].training["steps"] == QUICK.steps
    assert not (tmp_path / "w" / "checkpoints").exists()


def test_called_again_on_finished_weights_trains_nothing(corpus: Corpus, tmp_path: Path) -> None:
    pretrain(corpus.path, tmp_path / "w", QUICK)
    before = (tmp_path / "w" / "model.safetensors").stat().st_mtime_ns
    pretrain(corpus.path, tmp_path / "w", QUICK)
    assert (tmp_path / "w" / "model.safetensors").stat().st_mtime_ns == before


def test_other_options_on_finished_weights_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    pretrain(corpus.path, tmp_path / "w", QUICK)
    with pytest.raises(UserError, match="steps 6, asked for was 7"):
        pretrain(corpus.path, tmp_path / "w", TrainOptions(steps=7, batch_size=8))


def test_supervised_loss_falls_on_a_few_volumes(corpus: Corpus) -> None:
    objective = make_objective("supervised", make_backbone("sfcn_s", (32, 40, 32)), corpus, 0)
    assert _falls(objective, corpus, steps=25) < 0.8


def test_masked_loss_falls_on_a_few_volumes(corpus: Corpus) -> None:
    objective = make_objective("mae", make_backbone("vit_xs", (32, 40, 32)), corpus, 0)
    assert _falls(objective, corpus, steps=25) < 0.95


def _falls(objective: Any, corpus: Corpus, steps: int) -> float:
    """Loss after ``steps`` on one batch, as a share of the loss at the start."""
    image = torch.from_numpy(np.stack([corpus.image(i) for i in range(8)]).astype(np.float32))
    optimizer = torch.optim.AdamW(objective.parameters(), 3e-3)
    losses = []
    for step in range(steps):
        loss = objective.loss(image, torch.arange(8), torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses[-3:])) / float(np.mean(losses[:3]))


def test_the_masked_loss_looks_at_hidden_patches_only(corpus: Corpus) -> None:
    objective = make_objective("mae", make_backbone("vit_xs", (32, 40, 32)), corpus, 0).eval()
    assert isinstance(objective, MaskedAutoencoder)
    image = torch.randn(1, 1, 32, 40, 32)
    patches = objective.backbone.patches(image)
    assert patches.shape == (1, 80, 512)
    keep = torch.rand(1, 80, generator=torch.Generator().manual_seed(1)).argsort(1)[:, :20]
    predicted = objective.decode(objective.backbone.tokens(image, keep), keep, 80)
    target = (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-2).sqrt()
    hidden = [token for token in range(80) if token not in keep[0].tolist()]
    expected = (predicted - target).square().mean(2)[0, hidden].mean()
    found = objective.loss(image, torch.zeros(1, dtype=torch.long), torch.Generator().manual_seed(1))
    assert torch.allclose(found, expected, atol=1e-5)


def test_targets_sum_the_sides_so_that_a_mirrored_volume_keeps_them(corpus: Corpus) -> None:
    names, targets = numeric_targets(corpus.covariates())
    assert "volume_hippocampus" in names and "age" in names
    assert not any("left" in name or "right" in name for name in names)
    assert np.allclose(np.nanmean(targets, axis=0), 0, atol=1e-4)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--backbone", "sfcn", "--objective", "mae"], "needs a ViT"),
        (["--objective", "supervized"], "supervised"),
        (["--steps", "0"], "--steps is 0"),
        (["--batch-size", "100000"], "batch size"),
        (["--backbone", "vit_b"], "cannot take volumes"),
        (["--learning-rate", "7"], "learning-rate"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    corpus: Corpus, tmp_path: Path, run: Run, words: list[str], said: str
) -> None:
    answer = run("pretrain", "run", "--corpus", corpus.path, "--out", tmp_path / "w", *words)
    assert answer.code == 2
    assert answer.err.count("\n") == 1 and said in answer.err
    assert not (tmp_path / "w").exists()


def test_a_damaged_config_is_refused_in_one_sentence(corpus: Corpus, tmp_path: Path) -> None:
    pretrain(corpus.path, tmp_path / "w", QUICK)
    config = tmp_path / "w" / "config.json"
    config.write_text(json.dumps({"format_version": 1}))
    with pytest.raises(UserError, match="damaged"):
        read_config(tmp_path / "w")


def test_several_corpora_are_mixed_and_all_named_as_parents(
    corpus: Corpus, people: Corpus, tmp_path: Path, run: Run
) -> None:
    words = ("--corpus", f"{corpus.path},{people.path}", "--ratios", "1,3", "--steps", 3, "--batch-size", 8)
    answer = run("pretrain", "run", *words, "--out", tmp_path / "w")
    assert answer.code == 0, answer.err
    about = load_weights(tmp_path / "w")[1]
    assert [p["identity"] for p in about.corpus["parents"]] == [corpus.identity(), people.identity()]
    assert (
        about.corpus["ratios"] == [0.25, 0.75] and "LabelMap + LabelMap" in (tmp_path / "w" / "README.md").read_text()
    )
    from finetune.cohort import load_cohort, refuse_leak

    with pytest.raises(UserError, match="this very cohort"):
        refuse_leak(load_cohort(people.path), about.corpus, "w")


def test_training_follows_a_corpus_that_is_still_being_made(tmp_path: Path) -> None:
    import threading

    from synth.engine import Job, generate
    from synth.generator import GeneratorSpec

    spec = GeneratorSpec("LabelMap", {"shape": (32, 40, 32), "spacing": 5.0})
    out, first = tmp_path / "growing.zarr", threading.Event()
    writer = threading.Thread(
        target=lambda: generate(Job(spec, 24, 1, out, 4), progress=lambda done, *_: first.set() if done >= 4 else None)
    )
    writer.start()
    assert first.wait(60)
    options = TrainOptions("vit_xs", "mae", steps=6, batch_size=4)
    about = pretrain(out, tmp_path / "w", options, follow=True)
    writer.join(60)
    assert about.corpus["identity"] == Corpus(out).identity()


def test_targets_of_a_corpus_that_is_still_being_made_are_not_known(tmp_path: Path, corpus: Corpus, run: Run) -> None:
    import shutil

    shutil.copytree(corpus.path, tmp_path / "begun.zarr")
    path = tmp_path / "begun.zarr" / "zarr.json"
    path.write_text(path.read_text().replace('"complete": true', '"complete": false'))
    answer = run(
        "pretrain", "run", "--corpus", tmp_path / "begun.zarr", "--follow", "--out", tmp_path / "w", "--steps", 2
    )
    assert answer.code == 2 and "take mae, or wait" in answer.err and not (tmp_path / "w").exists()
