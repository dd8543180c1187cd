"""What Lightning does otherwise than a long run on many machines needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all: written beside their place, then moved there.

    Lightning writes to the system's temporary folder first; where that is another file system, the move is a copy, which a
    kill cuts off.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write one."""
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{place.name}.part")
        with beside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(place)


class UnevenNodes(TorchElasticEnvironment):
    """Processes as torchrun or Ray Train placed them; one node may have more of them than another."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Nothing: the world's size stands in the environment."""
