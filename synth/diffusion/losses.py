"""What the autoencoder minimises beside the absolute error: likeness in features and spectra, a discriminator, KL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.losses.adversarial_loss import PatchAdversarialLoss
from monai.losses.spectral_loss import JukeboxLoss
from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from monai.networks.nets.resnet import ResNet, resnet10
from torch import Tensor, nn
from torch.nn import functional as F

from synth.diffusion.settings import Autoencoding
from synth.errors import UserError

FEATURE_SEED = 0
DISCRIMINATOR_CHANNELS, DISCRIMINATOR_LAYERS = 32, 3
LEAST_CELLS = 16  # voxels along an axis below which the discriminator has fewer layers


def divergence(mean: Tensor, sd: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(``mean``, ``sd``²) to N(0, 1), summed over a latent, averaged over volumes."""
    return 0.5 * (mean**2 + sd**2 - 2 * torch.log(sd) - 1).sum() / len(mean)


class Perceptual(nn.Module):
    """Distance of two images ``[B, 1, D, H, W]`` in the features of a fixed ResNet-10, channels scaled to length 1 at
    every place (as LPIPS, Zhang et al. 2018), averaged over the stem and the first two stages.

    Args:
        file: MedicalNet's ResNet-10 (Chen et al. 2019), .pth or .safetensors; untrained weights of a fixed seed if "".
    """

    def __init__(self, file: str = "") -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(FEATURE_SEED)
            self.core: ResNet = resnet10(spatial_dims=3, n_input_channels=1, feed_forward=False, shortcut_type="B")
        if file:
            self._load(Path(file))
        self.core.eval().requires_grad_(False)

    def _load(self, path: Path) -> None:
        from synth.diffusion.pickles import load_tensors

        tensors = {name.removeprefix("module."): tensor for name, tensor in load_tensors(path).items()}
        missing, _ = self.core.load_state_dict(tensors, strict=False)
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        if missing:
            raise UserError(f"'{path}' is no MedicalNet ResNet-10: it lacks {missing[0]} and {len(missing) - 1} more")

    def train(self, mode: bool = True) -> Perceptual:
        """Stays in evaluation mode: its running means are part of it."""
        return super().train(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Maps ``[B, F, d, h, w]`` of the stem and of two stages, of standardised images."""
        dims = (1, 2, 3, 4)
        x = (image - image.mean(dims, keepdim=True)) / image.std(dims, keepdim=True).clamp_min(1e-3)
        core: Any = self.core
        stem = core.act(core.bn1(core.conv1(x)))
        first = core.layer1(core.maxpool(stem))
        return [stem, first, core.layer2(first)]

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        """The mean squared distance."""
        pairs = zip(self.features(image), self.features(other), strict=True)
        return torch.stack([F.mse_loss(F.normalize(a, dim=1), F.normalize(b, dim=1)) for a, b in pairs]).mean()


class Judges(nn.Module):
    """All that a reconstruction is judged by, as a recipe weighs it.

    Args:
        options: the weights.
        shape: voxels of the padded volumes.
    """

    def __init__(self, options: Autoencoding, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.options = options
        self.perceptual = Perceptual(options.perceptual_network) if options.perceptual else None
        self.spectral = JukeboxLoss(spatial_dims=3) if options.spectral else None
        self.discriminator = _discriminator(shape) if options.adversarial else None
        self.verdict = PatchAdversarialLoss(criterion="least_squares")

    def forward(self, image: Tensor, back: Tensor, mean: Tensor, sd: Tensor, step: int) -> dict[str, Tensor]:
        """Every weighted term of one batch; their sum is the loss. ``step`` says whether the discriminator counts."""
        options = self.options
        terms = {
            "absolute": options.absolute * F.l1_loss(back, image),
            "kl": options.kl * divergence(mean, sd),
        }
        if self.perceptual is not None:
            terms["perceptual"] = options.perceptual * self.perceptual(back, image)
        if self.spectral is not None:
            terms["spectral"] = options.spectral * self.spectral(back, image)
        if self.discriminator is not None and step >= options.adversarial_from:
            answer = self.discriminator(back)[-1].float()
            terms["adversarial"] = options.adversarial * self.verdict(answer, True, False)
        return terms

    def discriminator_loss(self, image: Tensor, back: Tensor) -> Tensor:
        """How wrongly the discriminator tells images from reconstructions."""
        assert self.discriminator is not None
        false = self.verdict(self.discriminator(back.detach())[-1].float(), False, True)
        true = self.verdict(self.discriminator(image)[-1].float(), True, True)
        loss: Tensor = 0.5 * (false + true)
        return loss


def _discriminator(shape: tuple[int, int, int]) -> PatchDiscriminator:
    """MONAI's patch discriminator; group instead of batch statistics, which small batches cannot give."""
    layers = min(DISCRIMINATOR_LAYERS, max(1, (min(shape) // LEAST_CELLS).bit_length()))
    return PatchDiscriminator(3, DISCRIMINATOR_CHANNELS, 1, num_layers_d=layers, norm="INSTANCE")
