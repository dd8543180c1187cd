"""The folder of a trained latent diffusion model: two safetensors files, config.json, a model card, a picture."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from synth.diffusion.conditions import Condition, width
from synth.diffusion.hub import fetched
from synth.errors import UserError
from synth.provenance import lineage

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from synth.diffusion.sampling import Networks, Sampler
    from synth.diffusion.stages import Frame

FORMAT, FORMAT_VERSION = "brainloom-diffusion", 2
CONFIG, AUTOENCODER, DIFFUSION = "config.json", "autoencoder.safetensors", "diffusion.safetensors"
CONTROL = "control.safetensors"  # only where a ControlNet was trained
STAGE = "stage.json"  # of a training that goes on: what its autoencoder is
LATENT_MEAN = "latent_mean"  # a tensor beside the U-Net's: mean latent [c, d, h, w] of the training corpus
FILES = (CONFIG, AUTOENCODER, DIFFUSION)


@dataclass(frozen=True)
class DiffusionWeights:
    """A folder of finished weights and what its config.json says.

    Attributes:
        path: the folder.
        config: everything in config.json, see :func:`synth.diffusion.train.train_diffusion`.

    Version 1 knew neither rectified flow nor ControlNets and kept the prediction among the networks' sizes.
    """

    path: Path
    config: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """[D, H, W] of the volumes."""
        d, h, w = self.config["shape"]
        return int(d), int(h), int(w)

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """4×4, voxel index → mm, RAS+, of the training corpus."""
        return np.array(self.config["affine"], np.float64)

    @property
    def conditions(self) -> list[Condition]:
        """What the model is told."""
        return [Condition.from_json(record) for record in self.config["conditions"]]

    @property
    def prediction(self) -> str:
        """What the U-Net foretells."""
        return str(self.config.get("prediction") or self.config["networks"]["prediction"])

    @property
    def samplers(self) -> tuple[str, ...]:
        """Samplers that fit, the usual one first."""
        from synth.diffusion.settings import SAMPLERS

        return SAMPLERS[self.prediction]

    def steps(self, sampler: str) -> int:
        """Usual number of steps of a sampler."""
        from synth.diffusion.settings import STEPS

        return STEPS[sampler]

    def check_steps(self, steps: int) -> None:
        """Raise UserError for a number of steps from 1 to 1000 that these weights' sampler cannot take; ours take all."""

    @property
    def guidance(self) -> float:
        """Usual guidance: as trained."""
        return 1.0

    @property
    def guided(self) -> bool:
        """Whether it was trained without its conditions too, so that these can be exaggerated."""
        options = self.config.get("options", {}).get("diffusion", {"untold": 0.1})  # version 1 always did
        return bool(options["untold"] > 0)

    def sampler(self, name: str, steps: int) -> Sampler:
        """What leads from noise to a latent in ``steps`` steps."""
        from synth.diffusion.processes import make_sampler

        return make_sampler(name, self.prediction, steps)

    @property
    def controlled(self) -> bool:
        """Whether there is a ControlNet, so that volumes come with their label maps."""
        return bool(self.config.get("control"))

    @property
    def labels(self) -> dict[int, str]:
        """Label numbers that the ControlNet follows, with names."""
        return {int(number): name for number, name in (self.config.get("labels") or {}).items()}

    def networks(self, device: torch.device) -> Networks:
        """The networks, filled, in evaluation mode.

        Raises:
            UserError: files that are damaged or do not belong together.
        """
        from synth.diffusion.networks import Autoencoder, Control, build_unet
        from synth.diffusion.sampling import Networks
        from synth.diffusion.settings import Size

        size, told = Size.from_json(self.config["networks"]), width(self.conditions)
        autoencoder, unet, control = Autoencoder(size), build_unet(size, told), None
        _fill(autoencoder, self.path / AUTOENCODER)
        centre = _fill(unet, self.path / DIFFUSION)[LATENT_MEAN]
        if self.controlled:
            control = Control(size, told, len(self.frame.labels), tuple(self.config["control"]["channels"]))
            _fill(control, self.path / CONTROL)
            control.to(device).eval()
        return Networks(
            autoencoder.to(device).eval(),
            unet.to(device).eval(),
            centre[None].to(device),
            float(self.config["scale_factor"]),
            self.frame,
            control,
        )

    @property
    def frame(self) -> Frame:
        """How volumes are brought to the networks."""
        from synth.diffusion.networks import margins
        from synth.diffusion.settings import Size
        from synth.diffusion.stages import Frame

        intensity = self.config["intensity"]
        before = margins(self.shape, Size.from_json(self.config["networks"]))
        return Frame(intensity["low"], intensity["high"], before, tuple(sorted(self.labels)))

    def parents(self) -> list[dict[str, Any]]:
        """These weights, their training corpus, and what that corpus derives from, as one flat list."""
        names = [*FILES, *[CONTROL] * self.controlled]
        checksums = {name: digest(self.path / name) for name in names}
        whole = hashlib.sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()
        corpus, *further = lineage(self.config["corpus"])
        mine = {
            "kind": "generator weights",
            "name": self.path.resolve().name,
            "sha256": whole,
            "licence": f"as the training corpus: {corpus['licence']}",
            "files": checksums,
        }
        return [mine, corpus, *further]


def open_weights(path: Path) -> DiffusionWeights:
    """The finished weights in a folder or at an id of the Hugging Face hub: brainloom's, or published ones.

    Raises:
        UserError: no such folder, training not finished, files missing, another format or a newer one, no connection.
    """
    from synth.diffusion.maisi import find_maisi, open_maisi  # late: these are weights themselves
    from synth.diffusion.published import find_bundle, open_bundle

    path = fetched(path)
    if (maisi := find_maisi(path)) is not None:
        return open_maisi(maisi)
    if (bundle := find_bundle(path)) is not None:
        return open_bundle(bundle)
    if not path.is_dir():
        raise UserError(
            f"there are no weights '{path}'; expected a folder made by brainloom synth train, or published weights"
        )
    if (path / "training.json").exists() and not (path / CONFIG).exists():
        raise UserError(f"the training of '{path}' is not finished; run its synth train command again to go on")
    for name in FILES:
        if not (path / name).is_file():
            raise UserError(
                f"'{path}' has no {name}; expected a folder made by brainloom synth train, or published weights"
            )
    try:
        config = json.loads((path / CONFIG).read_text())
        found = (config["format"], config["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path / CONFIG}' is damaged or of another program; expected {FORMAT}") from error
    if found[0] != FORMAT or found[1] not in range(1, FORMAT_VERSION + 1):
        raise UserError(
            f"'{path}' holds {found[0]} version {found[1]}; this brainloom reads {FORMAT} up to version {FORMAT_VERSION}"
        )
    return DiffusionWeights(path, config)


def _fill(network: Any, path: Path) -> dict[str, Tensor]:
    """Fill the network from a file; returns the file's tensors, those that are not the network's too."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        network.load_state_dict({name: tensor for name, tensor in tensors.items() if name != LATENT_MEAN})
        return tensors
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"'{path}' is damaged or belongs to another config.json ({reason}); train again") from error


def digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(*records: Any) -> str:
    """sha256 of what records of JSON hold."""
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()
