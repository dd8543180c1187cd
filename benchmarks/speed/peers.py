"""Label-map synthesis by other packages, each set up as its own users would for the same job, on preloaded label maps.

None is handicapped and none does quite what brainloom does. No peer draws a person (age, sex, disease) or measures
volumes; partial volume comes from their blur alone. What each one includes is in its row's ``includes``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.timing import Skip

Make = Callable[[int], Any]

TORCHIO = (
    "elastic, affine, labels to image, bias field, gamma, blur, anisotropy; every one on every volume, its defaults"
)
CORNUCOPIA = (
    "affine + elastic, mixture with smoothing, bias field, gamma, blur, resolution, noise with g-factor; its defaults"
)
CORNUCOPIA_LIGHT = (
    "affine + elastic with linear fields (order=1), mixture without smoothing (gmm_fwhm=False, as SynthSeg has it), bias "
    "field, gamma, blur, resolution, noise with g-factor"
)
NOBRAINER = (
    "reads an uncompressed NIfTI each time; mixture, elastic, affine, flip, resolution, bias field, noise; its defaults"
)


def torchio(labels: str) -> Make:
    """TorchIO: labels are warped (elastic, then affine, nearest neighbour), the image is made from them, then altered.

    TorchIO 1 calls its random transforms RandomGamma…, TorchIO 2 Gamma….
    """
    import torch
    import torchio as tio

    def transform(name: str, **options: Any) -> Any:
        return (getattr(tio, f"Random{name}", None) or getattr(tio, name))(**options)

    whole = tio.Compose(
        [
            transform("ElasticDeformation"),
            transform("Affine"),
            transform("LabelsToImage", label_key="label", image_key="image"),
            transform("BiasField"),
            transform("Gamma"),
            transform("Blur"),
            transform("Anisotropy"),
        ]
    )
    subject = tio.Subject(label=tio.LabelMap(tensor=torch.from_numpy(np.load(labels))[None]))
    torch.manual_seed(1)

    def make(i: int) -> Any:
        made: Any = whole(subject)
        return made["image"].data, made["label"].data

    return make


def cornucopia(labels: str, light: bool = False) -> Make:
    """cornucopia's SynthFromLabelTransform with its defaults, or ``light``: without what most of its time goes into.

    That is the smoothing of the mixture, a convolution of the whole grid for every label; its documentation adds that
    linear fields (order=1) are much faster than its cubic ones.
    """
    import torch
    from cornucopia import SynthFromLabelTransform

    synth = SynthFromLabelTransform(order=1, gmm_fwhm=False) if light else SynthFromLabelTransform()
    label = torch.from_numpy(np.load(labels).astype(np.int64))[None]
    torch.manual_seed(1)

    def make(i: int) -> Any:
        with torch.no_grad():
            return synth(label)

    return make


def nobrainer(labels: str) -> Make:
    """nobrainer's SynthSegGenerator (the PyTorch version) with its defaults; it takes files and reads them each time."""
    try:
        from nobrainer.augmentation.synthseg import SynthSegGenerator
    except ModuleNotFoundError as error:
        raise Skip(
            f"not installed ({error}); SynthSegGenerator is in nobrainer's repository (the PyTorch version), "
            "not in its release 1.2.1"
        ) from error

    generator = SynthSegGenerator([Path(labels).with_suffix(".nii")], n_samples_per_map=2**31)
    return lambda i: generator[i]
