"""The networks of latent diffusion, from MONAI, in three sizes. Imports torch and monai: import it late."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.nets.autoencoderkl import AutoencoderKL
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from monai.networks.schedulers.ddim import DDIMScheduler
from monai.networks.schedulers.ddpm import DDPMScheduler
from torch import Tensor, nn

from synth.errors import UserError

TRAIN_TIMESTEPS = 1000
BETAS: dict[str, Any] = {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0205}
"""Noise schedule of Pinaya et al. 2022 as in MONAI's model-zoo bundle brain_image_synthesis_latent_diffusion_model."""
QUIET = -6.0  # log-variance of the latent at the start: little noise, or a short training would only average


@dataclass(frozen=True)
class Size:
    """How large the two networks are.

    Attributes:
        fold: every fold³ voxels become channels before the autoencoder (1: none), which spares a CPU the fine grid.
        latent_channels: channels of the latent.
        shortcut: whether the autoencoder learns only what principal components of blocks do not give (Autoencoder).
        channels, blocks, groups: of the autoencoder, per level, levels being 2× apart; groups of its GroupNorm.
        unet_channels, unet_blocks, unet_groups: the same of the denoising U-Net.
        attention: at which U-Net levels the conditions enter by cross-attention too.
        head_channels: channels per attention head, per level.
        resblock_updown: whether residual blocks (not strided convolutions) change the U-Net's resolution.
        prediction: what the U-Net foretells: epsilon (Ho et al. 2020) or v_prediction (Salimans & Ho 2022).
        autoencoder_rate, diffusion_rate: peak learning rates of AdamW.
    """

    fold: int
    latent_channels: int
    shortcut: bool
    channels: tuple[int, ...]
    blocks: int
    groups: int
    unet_channels: tuple[int, ...]
    unet_blocks: int
    unet_groups: int
    attention: tuple[bool, ...]
    head_channels: tuple[int, ...]
    resblock_updown: bool
    prediction: str
    autoencoder_rate: float
    diffusion_rate: float

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
        """The size of a record from config.json."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
        return cls(**fields)


SIZES = {
    # two CPU cores, minutes
    "tiny": Size(
        2, 4, True, (16, 32), 1, 8, (32, 64), 1, 16, (False, True), (0, 64), False, "v_prediction", 2e-3, 2e-3
    ),
    # one GPU, hours; 128³ and finer
    "small": Size(
        1,
        3,
        True,
        (32, 64, 64),
        1,
        16,
        (64, 128, 256),
        1,
        32,
        (False, True, True),
        (0, 128, 256),
        True,
        "v_prediction",
        5e-4,
        5e-4,
    ),
    # Pinaya et al. 2022, arXiv:2209.07162; values of MONAI's bundle: 13.8 M and 553 M parameters
    "published": Size(
        1,
        3,
        False,
        (64, 128, 128, 128),
        2,
        32,
        (256, 512, 768),
        2,
        32,
        (False, True, True),
        (0, 512, 768),
        True,
        "epsilon",
        5e-5,
        2.5e-5,
    ),
}


class Autoencoder(nn.Module):
    """MONAI's AutoencoderKL without attention, on folded images and, in small sizes, beside a linear shortcut.

    The shortcut is a principal component analysis of blocks of factor³ voxels: the latent mean begins as the blocks'
    components (all on one scale, so that an error in a faint one stays faint), the image as what these give back, and
    the networks add to both. So a few hundred steps are enough on a CPU. (Residual autoencoding: Chen et al. 2024, arXiv:2410.10733, there with plain block means.)
    """

    basis: Tensor
    centre: Tensor

    def __init__(self, size: Size) -> None:
        super().__init__()
        levels = len(size.channels)
        self.size = size
        self.core = AutoencoderKL(
            spatial_dims=3,
            in_channels=size.fold**3,
            out_channels=size.fold**3,
            latent_channels=size.latent_channels,
            channels=size.channels,
            num_res_blocks=(size.blocks,) * levels,
            norm_num_groups=size.groups,
            norm_eps=1e-6,
            attention_levels=(False,) * levels,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
        nn.init.constant_(_parameter(self.core.quant_conv_log_sigma, "bias"), QUIET)
        if size.shortcut:
            self.register_buffer("basis", torch.zeros(size.latent_channels, size.factor**3))
            self.register_buffer("centre", torch.zeros(size.factor**3))
            blocks: Any = self.core.decoder.blocks
            for block in (self.core.quant_conv_mu, blocks[-1]):
                nn.init.zeros_(_parameter(block, "weight"))
                nn.init.zeros_(_parameter(block, "bias"))

    def start_from(self, images: Iterable[Tensor]) -> None:
        """Set the shortcut from padded images ``[1, 1, D, H, W]``."""
        if not self.size.shortcut:
            return
        count, total, squares = 0, torch.zeros(1), torch.zeros(1)
        for image in images:
            blocks = fold(image, self.size.factor)[0].flatten(1).double().cpu()
            count, total, squares = count + blocks.shape[1], total + blocks.sum(1), squares + blocks @ blocks.T
        centre = total / count
        variance, directions = torch.linalg.eigh(squares / count - torch.outer(centre, centre))
        scale = variance.flip(0)[: self.size.latent_channels].clamp_min(1e-6).mean().sqrt()
        self.centre.copy_(centre)
        self.basis.copy_(directions.T.flip(0)[: self.size.latent_channels] * scale)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[B, c, d, h, w]`` of the latent of padded images ``[B, 1, D, H, W]``."""
        mean, sd = self.core.encode(fold(image, self.size.fold))
        if self.size.shortcut:
            with torch.autocast(image.device.type, enabled=False):
                blocks = fold(image, self.size.factor) - self.centre[:, None, None, None]
                whiten = self.basis / (self.basis**2).sum(1, keepdim=True).clamp_min(1e-12)
                mean = mean.float() + torch.einsum("ki,bidhw->bkdhw", whiten, blocks)
        return mean.float(), sd.float()

    def decode(self, latent: Tensor) -> Tensor:
        """Padded images ``[B, 1, D, H, W]`` of latents ``[B, c, d, h, w]``."""
        image = unfold(self.core.decode(latent).float(), self.size.fold)
        if self.size.shortcut:
            with torch.autocast(latent.device.type, enabled=False):
                blocks = torch.einsum("ki,bkdhw->bidhw", self.basis, latent) + self.centre[:, None, None, None]
                image = image + unfold(blocks, self.size.factor)
        return image


def _parameter(block: Any, name: str) -> Tensor:
    """Weight or bias of the convolution inside one of MONAI's blocks."""
    found: Tensor = getattr(block.conv, name)
    return found


def build_unet(size: Size, conditions: int) -> DiffusionModelUNet:
    """U-Net told a vector of ``conditions`` numbers twice, as Pinaya et al. 2022 do: as constant maps beside the
    latent (hence latent_channels + conditions inputs) and by cross-attention."""
    return DiffusionModelUNet(
        spatial_dims=3,
        in_channels=size.latent_channels + conditions,
        out_channels=size.latent_channels,
        channels=size.unet_channels,
        num_res_blocks=size.unet_blocks,
        attention_levels=size.attention,
        norm_num_groups=size.unet_groups,
        norm_eps=1e-6,
        resblock_updown=size.resblock_updown,
        num_head_channels=size.head_channels,
        with_conditioning=True,
        transformer_num_layers=1,
        cross_attention_dim=conditions,
        upcast_attention=True,
    )


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def foretell(unet: nn.Module, noisy: Tensor, timesteps: Tensor, vector: Tensor) -> Tensor:
    """What the U-Net says of noisy latents ``[B, c, d, h, w]`` at ``timesteps`` [B] under conditions [B, K]."""
    maps = vector[:, :, None, None, None].expand(-1, -1, *noisy.shape[2:])
    answer: Tensor = unet(torch.cat([noisy, maps], dim=1), timesteps, vector[:, None])
    return answer


def fold(image: Tensor, n: int) -> Tensor:
    """``[B, 1, D, H, W]`` → ``[B, n³, D/n, H/n, W/n]``: blocks of voxels become channels."""
    b, _, d, h, w = image.shape
    blocks = image.reshape(b, d // n, n, h // n, n, w // n, n).permute(0, 2, 4, 6, 1, 3, 5)
    return blocks.reshape(b, n**3, d // n, h // n, w // n)


def unfold(folded: Tensor, n: int) -> Tensor:
    """The inverse of :func:`fold`."""
    b, _, d, h, w = folded.shape
    blocks = folded.reshape(b, n, n, n, d, h, w).permute(0, 4, 1, 5, 2, 6, 3)
    return blocks.reshape(b, 1, d * n, h * n, w * n)


def train_scheduler(size: Size) -> DDPMScheduler:
    """Adds noise in training."""
    return DDPMScheduler(TRAIN_TIMESTEPS, prediction_type=size.prediction, clip_sample=False, **BETAS)


def sample_scheduler(size: Size, steps: int) -> DDIMScheduler:
    """DDIM (Song et al. 2021) at evenly spaced timesteps that begin at pure noise.

    MONAI's own list of timesteps (a linspace) is not spaced as its ``step`` assumes (``T // steps``), so latents would
    be taken for noisier than they are; the list is set anew, counted down from T as Lin et al. 2024 advise.
    """
    scheduler = DDIMScheduler(TRAIN_TIMESTEPS, prediction_type=size.prediction, clip_sample=False, **BETAS)
    scheduler.set_timesteps(steps)
    scheduler.timesteps = TRAIN_TIMESTEPS - 1 - torch.arange(steps) * (TRAIN_TIMESTEPS // steps)
    return scheduler


def margins(shape: tuple[int, int, int], size: Size) -> tuple[tuple[int, int], ...]:
    """Voxels to add before and after each axis so that the networks fit.

    Raises:
        UserError: an axis so short that it would have to be more than doubled.
    """
    if min(shape) < size.multiple // 2:
        grid = "×".join(map(str, shape))
        raise UserError(
            f"volumes of {grid} voxels are too small for this size of networks; expected at least "
            f"{size.multiple // 2} along each axis: choose a smaller --size or a finer corpus"
        )
    spare = [-n % size.multiple for n in shape]
    return tuple((n // 2, n - n // 2) for n in spare)
