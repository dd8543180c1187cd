"""The folder of a training: claimed once, every file whole or not there, nothing left behind."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from synth.diffusion.settings import TrainOptions
from synth.diffusion.weights import CONFIG, STAGE, DiffusionWeights
from synth.errors import UserError
from synth.storage import write_atomically

if TYPE_CHECKING:
    from torch import Tensor, nn

MARK, LATENTS = "training.json", "latents.zarr"


def claim(out: Path, identity: str, options: TrainOptions) -> bool:
    """Mark the folder as this training's. True when it holds the finished weights already. UserError if another's."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = {path.name for path in out.iterdir() if not path.name.startswith(".")}
        for name, state in ((CONFIG, "finished weights"), (MARK, "an interrupted training")):
            if name in held:
                if _identity(out / name) != identity:
                    raise UserError(f"'{out}' holds {state} of another corpus or other options; choose another --out")
                return name == CONFIG
        if held:
            raise UserError(f"'{out}' holds other files ({', '.join(sorted(held)[:3])}); choose an empty or new --out")
        write_atomically(out / MARK, json.dumps({"identity": identity, "options": dataclasses.asdict(options)}))
    except OSError as error:
        raise UserError(f"cannot write weights to '{out}' ({error.strerror or error}); choose another --out") from error
    return False


def _identity(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["identity"])
    except (ValueError, KeyError, TypeError):
        return ""


def finish(weights: DiffusionWeights) -> None:
    """Card and picture, if a run was killed before them; and nothing left of the training that others need not have:
    latents are the training volumes in another form."""
    from synth.diffusion.card import write_card, write_picture

    out = weights.path
    write_card(weights)
    if not (out / "samples.png").exists():
        write_whole(out / "samples.png", lambda path: write_picture(weights, path))
    for name in ("checkpoints", LATENTS):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in (MARK, STAGE):
        (out / name).unlink(missing_ok=True)


def save(model: nn.Module, path: Path, loss: float, further: Mapping[str, Tensor] = MappingProxyType({})) -> None:
    """Tensors of a network and ``further`` ones as safetensors, with the loss it ended at. Equal tensors give equal
    files: of several words of metadata safetensors would change the order."""
    from safetensors.torch import save_file

    tensors = {name: t.detach().cpu().contiguous() for name, t in {**model.state_dict(), **further}.items()}
    write_whole(path, lambda part: save_file(tensors, part, metadata={"loss": repr(loss)}))


def loss_in(path: Path) -> float:
    """The loss that :func:`save` wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return float((file.metadata() or {}).get("loss", "nan"))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, which then takes its place: a crash leaves the old or the new one."""
    temporary = path.with_name(f".{path.name}.part")
    write(temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
