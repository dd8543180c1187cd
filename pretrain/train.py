"""Pre-training: a Lightning module around an objective, resumable at the batch it stopped at."""

from __future__ import annotations

import hashlib
import logging
import math
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from pretrain.backbones import Backbone
from pretrain.held_out import HeldOut, split
from pretrain.intensity import standardise
from pretrain.objectives import find_objectives, make_objective
from pretrain.objectives.base import Objective
from pretrain.probing import TIMES, Probe, Probing, affordable, thinned
from pretrain.starts import make_start
from pretrain.weights import CONFIG, Weights, read_config, remove_folder, save_weights
from synth.corpus import Corpus
from synth.errors import UserError
from synth.plugins import plain
from synth.progress import progress_bar
from synth.sample import spacing_of
from synth.stream import PATIENCE_S, Batch, Stream
from synth.stream.merged import Merged

CHECKPOINT_STEPS = 100
GRADIENT_NORM = 1.0
MOST_EVALUATED = (
    4096  # held-out samples behind the card's figures: a tenth of a million would take longer than training
)
BROKEN_STEPS = 50  # steps in a row without finite gradients after which training is given up
HOW_LOOKED_AT = ("probe_every", "probe_samples")  # options that change no weights


@dataclass(frozen=True)
class TrainOptions:
    """How to pre-train. ``learning_rate`` is reached after ``warmup`` (share of the steps) and falls as a cosine.

    ``init``: see :mod:`pretrain.starts`. ``probe_every``: steps between probes, a quarter of the run if None, 0 never;
    ``probe_samples``: volumes each looks at, see :func:`pretrain.probing.affordable` if None.
    """

    backbone: str = "sfcn_s"
    objective: str = "supervised"
    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    seed: int = 0
    precision: str = "bf16"
    init: str = "scratch"
    objective_options: dict[str, Any] = field(default_factory=dict)
    probe_every: int | None = None
    probe_samples: int | None = None


class Pretraining(lightning.LightningModule):
    """Lightning's view: augment, standardise, loss; AdamW with warm-up and cosine."""

    def __init__(self, objective: Objective, options: TrainOptions, prepared: bool = False) -> None:
        super().__init__()
        self.objective, self.options = objective, options
        self.prepared = prepared  # the stream did it ahead
        self.broken = 0  # steps in a row without finite gradients

    def training_step(self, batch: Batch, step: int) -> torch.Tensor:
        """Loss of one batch; its randomness is a function of (seed, global step), so that a resumed run is the same."""
        generator = torch.Generator().manual_seed(self.options.seed * 1_000_003 + self.global_step)
        image = batch.image if self.prepared else self.objective.prepare(batch.image, generator)
        loss = self.objective.loss(image, batch.index, generator, batch.label)
        self.log("loss", loss.detach())
        return loss

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Images and label maps to the device; numbers stay."""
        label = None if batch.label is None else batch.label.to(device, non_blocking=True)
        return Batch(batch.image.to(device, non_blocking=True), batch.index, label)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip to norm 1; gradients that are not finite are dropped, so that one bad batch cannot ruin the weights.

        torch 2.13's bfloat16 gradients of 3-D convolutions on CPU hold NaN now and then at 2³ cells.

        Raises:
            UserError: so many steps in a row that training is broken.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), GRADIENT_NORM)
        self.broken = 0 if torch.isfinite(norm) else self.broken + 1
        if self.broken:
            optimizer.zero_grad()
        if self.broken == BROKEN_STEPS:
            raise UserError(
                f"training broke at step {self.global_step}: {BROKEN_STEPS} steps in a row had no finite gradients; "
                f"choose a --learning-rate below {self.options.learning_rate:g}"
            )

    def configure_optimizers(self) -> Any:
        """AdamW; the rate warms up linearly and falls as a half cosine."""
        options = self.options
        optimizer = torch.optim.AdamW(self.parameters(), options.learning_rate, weight_decay=options.weight_decay)

        def rate(step: int) -> float:
            ramp = max(1, round(options.warmup * options.steps))
            if step < ramp:
                return (step + 1) / ramp
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - ramp) / max(1, options.steps - ramp))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ShowProgress(lightning.Callback):
    """Steps done, rate and time left through our own bar."""

    def __init__(self, show: Any, steps: int) -> None:
        self.show, self.steps = show, steps

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Start from where a resumed run stands."""
        self.show(trainer.global_step, self.steps)

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        """One step more."""
        self.show(trainer.global_step, self.steps)


def pretrain(
    corpora: Path | Sequence[Path | str],
    out: Path,
    options: TrainOptions,
    ratios: Sequence[float] | None = None,
    follow: bool = False,
) -> Weights:
    """Pre-train a backbone on a corpus and write weights to ``out``; goes on from a checkpoint left by a killed run.

    The last tenth of every corpus is held out for the figures on the model card.

    Args:
        corpora: one corpus, or several to mix.
        out: folder of the weights.
        options: how to train.
        ratios: share of each corpus in the batches; by their sizes if not given.
        follow: begin while the corpus is still being made.

    Raises:
        UserError: bad options or corpus, or an ``out`` that holds other weights.
    """
    _check(options)
    places = [corpora] if isinstance(corpora, Path) else list(corpora)
    corpus = Merged([Corpus(place) for place in places], ratios)
    classes = find_objectives(options.objective).values()
    if follow and not corpus.complete and any(cls.needs_covariates for cls in classes):
        raise UserError(
            f"--follow with --objective {options.objective}: its targets are known when the corpus is finished; "
            "take mae, or wait"
        )
    channels, *shape = corpus.image_shape
    backbone, start = make_start(options.init, options.backbone, (shape[0], shape[1], shape[2]), channels, options.seed)
    training, held_out = split(corpus)
    parent = corpus.parent() if corpus.complete else None
    finished = _finished(out, options, parent) if parent else None
    if finished:
        return finished
    if start:
        print("\n".join(start.lines()), file=sys.stderr)
    objective = make_objective(options.objective, backbone, corpus, options.seed, options.objective_options)
    if options.batch_size < objective.smallest_batch:
        raise UserError(
            f"--batch-size is {options.batch_size}; --objective {options.objective} needs {objective.smallest_batch} or more"
        )
    stream = _stream(corpus, options, training, follow, objective)
    probing = _probing(corpus, options, training, held_out)
    recipe = " ".join(part.header.checksum for part in corpus.corpora)
    identity = hashlib.sha256(f"{recipe} {corpus.ratios}".encode()).hexdigest()
    seconds = _fit(objective, stream, out, options, identity, probing)
    if parent is None:
        corpus = Merged([_when_complete(place) for place in places], ratios)
        parent = corpus.parent()
    affine = np.array(corpus.entry(0)["affine"])
    about = Weights(
        backbone.name,
        (shape[0], shape[1], shape[2]),
        spacing_of(affine),
        channels,
        options.objective,
        {
            **asdict(options),
            "seconds": round(seconds, 1),
            "volumes_per_second": round(options.steps * options.batch_size / max(seconds, 1e-3), 1),
        },
        _figures(objective, corpus, held_out) | (probing.summary() if probing else {}),
        parent,
        options=backbone.word.partition(":")[2],
        start=start.record() if start else None,
    )
    save_weights(out, objective.backbone, about)
    remove_folder(out / "checkpoints")
    return about


def _stream(
    corpus: Merged, options: TrainOptions, training: npt.NDArray[np.int64], follow: bool, objective: Objective
) -> Stream:
    """Batches to train on. With a GPU they are prepared there, ahead; a CPU has no idle part to do it."""
    on_gpu = torch.cuda.is_available()
    return Stream(
        corpus,
        options.batch_size,
        options.seed,
        training,
        labels=objective.labels,
        device="cuda" if on_gpu else "cpu",
        transform=objective.prepare if on_gpu else None,
        follow=follow,
    )


def _probing(
    corpus: Merged, options: TrainOptions, training: npt.NDArray[np.int64], held_out: npt.NDArray[np.int64]
) -> Probing | None:
    """What looks at the backbone while it trains; None where it is not wanted, or the corpus is not finished."""
    if options.probe_every == 0 or not corpus.complete:
        return None
    every = options.probe_every or max(1, math.ceil(options.steps / TIMES))
    looks = 1 + math.ceil(options.steps / every)
    samples = options.probe_samples or affordable(options.steps * options.batch_size, looks)
    probe = Probe(corpus, training, held_out, samples)
    return Probing(probe, every, options.steps, options.seed)


def _when_complete(place: Path | str, patience: float = PATIENCE_S) -> Corpus:
    """The corpus once it is finished: only then has it the identity that weights name.

    Raises:
        UserError: it was not finished within ``patience`` seconds.
    """
    until = time.monotonic() + patience
    while not Corpus(place).complete:
        if time.monotonic() > until:
            raise UserError(f"corpus '{place}' was not finished within {patience:g} s after training; run this again")
        time.sleep(1)
    return Corpus(place)


def _check(options: TrainOptions) -> None:
    for name, value in (("steps", options.steps), ("batch-size", options.batch_size)):
        if value < 1:
            raise UserError(f"--{name} is {value}; expected 1 or more")
    for name, number, least in (("every", options.probe_every, 0), ("samples", options.probe_samples, 2)):
        if number is not None and number < least:
            raise UserError(f"--probe-{name} is {number}; expected {least} or more")
    if not 0 < options.learning_rate < 1:
        raise UserError(f"--learning-rate is {options.learning_rate}; expected a number between 0 and 1")


def _finished(out: Path, options: TrainOptions, parent: dict[str, Any]) -> Weights | None:
    """The weights in ``out`` when they are of the same options and corpus; UserError when they are of others."""
    if not (out / CONFIG).exists():
        return None
    there = read_config(out)
    for option in fields(options):
        default = option.default if option.default_factory is MISSING else option.default_factory()
        asked, made = plain(getattr(options, option.name)), there.training.get(option.name, default)
        if made != asked and option.name not in HOW_LOOKED_AT:
            raise UserError(
                f"'{out}' holds weights with {option.name} {made}, asked for was {asked}; choose another --out"
            )
    if there.corpus.get("identity") != parent["identity"]:
        raise UserError(f"'{out}' holds weights of another corpus ({there.corpus.get('name')}); choose another --out")
    return there


def _fit(
    objective: Objective, stream: Stream, out: Path, options: TrainOptions, identity: str, probing: Probing | None
) -> float:
    """Run the steps that are left; returns seconds taken now."""
    checkpoints = out / "checkpoints"
    last = checkpoints / f"{identity[:12]}-last.ckpt"
    saver = ModelCheckpoint(
        checkpoints,
        filename=f"{identity[:12]}-step",
        every_n_train_steps=CHECKPOINT_STEPS,
        save_last=True,
        save_top_k=1,
        enable_version_counter=False,
    )
    saver.CHECKPOINT_NAME_LAST = last.stem
    module = Pretraining(objective, options, prepared=stream.transform is not None)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # its tips and hardware lines
    started = time.perf_counter()
    with progress_bar(f"pretrain {options.backbone} {options.objective}", "steps") as show, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about loader workers and loggers does not apply
        trainer = lightning.Trainer(
            max_steps=options.steps,
            max_epochs=-1,
            accelerator="auto",
            devices=1,
            enable_model_summary=False,
            enable_progress_bar=False,
            callbacks=[saver, ShowProgress(show, options.steps), *([probing] if probing else [])],
            log_every_n_steps=10,
            precision="bf16-mixed" if options.precision == "bf16" else "32-true",
            logger=CSVLogger(out, name="log", version=0),
            gradient_clip_val=GRADIENT_NORM,
        )
        try:
            trainer.fit(module, stream, ckpt_path=str(last) if last.exists() else None)
        except SystemExit as error:  # Lightning's answer to Ctrl-C; ours is given by the front door
            raise KeyboardInterrupt from error
    return time.perf_counter() - started


@torch.no_grad()
def _figures(objective: Objective, corpus: Merged, indices: npt.NDArray[np.int64]) -> dict[str, float]:
    """The objective's figures on the held-out samples."""
    objective = objective.eval()
    device = next(objective.parameters()).device
    return objective.evaluate(HeldOut(corpus, thinned(indices, MOST_EVALUATED), device, objective.labels))


@torch.no_grad()
def embed(backbone: Backbone, images: torch.Tensor, batch_size: int = 16) -> torch.Tensor:
    """Pooled features ``[N, F]`` of volumes ``[N, C, D, H, W]`` as stored; standardised here, backbone in eval mode."""
    backbone = backbone.eval()
    device = next(backbone.parameters()).device
    parts = [backbone(standardise(part).to(device)).float().cpu() for part in images.split(batch_size)]
    return torch.cat(parts)
