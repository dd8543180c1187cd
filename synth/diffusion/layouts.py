"""Published tensors into MONAI's networks, in either dialect of their names. Imports torch and monai: import it late.

``monai-generative`` (archived, last release 0.2.3) and MONAI since 1.4, which took it in, name some tensors differently:
the output of cross-attention is ``to_out.0`` there and ``out_proj`` here, the convolution after upsampling ``conv`` and
``postconv``. Everything else, shapes included, is the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from synth.diffusion.conditions import width
from synth.diffusion.networks import Autoencoder, build_unet
from synth.diffusion.pickles import load_tensors
from synth.diffusion.sampling import Networks
from synth.diffusion.settings import Size
from synth.errors import UserError

if TYPE_CHECKING:
    from synth.diffusion.published import BundleWeights

Network = TypeVar("Network", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]


def old_name(name: str) -> str:
    """What monai-generative called a tensor of MONAI's AutoencoderKL or cross-attending DiffusionModelUNet."""
    name = name.replace(".postconv.", ".conv.")
    return re.sub(r"(transformer_blocks\.\d+\.attn\d)\.out_proj\.", r"\1.to_out.0.", name)


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor that a network's file must hold."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def hollow(build: Callable[[], Network]) -> Network:
    """A network on the CPU whose numbers are whatever was in memory: a file will fill them all, so none are drawn."""
    with torch.device("meta"):
        network = build()
    return network.to_empty(device="cpu")


def fill(network: Any, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Fill a network with the tensors of a file, in the dialect that they are in.

    Args:
        network: of MONAI or MAISI, with the sizes that the file should have.
        tensors: what the file holds, by name.
        path: the file, to be named in errors.

    Raises:
        UserError: tensors are missing or left over, both dialects are mixed, a shape is another, NaN or infinity.
    """
    new = shapes_of(network)
    old = {old_name(name): shape for name, shape in new.items()}
    if len(old.keys() & tensors.keys()) > len(new.keys() & tensors.keys()):
        check(tensors, old, path)
        network.load_old_state_dict(dict(tensors))  # a copy: it empties what it is given
    else:
        check(tensors, new, path)
        network.load_state_dict(dict(tensors))


def check(tensors: Mapping[str, Tensor], wanted: Shapes, path: Path) -> None:
    """Raise UserError unless the tensors have exactly the wanted names and shapes and are finite."""
    missing, over = [[*wanted.keys() - tensors.keys()], [*tensors.keys() - wanted.keys()]]
    if missing or over:
        raise UserError(
            f"'{path}' does not fit its networks: {_some(missing, 'missing')}, {_some(over, 'unexpected')}; expected the "
            f"{len(wanted)} tensors of the published layout, or the sizes of these beside them in configs/inference.json"
        )
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise UserError(
                f"'{path}' does not fit its networks: tensor '{name}' is {_grid(tensors[name].shape)}, expected "
                f"{_grid(shape)}; give the weights that belong to this configs/inference.json"
            )
        if not torch.isfinite(tensors[name]).all():
            raise UserError(f"'{path}' holds NaN or infinity in tensor '{name}'; it is damaged: fetch it again")


def _some(names: list[str], what: str) -> str:
    """'3 missing (the first is a.b)'."""
    return f"{len(names)} {what}" + (f" (the first is {min(names)})" if names else "")


def _grid(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "a single number"


class RightToLeft(Autoencoder):
    """An autoencoder whose own images run right→left along D; images given and taken here run left→right (RAS+)."""

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`Autoencoder.encode`."""
        return super().encode(image.flip(2))

    def decode(self, latent: Tensor) -> Tensor:
        """As :meth:`Autoencoder.decode`."""
        return super().decode(latent).flip(2)


def bundle_networks(weights: BundleWeights, device: torch.device) -> Networks:
    """Autoencoder, U-Net and a mean latent of zeros of MONAI's bundle, filled from its two files.

    Raises:
        UserError: a file is no file of tensors, or is of other networks.
    """
    size, files = Size.from_json(weights.config["networks"]), weights.files()
    autoencoder = hollow(lambda: RightToLeft(size))
    fill(autoencoder.core, load_tensors(files["autoencoder"]), files["autoencoder"])
    unet = hollow(lambda: build_unet(size, width(weights.conditions)))  # the larger one once the other is known to fit
    fill(unet, load_tensors(files["diffusion"]), files["diffusion"])
    mean = torch.zeros(1, *weights.config["latent_shape"])
    return Networks(autoencoder.to(device).eval(), unet.to(device).eval(), mean.to(device), 1.0, weights.frame)
