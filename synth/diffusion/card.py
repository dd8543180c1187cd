"""The model card and the picture of four samples that stand beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from synth.diffusion.conditions import Condition
from synth.diffusion.weights import DiffusionWeights
from synth.keys import rng_for
from synth.picture import save_png, slices
from synth.sample import Sample, spacing_of
from synth.storage import write_atomically

PICTURED = 4


def write_card(weights: DiffusionWeights) -> None:
    """README.md: what was learnt from what, under which licences, how to generate, what it is not good for."""
    config = weights.config
    corpus, options, losses = config["corpus"], config["options"], config["losses"]
    grid = "×".join(map(str, weights.shape))
    spacing = " × ".join(f"{step:g}" for step in spacing_of(weights.affine))
    recipe = corpus["recipe"]["generator"]
    lines = [
        "# Latent diffusion of brain MRI",
        "",
        f"Networks of size {config['size']}, volumes of {grid} voxels of {spacing} mm (RAS+), intensities 0 to 1.",
        "",
        "## Generate",
        "",
        "```",
        f"brainloom synth generate --generator Diffusion --generator.weights {weights.path.as_posix()} "
        "--count 8 --out ldm.zarr",
        "```",
        "",
        "![four samples](samples.png)",
        "",
        "## Told",
        "",
        *[f"- {_told(condition)}" for condition in weights.conditions],
        "",
        "## Training corpus",
        "",
        f"`{corpus['name']}`: {corpus['count']} volumes, seed {corpus['seed']}, identity `{corpus['identity']}`, "
        f"made by generator {recipe['class_path']} with:",
        "",
        "```json",
        json.dumps(recipe["init_args"], indent=1),
        "```",
        "",
        "It derives from:",
        "",
        *[f"- {_parent(parent)}" for parent in corpus["parents"]],
        "",
        "Licences that came with it: " + ("; ".join(corpus["licences"]) or "none named") + ".",
        "",
        "## Training",
        "",
        f"Autoencoder {options['autoencoder_steps']} steps (last loss {losses['autoencoder']:.4f}; absolute error, KL), "
        f"U-Net {options['diffusion_steps']} steps ({losses['diffusion']:.4f}; squared error, {_prediction(config)}), "
        f"batch {options['batch_size']}, seed {options['seed']}. No adversarial or perceptual loss, so volumes are "
        "smoother than real ones.",
        "",
        "## Limits",
        "",
        "Volumes show what the training corpus shows and no more. Whoever is in that corpus, or in what it was made "
        "from, must not be in a test set of anything trained on these volumes. Not for clinical use.",
        "",
    ]
    write_atomically(weights.path / "README.md", "\n".join(lines))


def _told(condition: Condition) -> str:
    if not condition.words:
        return f"{condition.name}: {condition.low:g} to {condition.high:g}" + (
            " years" if condition.name == "age" else ""
        )
    shares = zip(condition.words, condition.shares, strict=True)
    return f"{condition.name}: " + ", ".join(f"{word} ({share:.0%})" for word, share in shares)


def _parent(parent: dict[str, Any]) -> str:
    checksum = f", sha256 `{parent['sha256']}`" if "sha256" in parent else ""
    licence = f", licence: {parent['licence']}" if parent.get("licence") else ""
    return f"{parent.get('kind', 'source')} {parent.get('name', '')}{checksum}{licence}"


def _prediction(config: dict[str, Any]) -> str:
    return str(config["networks"]["prediction"]).replace("_", " ")


def write_picture(weights: DiffusionWeights, path: Path) -> None:
    """A PNG of four samples, three planes each."""
    from synth.diffusion.generator import Diffusion

    generator = Diffusion(weights.path)
    seed = int(weights.config["options"]["seed"])
    drawn = [generator.draw(rng_for(seed, number, "samples")) for number in range(PICTURED)]
    save_png(mosaic([generator.render(params) for params in drawn]), path)


def mosaic(samples: list[Sample]) -> Any:
    """A matplotlib figure: one row per sample, axial, coronal and sagittal."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(6.3, 2.3 * len(samples)), facecolor="black")
    for row, sample in zip(sheet.subplots(len(samples), 3, squeeze=False), samples, strict=True):
        high = max(float(np.percentile(sample.image, 99.7)), 1e-6)
        for axis, cut in zip(row, slices(sample.image[0]), strict=True):
            axis.imshow(cut, cmap="gray", vmin=0, vmax=high, interpolation="nearest")
            axis.axis("off")
        told = [f"{value:.0f} y" if name == "age" else f"{value}" for name, value in sample.covariates.items()]
        row[0].set_title(" · ".join(told), color="white", fontsize=7, loc="left")
    sheet.tight_layout(pad=0.3)
    return sheet
