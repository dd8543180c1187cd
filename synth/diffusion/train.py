"""Train latent diffusion on a corpus: first the autoencoder, then the denoising U-Net in its latent."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from synth.corpus import Corpus
from synth.diffusion import networks
from synth.diffusion.card import write_card, write_picture
from synth.diffusion.checkpoint import Keeper, Stage, write_whole
from synth.diffusion.conditions import UNTOLD, Condition, learn, width
from synth.diffusion.conditions import encode as encode_conditions
from synth.diffusion.weights import (
    AUTOENCODER,
    CONFIG,
    DIFFUSION,
    FORMAT,
    FORMAT_VERSION,
    LATENT_MEAN,
    DiffusionWeights,
)
from synth.errors import UserError, near
from synth.keys import rng_for
from synth.progress import progress_bar
from synth.storage import write_atomically
from synth.versions import versions

MARK, CHECKPOINT = "training.json", "checkpoint.pt"
KL_WEIGHT = 1e-8  # of the sum over a volume's latent; 1e-6 (Rombach et al. 2022) emptied half the channels here
UNTOLD_SHARE = 0.1  # of volumes shown without conditions, so that guidance works (Ho & Salimans 2022)
EMA_DECAY = 0.999
LOSS_MEMORY = 0.98
STATISTICS_VOLUMES = 64
BF16_LEAST_CELLS = 4  # along the shortest axis of the coarsest level


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
        size: tiny, small or published.
        autoencoder_steps, diffusion_steps: optimiser steps of the two stages.
        batch_size: volumes a step (all of them if the corpus has fewer).
        conditions: covariates of the corpus that the model is told.
        seed: of initialisation, order and noise.
    """

    size: str = "tiny"
    autoencoder_steps: int = 400
    diffusion_steps: int = 800
    batch_size: int = 8
    conditions: tuple[str, ...] = ("age", "sex", "diagnosis")
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size not in networks.SIZES:
            raise UserError(f"--size is '{self.size}'; near: {near(self.size, networks.SIZES)}")
        for name in ("autoencoder_steps", "diffusion_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; expected 1 or more")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed is {self.seed}; expected 0 or more")


@dataclass(frozen=True)
class Course:
    """One training: where it reads, writes and computes."""

    corpus: Corpus
    out: Path
    options: TrainOptions
    conditions: list[Condition]
    intensity: tuple[float, float]
    device: torch.device
    keeper: Keeper

    @property
    def size(self) -> networks.Size:
        """The networks' size."""
        return networks.SIZES[self.options.size]

    @property
    def shape(self) -> tuple[int, int, int]:
        """[D, H, W] of the corpus."""
        return self.corpus.image_shape[1:]

    def volumes(self, indices: npt.NDArray[np.integer[Any]]) -> Tensor:
        """Padded images ``[B, 1, D, H, W]`` in [0, 1] on the device."""
        low, high = self.intensity
        images = np.stack([self.corpus.image(int(index)).astype(np.float32) for index in indices])
        scaled = np.clip((images - low) / (high - low), 0, 1)
        margins = networks.margins(self.shape, self.size)
        return torch.from_numpy(np.pad(scaled, ((0, 0), (0, 0), *margins))).to(self.device)


def train_diffusion(corpus: Path, out: Path, options: TrainOptions) -> None:
    """Learn a latent diffusion model from a complete corpus, or go on where an interrupted run stopped.

    ``out`` gets autoencoder.safetensors, diffusion.safetensors (the U-Net's moving average), config.json (networks,
    grid, affine, conditions with ranges and categories, latent mean and scale factor, intensity range, options,
    training corpus with its parents, versions), README.md (model card) and samples.png. The folder is finished when
    it has config.json. The whole corpus's latents are held in memory (4 bytes × latent numbers × volumes).

    Raises:
        UserError: no such corpus or an incomplete one, several channels or grids, a condition that it lacks, options
            out of range, volumes too small, an ``out`` that holds something else, a loss that is no longer finite.
    """
    opened = _open(corpus)
    networks.margins(opened.image_shape[1:], networks.SIZES[options.size])
    conditions = learn(opened, options.conditions)
    identity = hashlib.sha256(json.dumps([opened.identity(), dataclasses.asdict(options)]).encode()).hexdigest()
    if not _claim(out, identity, options):
        course = Course(
            opened, out, options, conditions, _intensity(opened), networks.best_device(), Keeper(out / CHECKPOINT)
        )
        autoencoder, autoencoder_loss = _learn_autoencoder(course)
        latents = _Latents.of(course, autoencoder)
        diffusion_loss = _learn_diffusion(course, latents)
        losses = {"autoencoder": autoencoder_loss, "diffusion": diffusion_loss}
        write_atomically(out / CONFIG, json.dumps(_config(course, latents, losses, identity), indent=1))
    else:
        print(f"{out}: already trained on this corpus with these options")
    _finish(out)


def _open(path: Path) -> Corpus:
    corpus = Corpus(path)
    if not corpus.complete:
        raise UserError(f"corpus '{path}' is not complete; run its generate command again before training on it")
    if corpus.image_shape[0] != 1:
        raise UserError(f"corpus '{path}' has {corpus.image_shape[0]} channels; latent diffusion learns volumes of one")
    if corpus.attributes.get("affine") is None:
        raise UserError(f"the volumes of '{path}' have different affines; expected one grid for all of them")
    return corpus


def _claim(out: Path, identity: str, options: TrainOptions) -> bool:
    """Mark the folder as this training's. True when it holds the finished weights already. UserError if another's."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = {path.name for path in out.iterdir() if not path.name.startswith(".")}
        for name, state in ((CONFIG, "finished weights"), (MARK, "an interrupted training")):
            if name in held:
                if _identity(out / name) != identity:
                    raise UserError(f"'{out}' holds {state} of another corpus or other options; choose another --out")
                return name == CONFIG
        if held:
            raise UserError(f"'{out}' holds other files ({', '.join(sorted(held)[:3])}); choose an empty or new --out")
        write_atomically(out / MARK, json.dumps({"identity": identity, "options": dataclasses.asdict(options)}))
    except OSError as error:
        raise UserError(f"cannot write weights to '{out}' ({error.strerror or error}); choose another --out") from error
    return False


def _identity(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["identity"])
    except (ValueError, KeyError, TypeError):
        return ""


def _finish(out: Path) -> None:
    """Card and picture where they are missing; leftovers of the training away."""
    weights = DiffusionWeights(out, json.loads((out / CONFIG).read_text()))
    write_card(weights)
    if not (out / "samples.png").exists():
        write_whole(out / "samples.png", lambda path: write_picture(weights, path))
    for name in (CHECKPOINT, MARK, f".{CHECKPOINT}.part"):
        (out / name).unlink(missing_ok=True)


def _intensity(corpus: Corpus) -> tuple[float, float]:
    """The values that become 0 and 1: 0.1 % and 99.9 % of the voxels of up to 64 volumes spread over the corpus."""
    ends = [np.percentile(corpus.image(int(i)).astype(np.float32), [0.1, 99.9]) for i in spread_over(corpus)]
    low, high = np.median(ends, axis=0)
    if not high > low:
        raise UserError(f"the volumes of '{corpus.path}' are of one value; there is nothing to learn from them")
    return float(low), float(high)


def spread_over(corpus: Corpus) -> npt.NDArray[np.integer[Any]]:
    """Numbers of up to 64 volumes evenly spread over a corpus, for statistics."""
    return np.unique(np.linspace(0, len(corpus) - 1, STATISTICS_VOLUMES).astype(int))


def batch_of(seed: int, step: int, count: int, batch_size: int) -> npt.NDArray[np.integer[Any]]:
    """Sample numbers of one step: every epoch shows each volume once in an order of (seed, epoch) alone; what is left
    over after the last whole batch of an epoch waits for another one."""
    size = min(batch_size, count)
    epoch, position = divmod(step, count // size)
    return _order(seed, epoch, count)[position * size : (position + 1) * size]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> npt.NDArray[np.integer[Any]]:
    return rng_for(seed, epoch, "diffusion order").permutation(count)


def rate_at(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up over 5 % (at most 500 steps), then a cosine down to 0."""
    warm = min(max(1, steps // 20), 500)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _initialised(seed: int, build: Callable[[], nn.Module]) -> Any:
    """A network whose first weights depend on the seed alone; torch's global stream is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed % 2**63)
        return build()


def _stage(name: str, model: nn.Module, rate: float, course: Course, averaged: bool) -> Stage:
    model = model.to(course.device).train()
    average = copy.deepcopy(model).requires_grad_(False) if averaged else None
    return Stage(name, model, torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4), average)


def _fit(stage: Stage, steps: int, loss_of: Callable[[int], Tensor], course: Course) -> None:
    """Optimise, from the checkpoint on if there is one."""
    first = course.keeper.restore(stage)
    peaks = [group.get("initial_lr", group["lr"]) for group in stage.optimizer.param_groups]
    with progress_bar(f"train {stage.name}", "steps") as progress:
        progress(first, steps)
        for step in range(first, steps):
            for group, peak in zip(stage.optimizer.param_groups, peaks, strict=True):
                group["initial_lr"], group["lr"] = peak, peak * rate_at(step, steps)
            _one_step(stage, step, loss_of)
            course.keeper.keep(stage, step + 1)
            progress(step + 1, steps)


def _one_step(stage: Stage, step: int, loss_of: Callable[[int], Tensor]) -> None:
    loss = loss_of(step)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise UserError(
            f"the loss of the {stage.name} is {value} at step {step}; try another --seed or a larger --batch-size"
        )
    stage.loss = value if math.isnan(stage.loss) else LOSS_MEMORY * stage.loss + (1 - LOSS_MEMORY) * value
    stage.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(stage.model.parameters(), 1.0)
    if not torch.isfinite(norm):  # one bad batch of gradients must not ruin the weights
        return
    stage.optimizer.step()
    if stage.average is not None:
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        for mean, now in zip(stage.average.parameters(), stage.model.parameters(), strict=True):
            mean.lerp_(now.detach(), 1 - decay)


def _autocast(course: Course) -> torch.autocast:
    """bfloat16 where the processor computes in it: on CPU cores that do, it halved the time of a step.

    Not on a CPU when the coarsest level is small: torch 2.13's bfloat16 gradients of a 3D convolution held NaN in 7 of
    40 steps at 2×2×2 cells, in none of 40 at 3×3×3.
    """
    if course.device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16, enabled=torch.cuda.is_bf16_supported())
    native = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    coarsest = min(-(-n // course.size.multiple) for n in course.shape)
    return torch.autocast("cpu", torch.bfloat16, enabled=native and coarsest >= BF16_LEAST_CELLS)


def _learn_autoencoder(course: Course) -> tuple[networks.Autoencoder, float]:
    """The trained autoencoder, from its file if an interrupted run had come that far, and its last loss."""
    options, path = course.options, course.out / AUTOENCODER
    model: networks.Autoencoder = _initialised(options.seed, lambda: networks.Autoencoder(course.size))
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.to(course.device).eval(), _loss_in(path)
    model.start_from(course.volumes(index) for index in spread_over(course.corpus)[:, None])
    stage = _stage("autoencoder", model, course.size.autoencoder_rate, course, averaged=False)

    def loss_of(step: int) -> Tensor:
        image = course.volumes(batch_of(options.seed, step, len(course.corpus), options.batch_size))
        with _autocast(course):
            return _autoencoder_loss(model, image, rng_for(options.seed, step, "autoencoder noise"))

    _fit(stage, options.autoencoder_steps, loss_of, course)
    _save(stage.model, path, stage.loss)
    return model.eval(), stage.loss


def _autoencoder_loss(model: networks.Autoencoder, image: Tensor, rng: np.random.Generator) -> Tensor:
    """Mean absolute error of the reconstruction plus the weighted Kullback-Leibler divergence to N(0, 1)."""
    mean, sd = model.encode(image)
    noise = torch.from_numpy(rng.standard_normal(mean.shape, np.float32)).to(mean.device)
    back = model.decode(mean + sd * noise)
    divergence = 0.5 * (mean**2 + sd**2 - 2 * torch.log(sd) - 1).sum() / len(image)
    return F.l1_loss(back, image) + KL_WEIGHT * divergence


@dataclass(frozen=True)
class _Latents:
    """Latent means of the whole corpus: ``scaled`` [N, c, d, h, w] = (latent − ``mean`` [c, d, h, w]) × ``scale``."""

    scaled: Tensor
    mean: Tensor
    scale: float

    @classmethod
    def of(cls, course: Course, autoencoder: networks.Autoencoder) -> _Latents:
        """Encode the corpus. The mean is taken off cell by cell, so that a short training need not learn where a head
        is; the rest is scaled to variance 1 (Rombach et al. 2022)."""
        count = len(course.corpus)
        parts = []
        with progress_bar("encode", "volumes") as progress, torch.inference_mode():
            for start in range(0, count, course.options.batch_size):
                indices = np.arange(start, min(count, start + course.options.batch_size))
                parts.append(autoencoder.encode(course.volumes(indices))[0].cpu())
                progress(int(indices[-1]) + 1, count)
        latents = torch.cat(parts).clone()
        mean = latents.mean(dim=0)
        scale = 1.0 / max(float((latents - mean).std()), 1e-6)
        return cls((latents - mean) * scale, mean, scale)


def _learn_diffusion(course: Course, latents: _Latents) -> float:
    """Train the U-Net on the latents and write its moving average; returns the last loss."""
    options, size, path = course.options, course.size, course.out / DIFFUSION
    if path.exists():
        return _loss_in(path)
    build = lambda: networks.build_unet(size, width(course.conditions))  # noqa: E731
    stage = _stage("diffusion", _initialised(options.seed, build), size.diffusion_rate, course, averaged=True)
    rows = [entry["covariates"] for entry in course.corpus.entries()]
    vectors = torch.from_numpy(np.stack([encode_conditions(course.conditions, row) for row in rows]))

    def loss_of(step: int) -> Tensor:
        chosen = batch_of(options.seed, step, len(course.corpus), options.batch_size)
        latent, vector = latents.scaled[chosen].to(course.device), vectors[chosen].to(course.device)
        with _autocast(course):
            return _diffusion_loss(stage.model, size, latent, vector, rng_for(options.seed, step, "diffusion step"))

    _fit(stage, options.diffusion_steps, loss_of, course)
    assert stage.average is not None
    _save(stage.average, path, stage.loss, {LATENT_MEAN: latents.mean})
    return stage.loss


def _diffusion_loss(
    unet: nn.Module, size: networks.Size, latent: Tensor, vector: Tensor, rng: np.random.Generator
) -> Tensor:
    """Mean squared error of what the U-Net foretells, at one random timestep per volume (Ho et al. 2020)."""
    scheduler = networks.train_scheduler(size)
    noise = torch.from_numpy(rng.standard_normal(latent.shape, np.float32)).to(latent.device)
    times = torch.from_numpy(rng.integers(0, networks.TRAIN_TIMESTEPS, len(latent))).to(latent.device)
    untold = torch.from_numpy(rng.random((len(latent), 1)) < UNTOLD_SHARE).to(latent.device)
    noisy = scheduler.add_noise(latent, noise, times)
    answer = networks.foretell(unet, noisy, times, vector.masked_fill(untold, UNTOLD))
    wanted = noise if size.prediction == "epsilon" else scheduler.get_velocity(latent, noise, times)
    return F.mse_loss(answer.float(), wanted)


def _save(model: nn.Module, path: Path, loss: float, further: Mapping[str, Tensor] = MappingProxyType({})) -> None:
    tensors = {name: t.detach().cpu().contiguous() for name, t in {**model.state_dict(), **further}.items()}
    write_whole(path, lambda part: save_file(tensors, part, metadata={"format": "pt", "loss": repr(loss)}))


def _loss_in(path: Path) -> float:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return float((file.metadata() or {}).get("loss", "nan"))


def _config(course: Course, latents: _Latents, losses: dict[str, float], identity: str) -> dict[str, Any]:
    """Everything about the weights that the tensors do not say."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "identity": identity,
        "size": course.options.size,
        "networks": dataclasses.asdict(course.size),
        "shape": list(course.shape),
        "affine": course.corpus.attributes["affine"],
        "latent_shape": list(latents.scaled.shape[1:]),
        "scale_factor": latents.scale,
        "conditions": [condition.as_json() for condition in course.conditions],
        "intensity": {"low": course.intensity[0], "high": course.intensity[1], "becomes": [0, 1]},
        "options": dataclasses.asdict(course.options),
        "losses": losses,
        "corpus": course.corpus.parent(),
        "versions": versions(("torch", "monai", "safetensors")),
    }
