"""Weights in the forms of others: a MONAI bundle."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pretrain.backbones import Backbone, ViT
from pretrain.backbones.vit import PLAIN
from pretrain.card import card
from pretrain.intensity import CLIP, FOREGROUND
from pretrain.weights import Weights, load_weights
from synth.errors import UserError

Tensors = dict[str, torch.Tensor]
NETS = "monai.networks.nets"
# pretrain.intensity.standardise in one expression, so that a bundle of MONAI's own networks needs MONAI alone.
STANDARDISE = (
    "$lambda x: (lambda m: ((x - x[m].mean()) / x[m].std(correction=0).clamp_min(1e-6))"
    f".clamp(-{CLIP}, {CLIP}))(x > {FOREGROUND} * x.flatten().kthvalue(max(1, int(x.numel() * 0.99))).values)"
)


@dataclass(frozen=True)
class Network:
    """How a bundle builds the network.

    Attributes:
        definition: ``network_def``; ``parts`` are other entries of the config that it refers to.
        pool: expression that makes a pooled feature ``[B, F]`` of what the network returns.
        tensors: its weights under its own names.
        needs: packages besides MONAI.
    """

    definition: dict[str, Any] | str
    pool: str
    tensors: Tensors
    needs: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)


def export_bundle(folder: Path, out: Path) -> None:
    """Write weights as a MONAI bundle: configs, ``models/model.pt``, the card. The folder appears whole or not at all.

    ResNets, DenseNet121, Swin and ViTs without additions become MONAI's own classes; other backbones are built by
    brainloom, which the bundle then requires. ``configs/inference.json`` turns scans into pooled features.

    Raises:
        UserError: ``folder`` holds no weights, or ``out`` is there already.
    """
    if out.exists():
        raise UserError(f"'{out}' is there already; choose another --out")
    backbone, about = load_weights(folder)
    network = network_of(backbone, about)
    temporary = out.with_name(f".{out.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    for part in ("configs", "models", "docs"):
        (temporary / part).mkdir(parents=True)
    for name, content in (("metadata", _metadata(about, backbone, network)), ("inference", _inference(about, network))):
        (temporary / "configs" / f"{name}.json").write_text(json.dumps(content, indent=4))
    torch.save(network.tensors, temporary / "models" / "model.pt")
    (temporary / "docs" / "README.md").write_text(card(about))
    temporary.rename(out)


def network_of(backbone: Backbone, about: Weights) -> Network:
    """MONAI's class for a backbone where there is one, else brainloom's."""
    state = dict(backbone.state_dict())
    channels = about.channels
    if (
        isinstance(backbone, ViT)
        and dataclasses.replace(backbone.options, positions="sincos", checkpointing=False) == PLAIN
    ):
        return _vit(backbone, about, state)
    stages = {"resnet18": _resnet, "resnet50": _resnet, "swin": _swin}
    if about.backbone in stages:
        definition = stages[about.backbone](about.backbone, channels)
        tensors = {name.removeprefix("net."): value for name, value in state.items()}
        return Network(definition, "$lambda stages: stages[-1].mean((2, 3, 4))", tensors)
    if about.backbone == "densenet121":
        whole = {"_target_": f"{NETS}.DenseNet121", "spatial_dims": 3, "in_channels": channels, "out_channels": 1}
        tensors = {name.removeprefix("features."): value for name, value in state.items()}
        return Network(
            "$@densenet.features", "$lambda maps: maps.relu().mean((2, 3, 4))", tensors, parts={"densenet": whole}
        )
    definition = {
        "_target_": "pretrain.backbones.make_backbone",
        "word": about.word,
        "shape": list(about.shape),
        "channels": channels,
    }
    return Network(definition, "$lambda feature: feature", state, {"brainloom": metadata.version("brainloom")})


def _resnet(model: str, channels: int) -> dict[str, Any]:
    return {"_target_": f"{NETS}.ResNetFeatures", "model_name": model, "pretrained": False, "in_channels": channels}


def _swin(model: str, channels: int) -> dict[str, Any]:
    return {
        "_target_": f"{NETS}.swin_unetr.SwinTransformer",
        "in_chans": channels,
        "embed_dim": 48,
        "window_size": [7, 7, 7],
        "patch_size": [2, 2, 2],
        "depths": [2, 2, 2, 2],
        "num_heads": [3, 6, 12, 24],
        "downsample": "mergingv2",
    }


def _vit(backbone: ViT, about: Weights, state: Tensors) -> Network:
    definition = {
        "_target_": f"{NETS}.ViT",
        "in_channels": about.channels,
        "img_size": list(about.shape),
        "patch_size": list(backbone.patch_shape),
        "hidden_size": backbone.feature_size,
        "mlp_dim": 4 * backbone.feature_size,
        "num_layers": len(backbone.blocks),
        "num_heads": backbone.heads,
        "qkv_bias": True,
    }
    theirs = (("embed.", "patch_embedding.patch_embeddings."), (".qkv.", ".attn.qkv."), (".proj.", ".attn.out_proj."))
    layers = ((".mlp.0.", ".mlp.linear1."), (".mlp.2.", ".mlp.linear2."))
    tensors = {}
    for name, value in state.items():
        if name == "positions":
            continue
        for ours, other in (*theirs, *layers):
            name = name.replace(ours, other)
        tensors[name] = value
    tensors["patch_embedding.position_embeddings"] = backbone.positions
    for i in range(len(backbone.blocks)):  # MONAI keeps a norm for cross-attention that it does not use
        for end in ("weight", "bias"):
            tensors[f"blocks.{i}.norm_cross_attn.{end}"] = torch.full((backbone.feature_size,), float(end == "weight"))
    return Network(definition, "$lambda output: output[0].mean(1)", tensors)


def _inference(about: Weights, network: Network) -> dict[str, Any]:
    """Scans in ``dataset_dir`` → ``output_file``, pooled features ``[N, F]`` in the order of their names."""
    transforms = [
        {"_target_": "LoadImage", "image_only": True, "ensure_channel_first": True},
        {"_target_": "Orientation", "axcodes": "RAS"},
        {"_target_": "Spacing", "pixdim": list(about.spacing)},
        {"_target_": "ResizeWithPadOrCrop", "spatial_size": list(about.shape)},
        {"_target_": "ToTensor", "track_meta": False},
        {"_target_": "Lambda", "func": STANDARDISE},
    ]
    return {
        "imports": ["$import glob", "$import numpy", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "checkpoint": "$@bundle_root + '/models/model.pt'",
        "output_file": "$@bundle_root + '/features.npy'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        **network.parts,
        "network_def": network.definition,
        "network": "$@network_def.to(@device)",
        "pool": network.pool,
        "preprocessing": {"_target_": "Compose", "transforms": transforms},
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii*'))",
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "initialize": [
            "$@network.load_state_dict(torch.load(@checkpoint, map_location=@device, weights_only=True))",
            "$@network.eval()",
            "$torch.set_grad_enabled(False)",
        ],
        "run": [
            "$numpy.save(@output_file, torch.cat([@pool(@network(x[None].to(@device))).cpu() for x in @dataset]).numpy())"
        ],
        "finalize": ["$torch.set_grad_enabled(True)"],
    }


def _metadata(about: Weights, backbone: Backbone, network: Network) -> dict[str, Any]:
    """``metadata.json`` as MONAI's bundle specification asks for it."""
    from monai import __version__ as monai_version

    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": about.channels,
        "spatial_shape": list(about.shape),
        "dtype": "float32",
        "value_range": [-CLIP, CLIP],
        "is_patch_data": False,
        "channel_def": {str(channel): "image" for channel in range(about.channels)},
    }
    feature = {
        "type": "feature",
        "format": "embedding",
        "num_channels": backbone.feature_size,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {"0": "pooled feature"},
    }
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": "1.0.0",
        "changelog": {"1.0.0": "written by brainloom pretrain export"},
        "monai_version": monai_version,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": {"nibabel": metadata.version("nibabel"), **network.needs},
        "name": f"{about.backbone}, {about.objective}, on {about.corpus['name']}",
        "task": "features of brain MRI",
        "description": "A 3D backbone pre-trained with brainloom; docs/README.md says on what, from which start, under which licences.",
        "authors": "the person who trained it",
        "copyright": "see docs/README.md",
        "intended_use": "research only, not for clinical use",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": feature}},
        "brainloom": {"spacing_mm": list(about.spacing), "normalisation": about.normalisation, "start": about.start},
    }
