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
from synth.sample import Covariate, Sample, spacing_of
from synth.storage import write_atomically

PICTURED = 4
LOSSES = ("absolute", "kl", "perceptual", "spectral", "adversarial")


def write_card(weights: DiffusionWeights) -> None:
    """README.md: what was learnt from what, under which licences, how to generate, what it is not good for."""
    config = weights.config
    corpus, options = config["corpus"], config["options"]
    grid = "×".join(map(str, weights.shape))
    spacing = " × ".join(f"{step:g}" for step in spacing_of(weights.affine))
    recipe = corpus["recipe"]["generator"]
    lines = [
        "# Latent diffusion of brain MRI",
        "",
        f"Volumes of {grid} voxels of {spacing} mm (RAS+), intensities 0 to 1"
        + (", with label maps that they follow." if weights.controlled else "."),
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
        *[_stage(config, name) for name in config["losses"]],
        "",
        _judged(options["autoencoder"]),
        "",
        "## Limits",
        "",
        "Volumes show what the training corpus shows and no more. Whoever is in that corpus, or in what it was made "
        "from, must not be in a test set of anything trained on these volumes. Not for clinical use.",
        "",
    ]
    write_atomically(weights.path / "README.md", "\n".join(lines))


STAGES = {"autoencoder": "Autoencoder", "diffusion": "Denoising U-Net", "control": "ControlNet"}


def _stage(config: dict[str, Any], name: str) -> str:
    options, loss = config["options"][name], config["losses"][name]
    if options.get("given"):
        return f"- {STAGES[name]}: taken from `{Path(options['given']).name}` (loss {loss:.4f})"
    told = f", {_prediction(config)}" if name == "diffusion" else ""
    return (
        f"- {STAGES[name]}: {options['steps']} steps, batch {options['batch_size']}, rate {options['learning_rate']:g}"
        f"{told}; last loss {loss:.4f}"
    )


def _judged(options: dict[str, Any]) -> str:
    """What the autoencoder minimised, and what follows from it."""
    terms = [f"{name} × {options[name]:g}" for name in LOSSES if options[name]]
    sharp = any(options[name] for name in ("perceptual", "spectral", "adversarial"))
    told = "" if sharp else " Without a perceptual, spectral or adversarial loss volumes are smoother than real ones."
    return f"The autoencoder minimised {', '.join(terms)}.{told}"


def _told(condition: Condition) -> str:
    if not condition.words:
        unit = " years" if condition.name == "age" else " mm³" if "volume" in condition.name else ""
        return f"{condition.name}: {condition.low:g} to {condition.high:g}{unit}"
    shares = zip(condition.words, condition.shares, strict=True)
    return f"{condition.name}: " + ", ".join(f"{word} ({share:.0%})" for word, share in shares)


def _parent(parent: dict[str, Any]) -> str:
    checksum = f", sha256 `{parent['sha256']}`" if "sha256" in parent else ""
    licence = f", licence: {parent['licence']}" if parent.get("licence") else ""
    return f"{parent.get('kind', 'source')} {parent.get('name', '')}{checksum}{licence}"


def _prediction(config: dict[str, Any]) -> str:
    return "foretelling " + str(config["prediction"]).replace("_", " ")


def write_picture(weights: DiffusionWeights, path: Path) -> None:
    """A PNG of four samples, three planes each."""
    from synth.diffusion.generator import Diffusion

    generator = Diffusion(weights.path)
    seed = int(weights.config["options"]["seed"])
    drawn = [generator.draw(rng_for(seed, number, "samples")) for number in range(PICTURED)]
    save_png(mosaic(generator.render_batch(drawn)), path)


def mosaic(samples: list[Sample]) -> Any:
    """A matplotlib figure: one row per sample, axial, coronal and sagittal."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(6.3, 2.3 * len(samples)), facecolor="black")
    for row, sample in zip(sheet.subplots(len(samples), 3, squeeze=False), samples, strict=True):
        high = max(float(np.percentile(sample.image, 99.7)), 1e-6)
        for axis, cut in zip(row, slices(sample.image[0]), strict=True):
            axis.imshow(cut, cmap="gray", vmin=0, vmax=high, interpolation="nearest")
            axis.axis("off")
        told = [_short(name, value) for name, value in sample.covariates.items()]
        row[0].set_title(" · ".join(told), color="white", fontsize=7, loc="left")
    sheet.tight_layout(pad=0.3)
    return sheet


def _short(name: str, value: Covariate) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.0f} y" if name == "age" else f"{name.removesuffix('_volume')} {value / 1000:.0f} mL"
