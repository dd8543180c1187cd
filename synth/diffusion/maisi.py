"""NVIDIA's MAISI v2 for MRI (Zhao et al. 2025, arXiv:2508.05772) as weights: rectified flow in the latent.

Read are the folders that the downloader of NVIDIA-Medtech/NV-Generate-CTMR (da438fe) leaves: ``models/`` with
``diff_unet_3d_rflow-mr-brain_v….pt`` (heads; or ``diff_unet_3d_rflow-mr.pt``) and its autoencoder, and ``configs/``,
where grid, voxel size, modality, steps and guidance are set as its README says. Networks, sampler and the numbers below are
those of configs/config_network_rflow.json and scripts/diff_model_infer.py there.

The layout was checked against what others counted in the published ``diff_unet_3d_rflow-mr.pt`` (435 tensors, 180,500,868
numbers) and ``autoencoder_v2.pt`` (130, 20,944,897), not against the files themselves: docs/data/checkpoint_exploration.md and
docs/misc/transfer_learning_from_maisirf/ of MarioPasc/neuromf (4f18519).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.diffusion.bundle_config import list_of, read_config, whole_number
from synth.diffusion.conditions import Condition
from synth.diffusion.weights import FORMAT, FORMAT_VERSION, DiffusionWeights, digest, digest_of
from synth.errors import UserError
from synth.sample import centred_affine

if TYPE_CHECKING:
    import torch

    from synth.diffusion.published_samplers import TransformedFlow
    from synth.diffusion.sampling import Networks
    from synth.diffusion.stages import Frame


@dataclass(frozen=True)
class Variant:
    """One published model.

    Attributes:
        pattern: its U-Net's file.
        autoencoders: file names of the autoencoder that belongs to it.
        config: its settings in ``configs/``.
        defaults: these, where that file is not there.
        licence, data: of the weights, and what they were trained on.
    """

    pattern: str
    autoencoders: tuple[str, ...]
    config: str
    defaults: Mapping[str, Any]
    licence: str
    data: str


VARIANTS = (
    Variant(
        "diff_unet_3d_rflow-mr-brain*",
        ("autoencoder_v1.safetensors", "autoencoder_v1.pt"),
        "config_maisi_diff_model_rflow-mr-brain.json",
        {
            "dim": [256, 256, 128],
            "spacing": [0.94, 0.94, 1.36],
            "num_inference_steps": 30,
            "modality": 9,
            "cfg_guidance_scale": 2,
        },
        "NVIDIA Open Model License",
        "MR-RATE, brain MRI of 73,516 people",
    ),
    Variant(
        "diff_unet_3d_rflow-mr.*",
        ("autoencoder_v2.safetensors", "autoencoder_v2.pt"),
        "config_maisi_diff_model_rflow-mr.json",
        {
            "dim": [128, 256, 256],
            "spacing": [1.25, 1.0, 1.0],
            "num_inference_steps": 30,
            "modality": 9,
            "cfg_guidance_scale": 15,
        },
        "NVIDIA License, non-commercial use only",
        "MRI listed in docs/data.md of NVIDIA-Medtech/NV-Generate-CTMR",
    ),
)
"""The one for heads first: it is taken where both are there."""
NETWORK_CONFIG = Path("configs", "config_network_rflow.json")
NETWORKS: dict[str, Any] = {
    "fold": 1,
    "latent_channels": 4,
    "shortcut": False,
    "channels": [64, 128, 256],
    "blocks": 2,
    "groups": 32,
    "unet_channels": [64, 128, 256, 512],
    "unet_blocks": 2,
    "unet_groups": 32,
    "attention": [False, False, True, True],
    "head_channels": [0, 0, 32, 32],
    "resblock_updown": True,
}
CLASSES = 128  # modality codes that the U-Net has room for
CONTRASTS = {9: "T1w", 10: "T2w", 11: "FLAIR", 20: "SWI", 29: "T1w", 30: "T2w", 31: "FLAIR", 32: "SWI"}
"""Modality code → contrast; from 29 on without skull (configs/modality_mapping.json)."""


@dataclass(frozen=True)
class MaisiWeights(DiffusionWeights):
    """A folder of MAISI's as weights."""

    @property
    def samplers(self) -> tuple[str, ...]:
        """Rectified flow."""
        return ("rectified_flow",)

    @property
    def guided(self) -> bool:
        """True: it knows a modality of none."""
        return True

    @property
    def frame(self) -> Frame:
        """Images as they are."""
        from synth.diffusion.stages import Frame

        return Frame(0.0, 1.0, ((0, 0),) * 3)

    def steps(self, sampler: str) -> int:
        """As its settings say."""
        return int(self.config["maisi"]["num_inference_steps"])

    @property
    def guidance(self) -> float:
        """As its settings say."""
        return float(self.config["maisi"]["cfg_guidance_scale"])

    def files(self) -> dict[str, Path]:
        """The two files by network."""
        return {network: self.path / name for network, name in self.config["files"].items()}

    def networks(self, device: torch.device) -> Networks:
        """Autoencoder, U-Net and a mean latent of zeros."""
        from synth.diffusion.maisi_networks import maisi_networks

        return maisi_networks(self, device)

    def sampler(self, name: str, steps: int) -> TransformedFlow:
        """Rectified flow at timesteps that depend on the size of the latent."""
        from synth.diffusion.published_samplers import TransformedFlow

        _, d, h, w = self.config["latent_shape"]
        return TransformedFlow(steps, d * h * w)

    def parents(self) -> list[dict[str, Any]]:
        """The files with their checksums, and ``data``, what they were trained on."""
        checksums = {self.config["files"][network]: digest(path) for network, path in self.files().items()}
        mine = {
            "kind": "generator weights",
            "name": Path(self.config["files"]["diffusion"]).stem,
            "sha256": digest_of(checksums, self.config["networks"], self.config["maisi"]),
            "licence": self.config["maisi"]["licence"],
            "data": self.config["maisi"]["data"],
            "files": checksums,
            "settings": {name: self.config["maisi"][name] for name in ("dim", "spacing", "modality")},
        }
        return [mine]


def find_maisi(place: Path) -> Path | None:
    """The folder that holds ``models/`` with a U-Net of MAISI v2 for MRI: ``place`` or the one above; else None."""
    for folder in (place, place.parent if place.name == "models" else place):
        if any(path for variant in VARIANTS for path in (folder / "models").glob(variant.pattern)):
            return folder
    return None


def open_maisi(folder: Path) -> MaisiWeights:
    """The weights in a folder of MAISI's.

    Raises:
        UserError: no autoencoder beside the U-Net, settings that are not of this layout.
    """
    variant = next(known for known in VARIANTS if any((folder / "models").glob(known.pattern)))
    unet = max(path.name for path in (folder / "models").glob(variant.pattern))
    autoencoder = next((name for name in variant.autoencoders if (folder / "models" / name).is_file()), None)
    if autoencoder is None:
        raise UserError(
            f"'{folder / 'models'}' has {unet} but not its autoencoder; expected {variant.autoencoders[-1]} beside it, as "
            "NVIDIA's scripts.download_model_data puts it"
        )
    networks, settings = _networks(folder / NETWORK_CONFIG), _settings(folder / "configs" / variant.config, variant)
    factor = 2 ** (len(networks["channels"]) - 1)
    multiple = factor * 2 ** (len(networks["unet_channels"]) - 1)
    d, h, w = settings["dim"]
    if any(n % multiple for n in (d, h, w)):
        raise UserError(f"'{folder}' has dim {d}×{h}×{w}; expected multiples of {multiple} voxels along each axis")
    x, y, z = settings["spacing"]
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "networks": networks,
        "prediction": "rectified_flow",
        "shape": [d, h, w],
        "affine": centred_affine((d, h, w), (x, y, z)).tolist(),
        "latent_shape": [networks["latent_channels"], d // factor, h // factor, w // factor],
        "scale_factor": 1.0,  # the file's own is applied by the autoencoder
        "conditions": [Condition("contrast", words=(CONTRASTS[settings["modality"]],), shares=(1.0,)).as_json()],
        "files": {"autoencoder": f"models/{autoencoder}", "diffusion": f"models/{unet}"},
        "maisi": {**settings, "licence": variant.licence, "data": variant.data},
    }
    return MaisiWeights(folder, config)


def _settings(path: Path, variant: Variant) -> dict[str, Any]:
    """Grid, voxel size in mm, modality, steps, guidance."""
    held = read_config(path).get("diffusion_unet_inference", {}) if path.is_file() else {}
    found = {name: held.get(name, value) for name, value in variant.defaults.items()}
    grids = all(isinstance(found[name], list) and len(found[name]) == 3 for name in ("dim", "spacing"))
    numbers = [found["num_inference_steps"], found["cfg_guidance_scale"], *(found["spacing"] if grids else [])]
    if not grids or any(type(n) is not int or n < 1 for n in found["dim"]):
        raise UserError(
            f"'{path}' has dim {found['dim']!r} or spacing {found['spacing']!r}; expected three numbers each"
        )
    if any(type(number) not in (int, float) or not 0 < number <= 1000 for number in numbers):
        raise UserError(f"'{path}' has steps, guidance or spacing out of range; expected numbers above 0, at most 1000")
    if found["modality"] not in CONTRASTS:
        raise UserError(
            f"'{path}' has modality {found['modality']!r}; expected one of {', '.join(map(str, CONTRASTS))} (T1w, T2w, FLAIR, "
            "SWI)"
        )
    return found


def _networks(path: Path) -> dict[str, Any]:
    """Sizes of the two networks from configs/config_network_rflow.json; the published ones where there is none."""
    if not path.is_file():
        return dict(NETWORKS)
    config = read_config(path)
    autoencoder, unet = (config.get(name) for name in ("autoencoder_def", "diffusion_unet_def"))
    if not isinstance(autoencoder, dict) or not isinstance(unet, dict) or config.get("include_body_region"):
        raise UserError(f"'{path}' is not of MAISI v2: expected autoencoder_def, diffusion_unet_def, no body region")
    return {
        **NETWORKS,
        "latent_channels": whole_number(config, "latent_channels", path),
        "channels": list_of(autoencoder, ("num_channels",), int, path),
        "blocks": whole_number(autoencoder, "num_res_blocks", path),
        "groups": whole_number(autoencoder, "norm_num_groups", path),
        "unet_channels": list_of(unet, ("num_channels",), int, path),
        "unet_blocks": whole_number(unet, "num_res_blocks", path),
        "unet_groups": whole_number({"norm_num_groups": 32, **unet}, "norm_num_groups", path),
        "attention": list_of(unet, ("attention_levels",), bool, path),
        "head_channels": list_of(unet, ("num_head_channels",), int, path),
    }
