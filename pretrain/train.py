"""Pre-training: corpus and options to weights, resumable at the batch it stopped at."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from pretrain.backbones import Backbone
from pretrain.feed import Feed
from pretrain.held_out import HeldOut, split
from pretrain.intensity import standardise
from pretrain.launch import World, on_ray, together, world_here
from pretrain.lightning_parts import WholeCheckpoints
from pretrain.loggers import USUAL, check_loggers, make_loggers
from pretrain.meter import Meter
from pretrain.module import GRADIENT_NORM, Pretraining
from pretrain.objectives import find_objectives, make_objective
from pretrain.objectives.base import Objective
from pretrain.options import HOW_LOOKED_AT, TrainOptions
from pretrain.out_of_memory import told_simply
from pretrain.probing import TIMES, Probe, Probing, affordable, thinned
from pretrain.starts import Report, make_start
from pretrain.weights import CONFIG, Weights, read_config, remove_folder, save_weights
from synth.corpus import Corpus
from synth.errors import UserError
from synth.plugins import plain
from synth.progress import progress_bar
from synth.sample import spacing_of
from synth.storage import write_atomically
from synth.stream import PATIENCE_S, Stream
from synth.stream.merged import Merged

CHECKPOINTS, BEGUN = "checkpoints", "run.json"
CHECKPOINT_STEPS = 100
MOST_EVALUATED = (
    4096  # held-out samples behind the card's figures: a tenth of a million would take longer than training
)


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
    loggers: Sequence[str] = USUAL,
    address: str | None = None,
) -> Weights:
    """Pre-train a backbone on a corpus and write weights to ``out``; goes on from a checkpoint left by a killed run.

    In this process, in one of those that torchrun started, or, with ``options.workers`` above 1 or an ``address``, in
    Ray Train workers. The last tenth of every corpus is held out for the figures on the model card.

    Args:
        corpora: one corpus, or several to mix.
        out: folder of the weights; of several nodes, one that all of them see.
        options: how to train.
        ratios: share of each corpus in the batches; by their sizes if not given.
        follow: begin while the corpus is still being made.
        loggers: see :mod:`pretrain.loggers`.
        address: of a running Ray cluster.

    Raises:
        UserError: bad options or corpus, an ``out`` that holds other weights, too little memory.
    """
    options.check()
    check_loggers(loggers)
    places = [corpora] if isinstance(corpora, Path) else list(corpora)
    here = world_here()
    options = here.told(options)
    if here.size == 1 and (options.workers > 1 or address):
        job = begin(places, out, options, ratios, follow)
        if not isinstance(job, Weights):
            on_ray(places, out, options, ratios, follow, loggers, address)
        return read_config(out)
    job = begin(places, out, options, ratios, follow)
    if isinstance(job, Weights):
        return job
    if job.start and here.first:
        print("\n".join(job.start.lines()), file=sys.stderr)
    with told_simply(options, job.corpus.image_shape, here.local_size):
        kept, costs, probing = _fit(job, out, options, loggers, here)
    if here.first:
        _finish(job, kept, costs, probing, out, options, places, ratios)
    together()  # nobody reads weights that are not there yet
    return read_config(out)


@dataclass
class Job:
    """What a run begins with.

    Attributes:
        identity: of the corpora and their mixture: a checkpoint of other ones is none of ours.
        parent: the corpus as weights name it; None while it is still being made.
    """

    corpus: Merged
    backbone: Backbone
    objective: Objective
    training: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]
    identity: str
    parent: dict[str, Any] | None
    start: Report | None
    follow: bool


def begin(
    places: Sequence[Path | str], out: Path, options: TrainOptions, ratios: Sequence[float] | None, follow: bool
) -> Job | Weights:
    """Open and check everything, write nothing; the weights in ``out`` where they are these already.

    Raises:
        UserError: something does not fit.
    """
    corpus = Merged([Corpus(place) for place in places], ratios)
    classes = find_objectives(options.objective).values()
    if follow and not corpus.complete and any(cls.needs_covariates for cls in classes):
        raise UserError(
            f"--follow with --objective {options.objective}: its targets are known when the corpus is finished; "
            "take mae, or wait"
        )
    channels, d, h, w = corpus.image_shape
    backbone, start = make_start(options.init, options.backbone, (d, h, w), channels, options.seed)
    training, held_out = split(corpus)
    parent = corpus.parent() if corpus.complete else None
    finished = _finished(out, options, parent) if parent else None
    if finished:
        return finished
    objective = make_objective(options.objective, backbone, corpus, options.seed, options.objective_options)
    if options.batch_size < objective.smallest_batch:
        raise UserError(
            f"--batch-size is {options.batch_size}; --objective {options.objective} needs {objective.smallest_batch} or more"
        )
    recipe = " ".join(part.header.checksum for part in corpus.corpora)
    identity = hashlib.sha256(f"{recipe} {corpus.ratios}".encode()).hexdigest()
    begun = out / CHECKPOINTS / BEGUN
    if last_checkpoint(out, identity).exists() and begun.exists():
        refuse_others(options, json.loads(begun.read_text()), f"'{out}' holds the checkpoint of a run")
    return Job(corpus, backbone, objective, training, held_out, identity, parent, start, follow)


def _finish(
    job: Job,
    kept: Objective,
    costs: dict[str, Any],
    probing: Probing | None,
    out: Path,
    options: TrainOptions,
    places: Sequence[Path | str],
    ratios: Sequence[float] | None,
) -> None:
    """Figures on held-out samples, weights, card; then the checkpoints go."""
    corpus, parent = job.corpus, job.parent
    if parent is None:
        corpus = Merged([_when_complete(place) for place in places], ratios)
        parent = corpus.parent()
    channels, d, h, w = corpus.image_shape
    about = Weights(
        job.backbone.name,
        (d, h, w),
        spacing_of(np.array(corpus.entry(0)["affine"])),
        channels,
        options.objective,
        {**asdict(options), **costs},
        _figures(kept, corpus, job.held_out) | (probing.summary() if probing else {}),
        parent,
        options=job.backbone.word.partition(":")[2],
        start=job.start.record() if job.start else None,
    )
    save_weights(out, kept.backbone, about)
    remove_folder(out / CHECKPOINTS)


def make_stream(job: Job, options: TrainOptions, here: World) -> Stream:
    """Batches to train on. With a GPU they are prepared there, ahead; a CPU has no idle part to do it."""
    on_gpu = torch.cuda.is_available()
    return Stream(
        job.corpus,
        options.batch_size,
        options.seed,
        job.training,
        here.rank,
        here.size,
        labels=job.objective.labels,
        device=f"cuda:{here.local_rank}" if on_gpu else "cpu",
        transform=job.objective.prepare if on_gpu else None,
        follow=job.follow,
    )


def _probing(
    corpus: Merged, options: TrainOptions, training: npt.NDArray[np.int64], held_out: npt.NDArray[np.int64]
) -> Probing | None:
    """What looks at the backbone while it trains; None where it is not wanted, or the corpus is not finished."""
    if options.probe_every == 0 or not corpus.complete:
        return None
    every = options.probe_every or max(1, math.ceil(options.steps / TIMES))
    looks = 1 + math.ceil(options.steps / every)
    samples = options.probe_samples or affordable(options.steps * options.volumes_a_step, looks)
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


def _finished(out: Path, options: TrainOptions, parent: dict[str, Any]) -> Weights | None:
    """The weights in ``out`` when they are of the same options and corpus; UserError when they are of others."""
    if not (out / CONFIG).exists():
        return None
    there = read_config(out)
    refuse_others(options, there.training, f"'{out}' holds weights")
    if there.corpus.get("identity") != parent["identity"]:
        raise UserError(f"'{out}' holds weights of another corpus ({there.corpus.get('name')}); choose another --out")
    return there


def refuse_others(options: TrainOptions, made: dict[str, Any], what: str) -> None:
    """Raise UserError when ``made``, the options of ``what``, are not those asked for."""
    for option in fields(options):
        default = option.default if option.default_factory is MISSING else option.default_factory()
        asked, there = plain(getattr(options, option.name)), made.get(option.name, default)
        if there != asked and option.name not in HOW_LOOKED_AT:
            raise UserError(f"{what} with {option.name} {there}, asked for was {asked}; choose another --out")


def last_checkpoint(out: Path, identity: str) -> Path:
    """Where a run's last checkpoint is; ``identity``: of its corpora and their mixture."""
    return out / CHECKPOINTS / f"{identity[:12]}-last.ckpt"


def _fit(
    job: Job, out: Path, options: TrainOptions, loggers: Sequence[str], here: World
) -> tuple[Objective, dict[str, Any], Probing | None]:
    """Run the steps that are left; returns the objective to keep, what the run took, and what looked at it."""
    last = last_checkpoint(out, job.identity)
    stream = make_stream(job, options, here)
    feed = Feed(stream, options.steps * options.accumulate)
    probing = _probing(job.corpus, options, job.training, job.held_out) if here.first else None
    module = Pretraining(job.objective, options, prepared=stream.transform is not None)
    meter = Meter(feed, options, lambda: probing.seconds if probing else 0.0)
    if here.first:
        last.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(last.parent / BEGUN, json.dumps(plain(asdict(options))))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # its tips and hardware lines
    settings = here.for_lightning()
    title = f"pretrain {options.backbone} {options.objective}"
    with progress_bar(title, "steps", here.first) as show, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about loader workers and loggers does not apply
        trainer = lightning.Trainer(
            max_steps=options.steps,
            max_epochs=-1,
            accelerator="auto",
            enable_model_summary=False,
            enable_progress_bar=False,
            callbacks=[meter, ShowProgress(show, options.steps), *([probing] if probing else []), _saver(last)],
            log_every_n_steps=meter.every,
            accumulate_grad_batches=options.accumulate,
            precision="bf16-mixed" if options.precision == "bf16" else "32-true",
            logger=make_loggers(loggers, out, step_of(last), here.first),
            gradient_clip_val=GRADIENT_NORM,
            plugins=[WholeCheckpoints(), *settings.pop("plugins", [])],
            **settings,
        )
        try:
            trainer.fit(module, feed, ckpt_path=str(last) if last.exists() else None)
        except SystemExit as error:  # Lightning's answer to Ctrl-C; ours is given by the front door
            raise KeyboardInterrupt from error
    return module.kept, meter.summary(), probing


def _saver(last: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        last.parent,
        filename=last.stem,
        every_n_train_steps=CHECKPOINT_STEPS,
        save_top_k=1,
        enable_version_counter=False,  # the next one takes the place of the one before
    )


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was written after; 0 where there is none."""
    if not checkpoint.exists():
        return 0
    return int(torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)["global_step"])


@torch.no_grad()
def _figures(objective: Objective, corpus: Merged, indices: npt.NDArray[np.int64]) -> dict[str, float]:
    """The objective's figures on the held-out samples."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    objective = objective.to(device).eval()  # Lightning takes it back to the CPU when it ends
    return objective.evaluate(HeldOut(corpus, thinned(indices, MOST_EVALUATED), device, objective.labels))


@torch.no_grad()
def embed(backbone: Backbone, images: torch.Tensor, batch_size: int = 16) -> torch.Tensor:
    """Pooled features ``[N, F]`` of volumes ``[N, C, D, H, W]`` as stored; standardised here, backbone in eval mode."""
    backbone = backbone.eval()
    device = next(backbone.parameters()).device
    parts = [backbone(standardise(part).to(device)).float().cpu() for part in images.split(batch_size)]
    return torch.cat(parts)
