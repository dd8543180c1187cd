"""Commands of the room pretrain."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pretrain.objectives import ObjectiveSpec

DEFAULT = ObjectiveSpec("supervised")


def run(
    corpus: tuple[str, ...],
    out: Path,
    backbone: str = "sfcn_s",
    objective: ObjectiveSpec = DEFAULT,
    steps: int = 2000,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
    precision: Literal["bf16", "fp32"] = "bf16",
    ratios: tuple[float, ...] = (),
    follow: bool = False,
    init: str = "scratch",
    probe_every: int | None = None,
    probe_samples: int | None = None,
    accumulate: int = 1,
    layer_decay: float = 1.0,
    ema: float = 0.0,
    compile: bool = False,
    workers: int = 1,
    address: str | None = None,
    loggers: tuple[str, ...] = ("csv", "tensorboard"),
) -> int:
    """Pre-train a backbone on a corpus; killed, the same command goes on from its last checkpoint.

    Args:
        corpus: folder or URL of the corpus, or several separated by commas.
        out: folder of the weights to make.
        backbone: a name from brainloom pretrain backbones, with options after a colon.
        objective: supervised (synthetic targets), mae (masked autoencoder, ViT only), masked (for CNNs too), simclr, yaware
            (contrastive, minding age, sex and diagnosis), segment, contrasts (two contrasts of one anatomy), several with
            + between them, an installed plug-in's name, or module.Class.
        steps: training steps.
        batch_size: volumes a step.
        learning_rate: highest learning rate.
        weight_decay: of AdamW.
        seed: of initialisation, order, masks and augmentation.
        precision: bf16 (autocast) or fp32.
        ratios: how much of each corpus is in the batches, such as 3,1; by their sizes if not given.
        follow: begin while the corpus is still being made.
        init: scratch, or a file, folder or Hugging Face hub id to start from: our weights, a ViT of images or video, a video network, MedicalNet, MONAI.
        probe_every: steps between probes of the frozen backbone; a quarter of the run if not given, 0 never.
        probe_samples: volumes that a probe looks at; 256 if not given, fewer in a short run.
        accumulate: batches whose gradients make one step.
        layer_decay: factor of the learning rate from each layer to the one before it, such as 0.75; 1 is none.
        ema: decay of a moving average of the weights that is kept instead of the last ones, such as 0.999; 0 is none.
        compile: the backbone through torch.compile.
        workers: Ray Train workers, each with a batch of its own; under torchrun leave it out.
        address: of a running Ray cluster (auto, HOST:PORT or ray://HOST:PORT); out and corpus must be seen by all its nodes.
        loggers: csv (always), tensorboard, and, where installed, wandb and mlflow.
    """
    from pretrain.launch import world_here
    from pretrain.train import TrainOptions, pretrain

    options = TrainOptions(
        backbone,
        objective.class_path,
        steps,
        batch_size,
        learning_rate,
        weight_decay,
        seed=seed,
        precision=precision,
        init=init,
        objective_options=dict(objective.init_args),
        probe_every=probe_every,
        probe_samples=probe_samples,
        accumulate=accumulate,
        layer_decay=layer_decay,
        ema=ema,
        compile=compile,
        workers=workers,
    )
    about = pretrain(corpus, out, options, ratios or None, follow, loggers, address)
    if not world_here().first:
        return 0
    for name, value in about.figures.items():
        print(f"  {name}: {value}")
    print(f"{out}: {backbone}, {objective.class_path}, {about.training['volumes_per_second']} volumes/s")
    return 0


def plan(
    corpus: tuple[str, ...],
    backbone: str = "sfcn_s",
    objective: ObjectiveSpec = DEFAULT,
    steps: int = 2000,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
    precision: Literal["bf16", "fp32"] = "bf16",
    ratios: tuple[float, ...] = (),
    init: str = "scratch",
    accumulate: int = 1,
    layer_decay: float = 1.0,
    ema: float = 0.0,
    compile: bool = False,
    workers: int = 1,
    out: Path | None = None,
    follow: bool = False,
    probe_every: int | None = None,
    probe_samples: int | None = None,
    address: str | None = None,
    loggers: tuple[str, ...] = (),
) -> int:
    """What run with the same options will take: memory, hours, GPU-hours. A few steps are taken; nothing is written.

    Args:
        corpus: folder or URL of the corpus, or several separated by commas.
        backbone: as for run.
        objective: as for run.
        steps: training steps.
        batch_size: volumes a batch.
        learning_rate: as for run.
        weight_decay: as for run.
        seed: as for run.
        precision: bf16 (autocast) or fp32.
        ratios: how much of each corpus is in the batches.
        init: as for run.
        accumulate: batches whose gradients make one step.
        layer_decay: as for run.
        ema: as for run.
        compile: the backbone through torch.compile.
        workers: processes that train together, taken to be as quick as one.
        out: taken, so that the command for run serves here; it changes nothing, like the options after it.
        follow: changes nothing.
        probe_every: changes nothing, probes are not timed.
        probe_samples: changes nothing.
        address: changes nothing, the steps are taken on this machine.
        loggers: changes nothing.
    """
    from pretrain.options import TrainOptions
    from pretrain.plan import plan as make_plan

    options = TrainOptions(
        backbone,
        objective.class_path,
        steps,
        batch_size,
        learning_rate,
        weight_decay,
        seed=seed,
        precision=precision,
        init=init,
        objective_options=dict(objective.init_args),
        accumulate=accumulate,
        layer_decay=layer_decay,
        ema=ema,
        compile=compile,
        workers=workers,
    )
    print(make_plan(corpus, options, ratios or None))
    return 0


def probe(weights: Path, /, *, corpus: tuple[str, ...], samples: int = 512) -> int:
    """What a linear model and nearest neighbours read from the frozen features of weights.

    They are fitted to samples of the first nine tenths of the corpus and tested on samples of the last tenth, which
    pretrain run trains on neither. Beside them: an untrained backbone, and shuffled covariates, which must give chance.

    Args:
        weights: folder made by brainloom pretrain run.
        corpus: folder or URL of a corpus of the same shape and spacing, or several separated by commas.
        samples: volumes looked at; half of them of the last tenth, if there are as many.
    """
    from pretrain.probe_table import probe_weights, table

    for line in table(probe_weights(weights, corpus, samples)):
        print(line)
    return 0


def backbones(shape: tuple[int, int, int] = (96, 96, 96)) -> int:
    """List the backbones: parameters, length of the pooled feature, memory and operations a volume, sizes they take.

    Memory is what one more volume of a batch keeps for the backward pass in bf16; operations are of one forward pass.

    Args:
        shape: voxels of the volume that memory and operations are for.
    """
    from pretrain.backbones import describe
    from synth.progress import progress_bar

    with progress_bar("count", "backbones") as show:
        rows = describe(shape, show)
    size = "×".join(map(str, shape))
    print(
        f"{'':<12} {'parameters':>10} {'feature':>7} {'memory':>9} {'operations':>10}   (of a volume of {size}, bf16)"
    )
    for row in rows:
        memory = "–" if row.activation_bytes is None else f"{row.activation_bytes / 2**20:.0f} MiB"
        operations = "–" if row.flops is None else f"{row.flops / 1e9:.1f} G"
        count = f"{row.parameters / 1e6:.2f} M"
        print(f"{row.name:<12} {count:>10} {row.feature:>7} {memory:>9} {operations:>10}   {row.about}; {row.sizes}")
    print("options after a colon, such as vit_b:positions=learned,checkpointing=true; see docs/backbones.md")
    return 0


def export(weights: str, /, out: Path, format: Literal["monai-bundle"] = "monai-bundle") -> int:
    """Write weights in the form of another framework.

    Args:
        weights: folder made by brainloom pretrain run, or its Hugging Face hub id.
        out: folder to make.
        format: monai-bundle (configs, models/model.pt, card; inference.json turns scans into pooled features).
    """
    from pretrain.export import export_bundle
    from pretrain.hub import local_place

    export_bundle(local_place(weights), out)
    print(f"{out}: {format}")
    return 0
