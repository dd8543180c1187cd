"""The benchmark ``diffusion``: sampling of latent diffusion beside MONAI's LatentDiffusionInferer.

Both are given the same networks (those of the recipe tiny, with weights that never learnt: time does not depend on them),
the same noise, conditions and steps. Rows are measured in turns (:mod:`benchmarks.speed.turns`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.speed.timing import Row
from benchmarks.speed.turns import paired

GROUP = "sampling"
STEPS, FLOW_STEPS = 50, 10  # DDIM as MONAI's bundle; a flow that docs/diffusion.md finds as near within noise
CONDITIONS = 7
BATCH = 4
_HERE = "benchmarks.speed.diffusion"


def rows(size: int) -> list[Row]:
    """Ours and MONAI's, at the same number of steps and at the number that each needs."""
    shape = (size * 11 // 32, size * 13 // 32, size * 11 // 32)  # at 128: 44×52×44, a head at 4 mm

    def row(name: str, kind: Any, maker: str, options: dict[str, Any], words: str) -> Row:
        return Row(name, kind, shape, f"{_HERE}:{maker}", {"shape": list(shape), **options}, words, GROUP)

    return [
        row(
            f"brainloom, DDIM {STEPS}",
            "ours",
            "Ours",
            {"prediction": "v_prediction", "steps": STEPS},
            f"{BATCH} at once",
        ),
        row(
            f"brainloom, rectified flow {FLOW_STEPS}",
            "ours",
            "Ours",
            {"prediction": "rectified_flow", "steps": FLOW_STEPS},
            f"{BATCH} at once",
        ),
        row(
            f"brainloom, rectified flow {FLOW_STEPS}, bf16",
            "ours",
            "Ours",
            {"prediction": "rectified_flow", "steps": FLOW_STEPS, "bf16": True},
            f"{BATCH} at once",
        ),
        row(f"MONAI inferer, DDIM {STEPS}", "peer", "Monai", {"batch": 1}, "one at once"),
        row(f"MONAI inferer, DDIM {STEPS}, {BATCH} at once", "peer", "Monai", {"batch": BATCH}, f"{BATCH} at once"),
        row(
            f"MONAI inferer, DDIM {STEPS}, {BATCH} at once, bf16",
            "peer",
            "Monai",
            {"batch": BATCH, "bf16": True},
            f"{BATCH} at once, called under torch.autocast",
        ),
    ]


def networks_for(shape: list[int]) -> Any:
    """Networks of the recipe tiny that never learnt, for volumes of ``shape``; the same weights every time."""
    import torch

    from synth.diffusion.learning import initialised
    from synth.diffusion.networks import Autoencoder, build_unet, margins
    from synth.diffusion.sampling import Networks
    from synth.diffusion.settings import Size
    from synth.diffusion.stages import Frame

    size = Size()
    d, h, w = shape
    frame = Frame(0.0, 1.0, margins((d, h, w), size))
    autoencoder = initialised(0, lambda: Autoencoder(size)).eval()
    unet = initialised(1, lambda: build_unet(size, CONDITIONS)).eval()
    cells = [(n + sum(pair)) // size.factor for n, pair in zip(shape, frame.margins, strict=True)]
    centre = torch.zeros(1, size.latent_channels, *cells)
    return Networks(autoencoder, unet, centre, 1.0, frame)


def drawn(networks: Any, number: int, count: int) -> tuple[Any, Any]:
    """Noise and condition vectors of a call."""
    import torch

    from synth.keys import rng_for

    rng = rng_for(0, number, "speed diffusion")
    noise = rng.standard_normal((count, *networks.centre.shape[1:]), np.float32)
    return torch.from_numpy(noise), torch.from_numpy(rng.random((count, CONDITIONS), np.float32))


class Ours:
    """Volumes by brainloom's sampler, a batch a call."""

    turn_s = 0.0

    def __init__(self, shape: list[int], prediction: str, steps: int, bf16: bool = False) -> None:
        self.networks, self.shape = replace(networks_for(shape), bf16=bf16), tuple(shape)
        self.prediction, self.steps = prediction, steps
        self.volumes_per_call = BATCH

    def __call__(self, number: int) -> None:
        from synth.diffusion.processes import make_sampler
        from synth.diffusion.sampling import decode, sample_latent
        from synth.diffusion.settings import SAMPLERS
        from synth.repeatable import repeatable

        noise, vector = drawn(self.networks, number, BATCH)
        sampler = make_sampler(SAMPLERS[self.prediction][0], self.prediction, self.steps)
        with repeatable():
            decode(self.networks, sample_latent(self.networks, sampler, noise, vector), self.shape)  # type: ignore[arg-type]


class Monai:
    """Volumes by MONAI's LatentDiffusionInferer on the same networks, which it calls through thin modules."""

    turn_s = 0.0

    def __init__(self, shape: list[int], batch: int, bf16: bool = False) -> None:
        import torch
        from monai.inferers.inferer import LatentDiffusionInferer
        from monai.networks.schedulers.ddim import DDIMScheduler
        from torch import nn

        from synth.diffusion.networks import foretell
        from synth.diffusion.processes import BETAS, TRAIN_TIMESTEPS

        self.networks = networks = replace(networks_for(shape), bf16=bf16)
        self.volumes_per_call = batch

        class Told(nn.Module):
            """The U-Net with its conditions as maps too."""

            def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
                return foretell(networks.unet, x, timesteps, context[:, 0])

        class Decoder(nn.Module):
            """The autoencoder by the name that the inferer calls."""

            def decode_stage_2_outputs(self, latent: torch.Tensor) -> torch.Tensor:
                decoded: torch.Tensor = networks.autoencoder.decode(latent)
                return decoded

        self.unet: Any = Told()
        self.decoder: Any = Decoder()
        self.scheduler = DDIMScheduler(TRAIN_TIMESTEPS, prediction_type="v_prediction", clip_sample=False, **BETAS)
        self.scheduler.set_timesteps(STEPS)
        self.inferer = LatentDiffusionInferer(self.scheduler, scale_factor=1.0)

    def __call__(self, number: int) -> None:
        noise, vector = drawn(self.networks, number, self.volumes_per_call)
        with self.networks.computing():
            self.inferer.sample(
                noise,
                self.decoder,
                self.unet,
                self.scheduler,
                conditioning=vector[:, None],
                mode="crossattn",
                verbose=False,
            )


def ratios(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """MONAI's time a volume by ours, medians over turns, None where a row it takes was skipped. ``same_steps``: by ours with as
    many steps; ``equal_quality``: by our rectified flow; ``equal_quality_bf16``: by that in bfloat16. Each with MONAI one
    at once and, ``…_batched``, as many at once as ours; ``equal_quality_both_bf16`` is with MONAI called in bfloat16 and
    batched too."""
    held = {row["name"]: row for row in measured}
    monai, flow = f"MONAI inferer, DDIM {STEPS}", f"brainloom, rectified flow {FLOW_STEPS}"
    ours = {
        "same_steps": f"brainloom, DDIM {STEPS}",
        "equal_quality": flow,
        "equal_quality_bf16": f"{flow}, bf16",
    }
    batched = f"{monai}, {BATCH} at once"
    found = {name: paired(held.get(monai), held.get(own)) for name, own in ours.items()}
    found |= {f"{name}_batched": paired(held.get(batched), held.get(own)) for name, own in ours.items()}
    return {**found, "equal_quality_both_bf16": paired(held.get(f"{batched}, bf16"), held.get(f"{flow}, bf16"))}


def sentences(found: dict[str, Any]) -> list[str]:
    """The ratios in words; what could not be measured is left out."""
    flow = f"MONAI's {STEPS} steps take {{:.2f}} times as long as {FLOW_STEPS} of brainloom's rectified flow"
    said = {
        "same_steps": f"{STEPS} steps each: MONAI takes {{:.2f}} times as long a volume as brainloom",
        "equal_quality": flow,
        "equal_quality_bf16": f"{flow} in bfloat16",
    }
    lines = []
    for name, text in said.items():
        if found[name] is not None:
            others = {f"given {BATCH} at once": found[f"{name}_batched"]}
            if name == "equal_quality_bf16":
                others["and in bfloat16 too"] = found["equal_quality_both_bf16"]
            told = ", ".join(f"{words}: {ratio:.2f}" for words, ratio in others.items() if ratio is not None)
            lines.append(text.format(found[name]) + (f" ({told})" if told else "") + ".")
    return lines
