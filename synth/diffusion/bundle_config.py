"""What a bundle's configs/inference.json says of its networks, read as plain numbers: nothing in it is run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synth.errors import UserError

CONFIG = Path("configs", "inference.json")
TOLD = 4  # numbers that the U-Net is told
LATENT = (20, 28, 20)
NETWORKS: dict[str, Any] = {
    "fold": 1,
    "latent_channels": 3,
    "shortcut": False,
    "channels": [64, 128, 128, 128],
    "blocks": 2,
    "groups": 32,
    "unet_channels": [256, 512, 768],
    "unet_blocks": 2,
    "unet_groups": 32,
    "attention": [False, True, True],
    "head_channels": [0, 512, 768],
    "resblock_updown": True,
    "prediction": "epsilon",
    "autoencoder_rate": 5e-5,
    "diffusion_rate": 2.5e-5,
}
"""Fields of :class:`synth.diffusion.networks.Size`: 13,766,248 and 553,168,899 parameters."""
FIXED: dict[str, dict[str, Any]] = {
    "autoencoder_def": {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 1,
        "norm_eps": 1e-6,
        "with_encoder_nonlocal_attn": False,
        "with_decoder_nonlocal_attn": False,
    },
    "diffusion_def": {
        "spatial_dims": 3,
        "norm_eps": 1e-6,
        "with_conditioning": True,
        "transformer_num_layers": 1,
        "cross_attention_dim": TOLD,
        "upcast_attention": True,
    },
    "scheduler": {
        "num_train_timesteps": 1000,
        "schedule": "scaled_linear_beta",
        "beta_start": 0.0015,
        "beta_end": 0.0205,
        "clip_sample": False,
    },
}
"""What a configs/inference.json may not change."""


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError when it is none."""
    try:
        held = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise UserError(f"'{path}' cannot be read as JSON ({error}); mend it or take the published one") from error
    if not isinstance(held, dict):
        raise UserError(f"'{path}' is no JSON object; expected names with values")
    return held


def described(path: Path) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """Networks and latent grid of configs/inference.json; the published ones where there is none."""
    if not path.is_file():
        return dict(NETWORKS), LATENT
    config = read_config(path)
    parts: dict[str, Any] = {name: config.get(name) for name in FIXED}
    for part, values in FIXED.items():
        if not isinstance(parts[part], dict):
            raise UserError(f"'{path}' does not describe the bundle: it has no {part}; expected {', '.join(FIXED)}")
        for name, value in values.items():
            if parts[part].get(name) != value:
                raise UserError(
                    f"'{path}' has {part} {name} {parts[part].get(name)!r}; brainloom reads this layout with {value!r} only"
                )
    networks = _networks(parts["autoencoder_def"], parts["diffusion_def"], path)
    if parts["scheduler"].get("prediction_type", "epsilon") != "epsilon":
        raise UserError(f"'{path}' has another prediction_type; brainloom reads this layout with 'epsilon' only")
    return networks, _latent(config, networks["latent_channels"], path)


def _networks(autoencoder: Mapping[str, Any], unet: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Sizes of the two networks from their definitions: plain numbers only."""
    latent = whole_number(autoencoder, "latent_channels", path)
    channels, unet_channels = (list_of(part, ("channels", "num_channels"), int, path) for part in (autoencoder, unet))
    found = {
        **NETWORKS,
        "latent_channels": latent,
        "channels": channels,
        "blocks": whole_number(autoencoder, "num_res_blocks", path),
        "groups": whole_number(autoencoder, "norm_num_groups", path),
        "unet_channels": unet_channels,
        "unet_blocks": whole_number(unet, "num_res_blocks", path),
        "unet_groups": whole_number(unet, "norm_num_groups", path),
        "attention": list_of(unet, ("attention_levels",), bool, path),
        "head_channels": list_of(unet, ("num_head_channels",), int, path),
        "resblock_updown": unet.get("resblock_updown") is True,
    }
    levels = [len(found[name]) for name in ("unet_channels", "attention", "head_channels")]
    told = latent + TOLD
    if any(list_of(autoencoder, ("attention_levels",), bool, path)) or len(set(levels)) > 1:
        raise UserError(f"'{path}' has attention in the autoencoder or unequal levels; brainloom reads neither")
    if (whole_number(unet, "in_channels", path), whole_number(unet, "out_channels", path)) != (told, latent):
        raise UserError(
            f"'{path}' has a U-Net of other channels; expected {told} in ({latent} + {TOLD} conditions), {latent} out"
        )
    return found


def _latent(config: Mapping[str, Any], channels: int, path: Path) -> tuple[int, int, int]:
    """Grid of the latent, read out of the text of ``noise``: ``$torch.randn((1, 3, 20, 28, 20))``."""
    numbers = re.search(r"randn\(\(([\d, ]+)\)\)", str(config.get("noise")))
    shape = [int(number) for number in numbers[1].split(",") if number.strip()] if numbers else []
    if len(shape) != 5 or shape[:2] != [1, channels] or min(shape) < 1:
        raise UserError(f"'{path}' has noise {config.get('noise')!r}; expected torch.randn((1, {channels}, d, h, w))")
    return shape[2], shape[3], shape[4]


def whole_number(record: Mapping[str, Any], name: str, path: Path) -> int:
    """A number of 1 or more under ``name``. Raises UserError for anything else."""
    value = record.get(name)
    if isinstance(value, list) and len(set(map(str, value))) == 1:  # one for all levels, written once per level
        value = value[0]
    if type(value) is not int or value < 1:
        raise UserError(f"'{path}' has {name} {value!r}; expected a whole number, as nothing in it is evaluated")
    return value


def list_of(record: Mapping[str, Any], names: tuple[str, ...], kind: type, path: Path) -> list[Any]:
    """The list under the first of ``names`` that is there, all of one kind. Raises UserError for anything else."""
    value = next((record[name] for name in names if name in record), None)
    if not isinstance(value, list) or not value or any(type(entry) is not kind for entry in value):
        raise UserError(
            f"'{path}' has {names[0]} {value!r}; expected a list of {kind.__name__}, as nothing is evaluated"
        )
    return value
