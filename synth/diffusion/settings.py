"""What a recipe of latent diffusion says: networks, losses, steps. Plain records, quick to import."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from synth.errors import UserError

RECIPES = Path(__file__).parent / "recipes"
Prediction = Literal["epsilon", "v_prediction", "rectified_flow"]
SAMPLERS = {
    "epsilon": ("ddim", "pndm"),
    "v_prediction": ("ddim", "pndm"),
    "rectified_flow": ("adams_bashforth", "rectified_flow"),
}
"""Samplers of what a U-Net foretells, the usual one first."""
STEPS = {"ddim": 25, "pndm": 25, "adams_bashforth": 10, "rectified_flow": 10}
"""Usual number of steps of a sampler."""


@dataclass(frozen=True)
class Size:
    """How large the two networks are.

    Attributes:
        fold: every fold³ voxels become channels before the autoencoder (1: none), which spares a CPU the fine grid.
        latent_channels: channels of the latent.
        shortcut: whether the autoencoder learns only what principal components of blocks do not give.
        channels: of the autoencoder, per level, levels being 2× apart.
        blocks: residual blocks per level of the autoencoder.
        groups: of its GroupNorm.
        unet_channels: the same of the denoising U-Net, per level.
        unet_blocks: residual blocks per level of the U-Net.
        unet_groups: of its GroupNorm.
        attention: at which U-Net levels the conditions enter by cross-attention too.
        head_channels: channels per attention head, per level.
        resblock_updown: whether residual blocks (not strided convolutions) change the U-Net's resolution.
        embedded: whether the conditions are added to the embedding of the time too, so that every residual block hears
            them; as constant maps and by cross-attention alone they are learnt slowly.
    """

    fold: int = 2
    latent_channels: int = 8
    shortcut: bool = True
    channels: tuple[int, ...] = (16, 32)
    blocks: int = 1
    groups: int = 8
    unet_channels: tuple[int, ...] = (32, 64)
    unet_blocks: int = 1
    unet_groups: int = 16
    attention: tuple[bool, ...] = (False, True)
    head_channels: tuple[int, ...] = (0, 64)
    resblock_updown: bool = False
    embedded: bool = True

    @property
    def factor(self) -> int:
        """Voxels per latent cell along each axis."""
        return int(self.fold * 2 ** (len(self.channels) - 1))

    @property
    def multiple(self) -> int:
        """Grids are padded to a multiple of this, so that every level of both networks is whole."""
        return int(self.factor * 2 ** (len(self.unet_channels) - 1))

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Size:
        """The size of a record from config.json, which may be of other makers: what is not of a size is left out, and
        conditions are not embedded unless it says so."""
        record = {"embedded": False, **record}
        known = {field.name for field in dataclasses.fields(cls)}
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
        return cls(**{name: value for name, value in fields.items() if name in known})

    def check(self) -> None:
        """Raise UserError for networks that cannot be built."""
        for name in ("fold", "latent_channels", "blocks", "groups", "unet_blocks", "unet_groups"):
            if getattr(self, name) < 1:
                raise UserError(f"--networks.{name} is {getattr(self, name)}; expected 1 or more")
        for name, divisor in (("channels", self.groups), ("unet_channels", self.unet_groups)):
            values = getattr(self, name)
            if not values or any(value < 1 or value % divisor for value in values):
                raise UserError(
                    f"--networks.{name} is {','.join(map(str, values))}; expected multiples of its {divisor} groups"
                )
        for name in ("attention", "head_channels"):
            if len(getattr(self, name)) != len(self.unet_channels):
                raise UserError(
                    f"--networks.{name} has {len(getattr(self, name))} values; expected one per U-Net level"
                )


@dataclass(frozen=True)
class Autoencoding:
    """Stage 1: how the autoencoder is trained.

    Attributes:
        steps: optimiser steps.
        batch_size: volumes a step (all of them if the corpus has fewer).
        learning_rate: peak of AdamW's; 5 % warm-up, then a cosine down to 0.
        absolute: weight of the mean absolute error.
        kl: weight of the Kullback-Leibler divergence of the latent to N(0, 1), summed over a volume's latent.
        perceptual: weight of the distance in the features of a fixed network.
        perceptual_network: a MedicalNet ResNet-10 file (.pth, .safetensors) for it; an untrained one if not given.
        spectral: weight of the squared error of Fourier magnitudes (Dhariwal et al. 2020).
        adversarial: weight of a patch discriminator's verdict (least squares, Mao et al. 2017).
        adversarial_from: step at which the discriminator begins to count.
        discriminator_rate: its learning rate.
        given: folder of weights whose autoencoder is taken instead of training one.
    """

    steps: int = 800
    batch_size: int = 8
    learning_rate: float = 2e-3
    absolute: float = 1.0
    kl: float = 1e-8
    perceptual: float = 0.0
    perceptual_network: str = ""
    spectral: float = 0.0
    adversarial: float = 0.0
    adversarial_from: int = 0
    discriminator_rate: float = 1e-4
    given: str = ""

    def check(self) -> None:
        """Raise UserError for values out of range."""
        _check_course("autoencoder", self.steps, self.batch_size, self.learning_rate)
        for name in ("absolute", "kl", "perceptual", "spectral", "adversarial"):
            if getattr(self, name) < 0:
                raise UserError(f"--autoencoder.{name} is {getattr(self, name)}; expected 0 or more")
        if not 0 < self.discriminator_rate < 1:
            raise UserError(f"--autoencoder.discriminator_rate is {self.discriminator_rate}; expected 0 to 1")


@dataclass(frozen=True)
class Denoising:
    """Stage 2: how the U-Net is trained in the latent.

    Attributes:
        steps: optimiser steps.
        batch_size: latents a step (all of them if the corpus has fewer).
        learning_rate: peak of AdamW's; 5 % warm-up, then a cosine down to 0.
        prediction: what the U-Net foretells: the noise (epsilon, Ho et al. 2020), v (v_prediction, Salimans & Ho 2022) or
            the velocity of a straight path (rectified_flow, Liu et al. 2023).
        untold: share of volumes shown without conditions, so that guidance works (Ho & Salimans 2022).
        untold_each: share of volumes shown with some of the conditions, each left untold at a rate drawn for that volume, so
            that any can be left to the model and one alone still tells.
        ema: decay of the moving average that is kept as the weights.
        shift: of a rectified flow, how much its training times lean towards noise, where the large shapes are made (Esser
            et al. 2024, SD3's timestep shifting); 1 spreads them evenly.
        centred: whether the mean latent is taken off cell by cell first, so that a short training need not learn where a
            head is.
    """

    steps: int = 6000
    batch_size: int = 8
    learning_rate: float = 2e-3
    prediction: Prediction = "v_prediction"
    untold: float = 0.1
    untold_each: float = 0.4
    ema: float = 0.999
    shift: float = 1.0
    centred: bool = True

    def check(self) -> None:
        """Raise UserError for values out of range."""
        _check_course("diffusion", self.steps, self.batch_size, self.learning_rate)
        for name in ("untold", "untold_each", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--diffusion.{name} is {getattr(self, name)}; expected 0 or more, below 1")
        if not 0.1 <= self.shift <= 10:
            raise UserError(f"--diffusion.shift is {self.shift}; expected 0.1 to 10, such as 3")


@dataclass(frozen=True)
class Controlling:
    """Stage 3, if it has steps: a ControlNet (Zhang et al. 2023) that follows a label map.

    Attributes:
        steps: optimiser steps; 0 leaves it out.
        batch_size: latents a step.
        learning_rate: peak of AdamW's.
        channels: of the embedding of a label map, from voxels to latent cells; the last one for every further halving.
    """

    steps: int = 0
    batch_size: int = 8
    learning_rate: float = 1e-3
    channels: tuple[int, ...] = (16, 32, 64)

    def check(self) -> None:
        """Raise UserError for values out of range."""
        if self.steps < 0:
            raise UserError(f"--control.steps is {self.steps}; expected 0 or more")
        _check_course("control", max(1, self.steps), self.batch_size, self.learning_rate)
        if not self.channels or min(self.channels) < 1:
            raise UserError(f"--control.channels is {','.join(map(str, self.channels))}; expected one or more")


@dataclass(frozen=True)
class TrainOptions:
    """A whole recipe.

    Attributes:
        conditions: covariates of the corpus that the model is told; ``name=a+b`` tells a sum, ``ventricular_volume`` and
            ``brain_volume`` stand for theirs.
        networks: sizes.
        autoencoder, diffusion, control: the stages.
        precision: auto takes bfloat16 where the processor computes in it, else 32 bits.
        previews: pictures of reconstructions and samples while training, per stage.
        seed: of initialisation, order and noise.
    """

    conditions: tuple[str, ...] = ("age", "sex", "diagnosis")
    networks: Size = Size()
    autoencoder: Autoencoding = Autoencoding()
    diffusion: Denoising = Denoising()
    control: Controlling = Controlling()
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    previews: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for part in (self.networks, self.autoencoder, self.diffusion, self.control):
            part.check()
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed is {self.seed}; expected 0 or more")
        if self.previews < 0:
            raise UserError(f"--previews is {self.previews}; expected 0 or more")


def _check_course(stage: str, steps: int, batch_size: int, learning_rate: float) -> None:
    for name, value in (("steps", steps), ("batch-size", batch_size)):
        if value < 1:
            raise UserError(f"--{stage}.{name} is {value}; expected 1 or more")
    if not 0 < learning_rate < 1:
        raise UserError(f"--{stage}.learning-rate is {learning_rate}; expected a number between 0 and 1")
