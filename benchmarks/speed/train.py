"""The benchmark ``train``: one training step of our backbones and objectives beside MONAI's.

Both sides of a group are given the same shapes, precision, batch, loss and optimiser (AdamW); the volumes are noise in
memory, for time does not depend on them. A masked autoencoder's encoder is a ViT-B/16 in both, its decoder as wide and
deep in both. Rows of a group are measured in turns (:mod:`benchmarks.speed.turns`), on two threads.
"""

from __future__ import annotations

from typing import Any

from benchmarks.speed.timing import Row
from benchmarks.speed.turns import paired

THREADS, GPU_BATCH = 2, 32
PRECISIONS = ("fp32", "bf16")
MAE, VIT, AUTOENCODER, DENSENET = "MAE of ViT-B/16", "ViT-B/16", "autoencoder of ViT-B/16", "DenseNet121"
SMALL_VIT, RESNET, SWIN = "ViT-S/8", "ResNet50", "Swin"
GROUPS = (MAE, VIT, SMALL_VIT, AUTOENCODER, DENSENET, RESNET, SWIN)
BATCHES = {
    MAE: 8,
    SMALL_VIT: 1,
}  # others 2; of two volumes a quarter of which is seen, AdamW on 88 M weights is half a step
NAMES = {  # of a group: ours, MONAI's
    MAE: ("brainloom mae", "MONAI MaskedAutoEncoderViT"),
    VIT: ("brainloom vit_b", "MONAI ViT"),
    SMALL_VIT: ("brainloom vit_s_p8", "MONAI ViT, small"),
    AUTOENCODER: ("brainloom masked", "MONAI ViTAutoEnc"),
    DENSENET: ("brainloom densenet121", "MONAI DenseNet121"),
    RESNET: ("brainloom resnet50", "MONAI ResNetFeatures"),
    SWIN: ("brainloom swin", "MONAI SwinTransformer"),
}
_STEPS = "benchmarks.speed.train_steps"


def rows(size: int) -> list[Row]:
    """Ours and MONAI's of every group, in both precisions; ours on a GPU too, where there is one."""
    edge = max(32, size * 3 // 4 // 16 * 16)  # 96 at 128, of the sizes that a ViT-B/16 takes
    made = [_row(group, edge, precision, side) for group in GROUPS for precision in PRECISIONS for side in (0, 1)]
    import torch

    if torch.cuda.is_available():
        made += [_gpu_row(group, edge) for group in GROUPS]
        made.append(
            Row(
                "stream under training",
                "gpu",
                (edge, edge, edge),
                f"{_STEPS}:Streamed",
                {"edge": edge, "batch": GPU_BATCH},
                "MAE of ViT-B/16 on batches of a Stream",
                "GPU",
                THREADS,
            )
        )
    return made


def name_of(group: str, precision: str, side: int) -> str:
    """What a row is called; side 0 is ours, 1 MONAI's."""
    return f"{NAMES[group][side]}, {precision}"


def _row(group: str, edge: int, precision: str, side: int) -> Row:
    batch = BATCHES.get(group, 2)
    options = {"group": group, "edge": edge, "precision": precision, "batch": batch, "ours": side == 0}
    words = f"forward, backward, AdamW; {batch} at once"
    kind: Any = "peer" if side else "ours"
    name = name_of(group, precision, side)
    return Row(name, kind, (edge, edge, edge), f"{_STEPS}:Step", options, words, f"{group}, {precision}", THREADS)


def _gpu_row(group: str, edge: int) -> Row:
    options = {"group": group, "edge": edge, "precision": "bf16", "batch": GPU_BATCH, "ours": True, "device": "cuda"}
    words = f"forward, backward, AdamW; {GPU_BATCH} at once; FLOP utilisation"
    return Row(f"{NAMES[group][0]}, GPU", "gpu", (edge, edge, edge), f"{_STEPS}:Step", options, words, "GPU", THREADS)


def ratios(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """MONAI's time by ours, median over turns, by group and precision, None where one was not measured; ``mae_bf16_over
    _fp32``: MONAI's MAE in fp32 (in bf16 it fails) by ours in bf16, from medians, for they are not measured in turns."""
    held = {row["name"]: row for row in measured}
    found: dict[str, Any] = {
        f"{group}, {precision}": paired(held.get(name_of(group, precision, 1)), held.get(name_of(group, precision, 0)))
        for group in GROUPS
        for precision in PRECISIONS
    }
    theirs, ours = held.get(name_of(MAE, "fp32", 1)), held.get(name_of(MAE, "bf16", 0))
    both = theirs and ours and "skipped" not in theirs and "skipped" not in ours
    found["mae_bf16_over_fp32"] = theirs["ms_median"] / ours["ms_median"] if both and theirs and ours else None
    return found


def sentences(found: dict[str, Any]) -> list[str]:
    """The ratios in words; what could not be measured is left out."""
    lines = [
        f"{name}: MONAI takes {value:.2f} times as long a step as brainloom."
        for name, value in found.items()
        if value is not None and name != "mae_bf16_over_fp32"
    ]
    value = found["mae_bf16_over_fp32"]
    if value is not None:
        lines.append(f"MONAI's MAE in fp32 takes {value:.2f} times as long a step as brainloom's in bf16.")
    return lines
