"""Reads the files of a start: tensors, and what stands beside them. Nothing in them is run."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pretrain.hub import PICKLED, SAFE, local_place
from synth.errors import UserError

NESTED = ("state_dict", "model", "model_state_dict", "teacher")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class Source:
    """A start as it was found.

    Attributes:
        name: what ``--init`` was given.
        tensors: by the names they have in the file.
        config: of the config.json beside it, or empty.
        licence: of the card beside it, or empty.
    """

    name: str
    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]
    licence: str


def read_source(name: str) -> Source:
    """The tensors of a file, of a folder with one, or of a hub repository.

    Raises:
        UserError: nothing there, several files, damage, or a pickle that holds more than tensors.
    """
    place = local_place(name, SAFE)
    files = _tensor_files(place)
    if not files and not Path(name).exists():
        place = local_place(name, PICKLED)
        files = _tensor_files(place)
    if not files:
        raise UserError(f"'{name}' holds no tensors; expected a file that ends in {', '.join(SUFFIXES)}")
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        tensors.update(_read(file))
    folder = place if place.is_dir() else place.parent
    return Source(name, tensors, _config(folder), _licence(folder))


def _tensor_files(place: Path) -> list[Path]:
    """The file itself, the parts of a divided model, or the one file of a folder; safetensors go first."""
    if place.is_file():
        return [place]
    index = place / "model.safetensors.index.json"
    if index.is_file():
        parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return [place / Path(part).name for part in parts]
    for suffix in SUFFIXES:
        found = sorted(place.glob(f"*{suffix}"))
        named = [path for path in found if path.stem in ("model", "pytorch_model")]
        if len(found) > 1 and len(named) != 1:
            raise UserError(f"'{place}' holds {len(found)} files *{suffix}; name the one to start from")
        if found:
            return named or found
    return []


def _read(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    if not file.is_file():
        raise UserError(f"'{file}' is missing; expected every part of the model that its index names")
    try:
        held = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"'{file}' cannot be read as tensors alone ({reason}); expected safetensors, or a PyTorch file of tensors"
        ) from error
    while isinstance(held, dict) and not _is_tensors(held):
        inner = [held[key] for key in NESTED if isinstance(held.get(key), dict)]
        if not inner:
            break
        held = inner[0]
    tensors = (
        {str(name): value for name, value in held.items() if isinstance(value, torch.Tensor)}
        if isinstance(held, dict)
        else {}
    )
    if not tensors:
        raise UserError(f"'{file}' holds no named tensors; expected a state dict")
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def _is_tensors(held: dict[Any, Any]) -> bool:
    return sum(isinstance(value, torch.Tensor) for value in held.values()) > len(held) / 2


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        held = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"'{path}' is damaged ({error})") from error
    return held if isinstance(held, dict) else {}


def _licence(folder: Path) -> str:
    """``license:`` of a card's front matter."""
    path = folder / "README.md"
    match = (
        re.search(r"^license(?:_name)?:\s*(.+)$", path.read_text(errors="replace"), re.MULTILINE)
        if path.is_file()
        else None
    )
    return match[1].strip() if match else ""
