"""Tensors out of other people's files, without running anything that is in them. Imports torch: import it late."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.torch_version import TorchVersion

from synth.errors import UserError

NESTS = ("state_dict", "model_state_dict", "unet_state_dict", "model", "network")
"""Names under which trainers keep the tensors beside what else they keep (epoch, optimiser)."""
SAFE_TORCH = "2.10"
"""Before, a pickle could get the better of torch's unpickler for weights: CVE-2025-32434 (to 2.5), CVE-2026-24747 (to 2.9)."""
MEND = "ask its maker for a safetensors file, or make one with safetensors.torch.save_file where it is trusted"


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a ``.safetensors`` file or of a ``.pt`` or ``.pth`` pickle, on the CPU.

    Raises:
        UserError: the file cannot be read, or holds anything but tensors; nothing in it was run.
    """
    return tensors_of(load_plain(path), path)


def load_plain(path: Path, also: Sequence[type] = ()) -> dict[str, Any]:
    """What a file holds by name: tensors and plain data (numbers, words, lists, dicts).

    torch's unpickler for weights knows how to build these and refuses whatever else a pickle asks for.

    Args:
        also: classes that a pickle may ask for too; only ones known to do nothing when they are built.

    Raises:
        UserError: as :func:`load_tensors`.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        _check_unpickler(path)
        with torch.serialization.safe_globals(list(also)), warnings.catch_warnings(action="ignore"):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(_refusal(path, error)) from error
    if not isinstance(held, Mapping):
        raise UserError(f"'{path}' holds a {type(held).__name__}; expected tensors by name: {MEND}")
    return dict(held)


def tensors_of(held: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors among what a file holds: all of it, or all under one of the names that trainers use.

    Raises:
        UserError: something else stands where tensors were expected.
    """
    for name in NESTS:
        if isinstance(held.get(name), Mapping):
            held = held[name]
            break
    for name, value in held.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"'{path}' holds a {type(value).__name__} under '{name}'; expected tensors and nothing else: {MEND}"
            )
    if not held:
        raise UserError(f"'{path}' holds no tensors; expected the weights of a network")
    return {str(name): tensor.detach() for name, tensor in held.items()}


def _check_unpickler(path: Path) -> None:
    if TorchVersion(torch.__version__) < SAFE_TORCH:
        raise UserError(
            f"'{path}' is a pickle, which torch {torch.__version__} does not read safely; update torch to {SAFE_TORCH} or "
            f"later, or {MEND}"
        )


def _refusal(path: Path, error: Exception) -> str:
    """One sentence about a file that was not read."""
    reason = " ".join(str(error).split())
    asked = re.search(r"GLOBAL ([\w.]+)", reason)
    archive = re.search(r"TorchScript archive|legacy \.tar", reason)
    if isinstance(error, pickle.UnpicklingError) or archive:
        what = f"asks for {asked[1]}, which can be code" if asked else "holds something else than tensors"
        what = f"is a {archive[0]}" if archive else what
        return f"'{path}' was refused and nothing in it was run: it {what}; {MEND}"
    return (
        f"'{path}' cannot be read as tensors ({reason[:100] or type(error).__name__}): it is damaged or of another kind"
    )
