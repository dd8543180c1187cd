"""MAISI's networks in the form of brainloom's. Imports torch and monai: import it late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.data.meta_tensor import MetaTensor
from monai.utils.enums import TraceKeys
from torch import Tensor, nn

from synth.diffusion.layouts import fill, hollow
from synth.diffusion.maisi import CLASSES
from synth.diffusion.networks import Autoencoder
from synth.diffusion.pickles import load_plain, load_tensors, tensors_of
from synth.diffusion.sampling import Networks
from synth.diffusion.settings import Size
from synth.errors import UserError

if TYPE_CHECKING:
    from synth.diffusion.maisi import MaisiWeights

CONTAINERS = (MetaTensor, TraceKeys)
"""Classes of MONAI in which the published file keeps one number, ``scale_factor``: a tensor with notes, and names of notes."""
NOTHING = 0  # the modality code of no modality, for guidance


class MaisiAutoencoder(Autoencoder):
    """MAISI's autoencoder: AutoencoderKL that grows by trilinear interpolation. Its latents are scaled by ``scale``.

    One piece and 32-bit norms, where MAISI's own scripts cut into pieces and round to 16 bits to spare memory.
    """

    def __init__(self, size: Size, scale: float) -> None:
        nn.Module.__init__(self)
        levels = len(size.channels)
        self.size, self.scale = size, scale
        self.core: Any = AutoencoderKlMaisi(
            spatial_dims=3,
            in_channels=1,
            out_channels=1,
            num_res_blocks=(size.blocks,) * levels,
            num_channels=size.channels,
            attention_levels=(False,) * levels,
            latent_channels=size.latent_channels,
            norm_num_groups=size.groups,
            norm_eps=1e-6,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
            use_convtranspose=False,
            norm_float16=False,
            num_splits=1,
        )

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`Autoencoder.encode`."""
        mean, sd = super().encode(image)
        return mean * self.scale, sd * self.scale

    def decode(self, latent: Tensor) -> Tensor:
        """As :meth:`Autoencoder.decode`."""
        return super().decode(latent / self.scale)


class MaisiUNet(nn.Module):
    """MAISI's U-Net, called as :func:`synth.diffusion.networks.foretell` does.

    It is told the modality as a class and the voxel size; what the one condition says is only whether it is told at all.
    """

    def __init__(self, size: Size, modality: int, spacing: Sequence[float]) -> None:
        super().__init__()
        self.channels, self.modality, self.spacing = size.latent_channels, modality, tuple(spacing)
        self.core = DiffusionModelUNetMaisi(
            spatial_dims=3,
            in_channels=size.latent_channels,
            out_channels=size.latent_channels,
            num_res_blocks=size.unet_blocks,
            num_channels=size.unet_channels,
            attention_levels=size.attention,
            norm_num_groups=size.unet_groups,
            num_head_channels=size.head_channels,
            resblock_updown=size.resblock_updown,
            num_class_embeds=CLASSES,
            include_spacing_input=True,
            include_fc=True,
        )

    def forward(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """Velocity ``[B, c, d, h, w]`` from noise to latent; ``context`` [B, 1, 1] is below 0 where nothing is told."""
        told = context[:, 0, 0] >= 0
        spacing = 100 * noisy.new_tensor(self.spacing)  # MAISI counts in 1/100 mm
        answer: Tensor = self.core(
            x=noisy[:, : self.channels],
            timesteps=timesteps,
            class_labels=torch.where(told, self.modality, NOTHING),
            spacing_tensor=spacing.expand(len(noisy), -1),
        )
        return answer


def maisi_networks(weights: MaisiWeights, device: torch.device) -> Networks:
    """Autoencoder, U-Net and a mean latent of zeros, filled from a folder's two files.

    Raises:
        UserError: a file is no file of tensors or of other networks, or has no usable scale_factor.
    """
    size, files, settings = Size.from_json(weights.config["networks"]), weights.files(), weights.config["maisi"]
    held = load_plain(files["diffusion"], CONTAINERS)
    unet = hollow(lambda: MaisiUNet(size, settings["modality"], settings["spacing"]))
    fill(unet.core, tensors_of(held, files["diffusion"]), files["diffusion"])
    scale = held.get("scale_factor")
    if not isinstance(scale, (float, Tensor)) or not 0 < float(scale) < float("inf"):
        raise UserError(f"'{files['diffusion']}' has no scale_factor above 0; expected MAISI's own file, which has one")
    autoencoder = hollow(lambda: MaisiAutoencoder(size, float(scale)))
    fill(autoencoder.core, load_tensors(files["autoencoder"]), files["autoencoder"])
    mean = torch.zeros(1, *weights.config["latent_shape"])
    return Networks(autoencoder.to(device).eval(), unet.to(device).eval(), mean.to(device), 1.0, weights.frame)
