"""MONAI's bundle brain_image_synthesis_latent_diffusion_model (Pinaya et al. 2022, arXiv:2209.07162) as weights.

What is known of it, and from where:

- Networks, noise schedule, order of the conditions, 50 DDIM steps, no scale factor of the latent: ``configs/inference.json``
  of the bundle, in Project-MONAI/GenerativeModels (7428fce) and Project-MONAI/model-zoo (17e7879).
- Sex 0 is female, 1 male; age is (years - 44) / (82 - 44): its first author's demonstration, ``app.py`` of
  Warvito/gradio_medical_ldm (9c3a41f).
- Ventricular volume is UK Biobank field 25004, brain volume (normalised for head size) field 25009. Which mm³ became 0
  and 1 is not published. The ranges here are an outer bracket (those of NeuroFM, trained on volumes of this model), so
  their mm³ are nominal: they tell a small value from a large one, and no more.
- The array runs right→left: the archived bundle's saver has an affine of diag(-1, 1, 1) mm and the origin (96.48, -141.48,
  -156.55) mm. The first author's training code (Warvito/generative_brain, 31eb042) crops 16, 16 and 96 voxels before the
  160×224×160 that the networks see; with these off, the head lies where MNI space has it. That both belong together is
  an inference. Volumes are flipped to left→right here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synth.diffusion.bundle_config import CONFIG, LATENT, described
from synth.diffusion.conditions import Condition
from synth.diffusion.weights import FORMAT, FORMAT_VERSION, DiffusionWeights, digest_of
from synth.errors import UserError
from synth.sample import centred_affine

if TYPE_CHECKING:
    import torch

    from synth.diffusion.published_samplers import LeadingDDIM
    from synth.diffusion.sampling import Networks
    from synth.diffusion.stages import Frame

BUNDLE = "brain_image_synthesis_latent_diffusion_model"
NAMES = {
    "autoencoder": ("autoencoder.safetensors", "autoencoder.pt", "autoencoder.pth"),
    "diffusion": ("model.safetensors", "diffusion_model.safetensors", "model.pt", "diffusion_model.pth"),
}
"""Files in ``models/``: the model zoo's ``.pt``, the archived repository's ``.pth``, or either made safetensors."""
MD5 = {"autoencoder": "329e97b3085643ff235f11f049856242", "diffusion": "21c3047556fb671caf0556f1cce6ef22"}
"""Of the published files (model-zoo, large_files.yml)."""
STEPS = 50
TRAINED = 1000  # timesteps
AFFINE = [[1, 0, 0, -78.51850128], [0, 1, 0, -125.47715759], [0, 0, 1, -60.55375671], [0, 0, 0, 1]]
"""Of 160×224×160 voxels of 1 mm, after the flip: x = 96.48149872 - 16 - 159, y and z the saver's plus 16 and 96."""
CONDITIONS = (
    Condition("sex", words=("F", "M"), shares=(0.5, 0.5)),
    Condition("age", 44.0, 82.0),
    Condition("ventricular_volume", 0.0, 180e3),
    Condition("brain_volume", 1.0e6, 1.9e6),
)
"""In the order of the vector, [gender, age, ventricular_vol, brain_vol]; years and (nominal) mm³."""
LICENCE = "Apache-2.0; UK Biobank's terms of data use may extend to what is derived from it"
DATA = "UK Biobank, T1w MRI of 31,740 participants"


@dataclass(frozen=True)
class BundleWeights(DiffusionWeights):
    """A bundle's folder as weights: the config is made from it, the networks are filled from its two files."""

    @property
    def samplers(self) -> tuple[str, ...]:
        """DDIM, as the bundle."""
        return ("ddim",)

    def steps(self, sampler: str) -> int:
        """Denoising steps of the bundle."""
        return STEPS

    def check_steps(self, steps: int) -> None:
        """Raise UserError where the published list of timesteps (distance 1000 // steps, ending at 0) begins two steps or
        more short of pure noise."""
        distance = TRAINED // steps
        if TRAINED - distance * steps >= distance:
            raise UserError(
                f"steps is {steps}; with so many the published sampler would begin at timestep {distance * (steps - 1)} of "
                f"{TRAINED}, far from noise; expected a number that divides {TRAINED}, such as 50, 250, 500 or 1000"
            )

    @property
    def frame(self) -> Frame:
        """Images as they are."""
        from synth.diffusion.stages import Frame

        return Frame(0.0, 1.0, ((0, 0),) * 3)

    @property
    def guided(self) -> bool:
        """False: it was not trained to be told nothing (GenerativeModels issue 453), so there is nothing to exaggerate from."""
        return False

    def files(self) -> dict[str, Path]:
        """The two files by network."""
        return {network: self.path / name for network, name in self.config["files"].items()}

    def networks(self, device: torch.device) -> Networks:
        """Autoencoder, U-Net and a mean latent of zeros."""
        from synth.diffusion.layouts import bundle_networks

        return bundle_networks(self, device)

    def sampler(self, name: str, steps: int) -> LeadingDDIM:
        """DDIM at the bundle's own timesteps."""
        from synth.diffusion.published_samplers import LeadingDDIM

        return LeadingDDIM(steps)

    def parents(self) -> list[dict[str, Any]]:
        """The files with their checksums. ``as_published`` says whether both are the published ones, ``data`` whose they are."""
        digests = {network: _digests(path) for network, path in self.files().items()}
        checksums = {self.config["files"][network]: sha256 for network, (sha256, _) in digests.items()}
        mine = {
            "kind": "generator weights",
            "name": BUNDLE,
            "sha256": digest_of(checksums, self.config["networks"], self.config["latent_shape"]),
            "licence": LICENCE,
            "data": DATA,
            "files": checksums,
            "as_published": all(md5 == MD5[network] for network, (_, md5) in digests.items()),
        }
        return [mine]


def find_bundle(place: Path) -> Path | None:
    """The bundle's folder: ``place``, the one it holds or, where ``place`` is its ``models``, the one above; else None."""
    for folder in (place, place / BUNDLE, place.parent if place.name == "models" else place):
        if any((folder / "models" / name).is_file() for names in NAMES.values() for name in names):
            return folder
    return None


def open_bundle(folder: Path) -> BundleWeights:
    """The weights in a bundle's folder, published ones or others of the same layout.

    Sizes are read from configs/inference.json where it is there; nothing in it is evaluated or imported.

    Raises:
        UserError: one of the two files is missing, or the config is not of this layout.
    """
    files = {}
    for network, names in NAMES.items():
        found = next((name for name in names if (folder / "models" / name).is_file()), None)
        if found is None:
            raise UserError(f"'{folder / 'models'}' has half of a bundle: expected {' or '.join(names[1:])} too")
        files[network] = f"models/{found}"
    networks, latent = described(folder / CONFIG)
    factor = 2 ** (len(networks["channels"]) - 1)
    shape = (latent[0] * factor, latent[1] * factor, latent[2] * factor)
    affine = AFFINE if (latent, factor) == (LATENT, 8) else centred_affine(shape, (1.0, 1.0, 1.0)).tolist()
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "networks": networks,
        "prediction": "epsilon",
        "shape": list(shape),
        "affine": np.asarray(affine, np.float64).tolist(),
        "latent_shape": [networks["latent_channels"], *latent],
        "scale_factor": 1.0,
        "conditions": [condition.as_json() for condition in CONDITIONS],
        "files": files,
    }
    return BundleWeights(folder, config)


def _digests(path: Path) -> tuple[str, str]:
    """sha256 and md5 of a file, read once."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            md5.update(block)
    return sha256.hexdigest(), md5.hexdigest()
