"""The networks of latent diffusion, from MONAI, in any size. Imports torch and monai: import it late."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from monai.networks.nets.autoencoderkl import AutoencoderKL
from monai.networks.nets.controlnet import ControlNet
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import Tensor, nn

from synth.diffusion.settings import Size
from synth.errors import UserError

LABEL_CHANNELS = 8  # of a label's vector
QUIET = -6.0  # log-variance of the latent at the start: little noise, or a short training would only average


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
    latent (hence latent_channels + conditions inputs) and by cross-attention; if embedded, a third time with the time."""
    unet = DiffusionModelUNet(**_unet_arguments(size, conditions), out_channels=size.latent_channels)
    if size.embedded:
        unet.class_embedding = _embedding(conditions, size)  # type: ignore[assignment]
    return unet


def _embedding(conditions: int, size: Size) -> nn.Module:
    """Condition vectors ``[B, K]`` → ``[B, 4·channels]``, like the time's own embedding; in place of MONAI's table of
    classes."""
    width = 4 * size.unet_channels[0]
    return nn.Sequential(nn.Linear(conditions, width), nn.SiLU(), nn.Linear(width, width))


def _unet_arguments(size: Size, conditions: int) -> dict[str, Any]:
    """What the U-Net and its ControlNet share."""
    return {
        "spatial_dims": 3,
        "in_channels": size.latent_channels + conditions,
        "channels": size.unet_channels,
        "num_res_blocks": (size.unet_blocks,) * len(size.unet_channels),
        "attention_levels": size.attention,
        "norm_num_groups": size.unet_groups,
        "norm_eps": 1e-6,
        "resblock_updown": size.resblock_updown,
        "num_head_channels": size.head_channels,
        "with_conditioning": True,
        "transformer_num_layers": 1,
        "cross_attention_dim": conditions,
        "upcast_attention": True,
        "num_class_embeds": 1 if size.embedded else None,  # its table of classes is replaced
    }


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def foretell(
    unet: nn.Module, noisy: Tensor, timesteps: Tensor, vector: Tensor, control: Control | None = None, hint: Any = None
) -> Tensor:
    """What the U-Net says of noisy latents ``[B, c, d, h, w]`` at ``timesteps`` [B] under conditions [B, K].

    With ``control``, ``hint`` is what :meth:`Control.embed` made of the label maps.
    """
    maps = vector[:, :, None, None, None].expand(-1, -1, *noisy.shape[2:])
    told, context = torch.cat([noisy, maps], dim=1), vector[:, None]
    rest: dict[str, Any] = {"class_labels": vector} if getattr(unet, "num_class_embeds", None) else {}
    if control is not None:
        down, middle = control.core(told, timesteps, hint, context=context, **rest)
        rest |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    answer: Tensor = unet(told, timesteps, context, **rest)
    return answer


class Control(nn.Module):
    """MONAI's ControlNet beside a U-Net (Zhang et al. 2023), told a label map.

    Labels become vectors that are learnt, and these are brought to the latent's grid once for all denoising steps.

    Args:
        size: of the U-Net.
        conditions: length of the condition vector.
        labels: kinds of label; voxels hold their places 0 … labels - 1.
        channels: of the embedding, from voxels to latent cells.
    """

    def __init__(self, size: Size, conditions: int, labels: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        halvings = size.factor.bit_length() - 1
        levels = (*channels, *channels[-1:] * halvings)[: halvings + 1]
        self.words = nn.Embedding(labels, LABEL_CHANNELS)
        self.core = ControlNet(
            **_unet_arguments(size, conditions),
            conditioning_embedding_in_channels=LABEL_CHANNELS,
            conditioning_embedding_num_channels=levels,
        )
        if size.embedded:
            self.core.class_embedding = _embedding(conditions, size)  # type: ignore[assignment]
        self.grid: nn.Module = self.core.controlnet_cond_embedding
        self.core.controlnet_cond_embedding = nn.Identity()  # type: ignore[assignment]

    def start_from(self, unet: nn.Module) -> None:
        """Take over the U-Net's encoder; the outputs begin at 0, so that nothing changes before training."""
        copied = {name: value for name, value in unet.state_dict().items() if name in self.core.state_dict()}
        self.core.load_state_dict(copied, strict=False)

    def embed(self, places: Tensor) -> Tensor:
        """Hint ``[B, C, d, h, w]`` of label places ``[B, D, H, W]`` on the padded grid."""
        hint: Tensor = self.grid(self.words(places).movedim(-1, 1).contiguous())
        return hint


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


def margins(shape: tuple[int, int, int], size: Size) -> tuple[tuple[int, int], ...]:
    """Voxels to add before and after each axis so that the networks fit.

    Raises:
        UserError: an axis so short that it would have to be more than doubled.
    """
    if min(shape) < size.multiple // 2:
        grid = "×".join(map(str, shape))
        raise UserError(
            f"volumes of {grid} voxels are too small for this size of networks; expected at least "
            f"{size.multiple // 2} along each axis: choose a recipe of fewer levels or a finer corpus"
        )
    spare = [-n % size.multiple for n in shape]
    return tuple((n // 2, n - n // 2) for n in spare)
