"""Train latent diffusion on a corpus: the autoencoder, the denoising U-Net in its latent, a ControlNet if asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from synth.corpus import Corpus
from synth.diffusion import networks
from synth.diffusion.conditions import Condition, encode, learn, width
from synth.diffusion.folder import LATENTS, claim, finish, loss_in, save, write_whole
from synth.diffusion.latents import statistics, write_stage
from synth.diffusion.learning import Course, initialised, precision_for
from synth.diffusion.learning import learn as run
from synth.diffusion.previews import Preview
from synth.diffusion.settings import TrainOptions
from synth.diffusion.stages import Frame, Latents, LearnAutoencoder, LearnControl, LearnDenoising
from synth.diffusion.weights import (
    AUTOENCODER,
    CONFIG,
    CONTROL,
    DIFFUSION,
    FORMAT,
    FORMAT_VERSION,
    LATENT_MEAN,
    DiffusionWeights,
    digest,
    digest_of,
    open_weights,
)
from synth.errors import UserError
from synth.storage import write_atomically
from synth.stream import Stream
from synth.versions import versions

STATISTICS_VOLUMES = 64


@dataclass(frozen=True)
class Training:
    """One training: where it reads and writes, and what is known before it starts."""

    corpus: Corpus
    out: Path
    options: TrainOptions
    conditions: list[Condition]
    frame: Frame

    def course(self, stage: Any) -> Course:
        """How a stage runs."""
        shape = [n + sum(pair) for n, pair in zip(self.corpus.image_shape[1:], self.frame.margins, strict=True)]
        precision = precision_for(self.options.precision, self.options.networks, shape)
        options = self.options
        return Course(self.out, stage.steps, stage.learning_rate, options.seed, precision, options.previews)

    def stream(self, corpus: Corpus, batch_size: int, labels: bool = False) -> Stream:
        """Batches of a corpus, the whole of it at most."""
        return Stream(corpus, min(batch_size, len(corpus)), self.options.seed, labels=labels)

    def vectors(self) -> npt.NDArray[np.float32]:
        """Condition vectors ``[N, K]`` of all volumes."""
        return np.stack([encode(self.conditions, entry["covariates"]) for entry in self.corpus.entries()])


def train_diffusion(corpus: Path, out: Path, options: TrainOptions) -> None:
    """Learn a latent diffusion model from a complete corpus, or go on where an interrupted run stopped.

    ``out`` gets autoencoder.safetensors, diffusion.safetensors (the U-Net's moving average), control.safetensors (if
    asked for), config.json (networks, grid, affine, conditions with ranges and categories, scale factor, intensity range,
    options, training corpus with its parents, versions), README.md (model card) and samples.png; while it trains also
    ``checkpoints``, ``log`` (CSV), ``progress`` (pictures) and ``latents.zarr``, of which log and progress stay. The
    folder is finished when it has config.json.

    Raises:
        UserError: no such corpus or an incomplete one, several channels or grids, a condition that none of it has, options
            out of range, volumes too small, an ``out`` that holds something else, a loss that is no longer finite.
    """
    opened = _open(corpus)
    margins = networks.margins(_shape(opened), options.networks)
    conditions = learn(opened, options.conditions)
    if options.control.steps and not opened.has_labels:
        raise UserError(f"corpus '{corpus}' has no label maps, which --control.steps needs; make it with LabelMap")
    given = _given(options, opened) if options.autoencoder.given else None
    identity = _identity(opened, options, given)
    if not claim(out, identity, options):
        low, high = _intensity(opened) if given is None else (given.frame.low, given.frame.high)
        frame = Frame(low, high, margins, _labels(opened) if options.control.steps else ())
        _train(Training(opened, out, options, conditions, frame), given, identity)
    else:
        print(f"{out}: already trained on this corpus with these options")
    finish(open_weights(out))


def _identity(corpus: Corpus, options: TrainOptions, given: DiffusionWeights | None) -> str:
    """Checksum of everything that a training depends on. Files count by what they hold: at another place they are the same,
    and others at the same place are not.

    Raises:
        UserError: no such perceptual network.
    """
    told = dataclasses.asdict(options)
    stage = told["autoencoder"]
    if given is not None:
        stage["given"] = digest_of(digest(given.path / AUTOENCODER), given.config["intensity"])
    if stage["perceptual_network"]:
        path = Path(stage["perceptual_network"])
        if not path.is_file():
            raise UserError(
                f"there is no file '{path}' (--autoencoder.perceptual-network); expected a MedicalNet ResNet-10"
            )
        stage["perceptual_network"] = digest(path)
    return hashlib.sha256(json.dumps([corpus.identity(), told]).encode()).hexdigest()


def _train(training: Training, given: DiffusionWeights | None, identity: str) -> None:
    autoencoder, loss = _learn_autoencoder(training, given)
    losses = {"autoencoder": loss}
    write_stage(training.out, training.options.networks, training.frame)
    stored = _encode(training)
    latents = statistics(stored, training.options.diffusion.centred)
    unet, losses["diffusion"] = _learn_denoising(training, stored, latents, autoencoder)
    if training.options.control.steps:
        losses["control"] = _learn_control(training, latents, autoencoder, unet)
    config = _config(training, latents, losses, identity)
    write_atomically(training.out / CONFIG, json.dumps(config, indent=1))


def _shape(corpus: Corpus) -> tuple[int, int, int]:
    d, h, w = corpus.image_shape[1:]
    return d, h, w


def _open(path: Path) -> Corpus:
    corpus = Corpus(path)
    if not corpus.complete:
        raise UserError(f"corpus '{path}' is not complete; run its generate command again before training on it")
    if corpus.image_shape[0] != 1:
        raise UserError(f"corpus '{path}' has {corpus.image_shape[0]} channels; latent diffusion learns volumes of one")
    if corpus.attributes.get("affine") is None:
        raise UserError(f"the volumes of '{path}' have different affines; expected one grid for all of them")
    return corpus


def _labels(corpus: Corpus) -> tuple[int, ...]:
    """Label numbers that the corpus's generator can write, background first."""
    return tuple(sorted({0, *(int(number) for number in corpus.header.labels)}))


def _given(options: TrainOptions, corpus: Corpus) -> DiffusionWeights:
    """The finished weights whose autoencoder is taken.

    Raises:
        UserError: no such weights, or of another size or grid.
    """
    weights = open_weights(Path(options.autoencoder.given))
    if weights.config["networks"] != json.loads(json.dumps(dataclasses.asdict(options.networks))):
        raise UserError(
            f"--autoencoder.given '{weights.path}' has networks of another size; take its recipe's networks"
        )
    if weights.shape != _shape(corpus):
        raise UserError(f"--autoencoder.given '{weights.path}' was trained on volumes of {weights.shape} voxels")
    return weights


def _intensity(corpus: Corpus) -> tuple[float, float]:
    """The values that become 0 and 1: 0.1 % and 99.9 % of the voxels of up to 64 volumes spread over the corpus."""
    ends = [np.percentile(corpus.image(int(i)).astype(np.float32), [0.1, 99.9]) for i in spread_over(corpus)]
    low, high = np.median(ends, axis=0)
    if not high > low:
        raise UserError(f"the volumes of '{corpus.path}' are of one value; there is nothing to learn from them")
    return float(low), float(high)


def spread_over(corpus: Corpus, count: int = STATISTICS_VOLUMES) -> npt.NDArray[np.integer[Any]]:
    """Numbers of up to ``count`` volumes evenly spread over a corpus."""
    return np.unique(np.linspace(0, len(corpus) - 1, count).astype(int))


def _learn_autoencoder(training: Training, given: DiffusionWeights | None) -> tuple[networks.Autoencoder, float]:
    """The trained autoencoder, from its file if an interrupted run had come that far, and its last loss."""
    options, path = training.options, training.out / AUTOENCODER
    model: networks.Autoencoder = initialised(options.seed, lambda: networks.Autoencoder(options.networks))
    if given is not None and not path.exists():
        write_whole(path, lambda part: shutil.copyfile(given.path / AUTOENCODER, part))
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval(), loss_in(path)
    some = spread_over(training.corpus)
    model.start_from(training.frame.image(_image(training.corpus, int(index))) for index in some)
    stage = LearnAutoencoder(model, training.course(options.autoencoder), options.autoencoder, training.frame)
    stage.draw = Preview(training.corpus, training.frame).reconstructions(stage)
    loss = run(stage, training.stream(training.corpus, options.autoencoder.batch_size))
    save(model, path, loss)
    return model.eval(), loss


def _image(corpus: Corpus, index: int) -> Tensor:
    return torch.from_numpy(corpus.image(index).astype(np.float32))[None]


def _encode(training: Training) -> Corpus:
    """The corpus's latents, made by the engine; a killed run goes on at the shard it had come to."""
    from synth.engine import Job, generate
    from synth.generator import GeneratorSpec
    from synth.progress import progress_bar

    path = training.out / LATENTS
    spec = GeneratorSpec(
        "synth.diffusion.latents.EncodedLatents",
        {"corpus": Path(str(training.corpus.path)), "weights": training.out},
    )
    with progress_bar("encode") as progress:
        outcome = generate(Job(spec, len(training.corpus), 0, path, dtype="float16"), 0, progress=progress)
    if outcome.failed:
        raise UserError(f"the corpus could not be encoded: {next(iter(outcome.failed.values()))}")
    return Corpus(path)


def _learn_denoising(
    training: Training, stored: Corpus, latents: Latents, autoencoder: networks.Autoencoder
) -> tuple[nn.Module, float]:
    """Train the U-Net on the latents and write its moving average; returns that and the last loss."""
    options, path = training.options, training.out / DIFFUSION
    unet = initialised(options.seed, lambda: networks.build_unet(options.networks, width(training.conditions)))
    if path.exists():
        unet.load_state_dict({name: t for name, t in load_file(path).items() if name != LATENT_MEAN})
        return unet, loss_in(path)
    stage = LearnDenoising(
        unet,
        training.course(options.diffusion),
        options.diffusion,
        latents,
        training.conditions,
        training.vectors(),
    )
    preview = Preview(training.corpus, training.frame)
    stage.draw = preview.samples(stage, autoencoder, latents, training.conditions, options.diffusion.prediction)
    loss = run(stage, training.stream(stored, options.diffusion.batch_size))
    save(stage.kept, path, loss, {LATENT_MEAN: latents.centre})
    return stage.kept, loss


def _learn_control(training: Training, latents: Latents, autoencoder: networks.Autoencoder, unet: nn.Module) -> float:
    """Train the ControlNet and write its moving average; returns the last loss."""
    options, path = training.options, training.out / CONTROL
    if path.exists():
        return loss_in(path)
    kinds, told = len(training.frame.labels), width(training.conditions)
    control: networks.Control = initialised(
        options.seed, lambda: networks.Control(options.networks, told, kinds, options.control.channels)
    )
    control.start_from(unet)
    stage = LearnControl(
        control,
        (autoencoder, unet),
        training.frame,
        course=training.course(options.control),
        options=options.diffusion,
        latents=latents,
        conditions=training.conditions,
        vectors=training.vectors(),
    )
    stage.draw = Preview(training.corpus, training.frame).controlled(stage, training.conditions)
    loss = run(stage, training.stream(training.corpus, options.control.batch_size, labels=True))
    save(stage.kept, path, loss)
    return loss


def _config(training: Training, latents: Latents, losses: dict[str, float], identity: str) -> dict[str, Any]:
    """Everything about the weights that the tensors do not say."""
    options, corpus, frame = training.options, training.corpus, training.frame
    controlled = bool(options.control.steps)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "identity": identity,
        "networks": dataclasses.asdict(options.networks),
        "prediction": options.diffusion.prediction,
        "untold_each": options.diffusion.untold_each,
        "shape": list(_shape(corpus)),
        "affine": corpus.attributes["affine"],
        "latent_shape": list(latents.centre.shape),
        "scale_factor": latents.scale,
        "conditions": [condition.as_json() for condition in training.conditions],
        "intensity": {"low": frame.low, "high": frame.high, "becomes": [0, 1]},
        "control": {"channels": list(options.control.channels)} if controlled else None,
        "labels": {str(n): corpus.header.labels.get(str(n), "background") for n in frame.labels},
        "options": dataclasses.asdict(options),
        "losses": losses,
        "corpus": corpus.parent(),
        "versions": versions(("torch", "monai", "lightning", "safetensors")),
    }
