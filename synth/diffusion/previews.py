"""Pictures while a model learns: reconstructions beside their volumes, and samples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from synth.corpus import Corpus
from synth.diffusion.conditions import Condition, encode
from synth.diffusion.learning import Learning
from synth.diffusion.networks import Autoencoder, Control
from synth.diffusion.processes import make_sampler
from synth.diffusion.sampling import Networks, decode, noise_of, sample_latent
from synth.diffusion.settings import SAMPLERS, STEPS
from synth.diffusion.stages import Frame, Latents, LearnControl
from synth.picture import save_png, slices

PICTURED = 4


class Preview:
    """Draws a few volumes of a corpus as a model sees them.

    Args:
        corpus: what is learnt from.
        frame: how its volumes are brought to the networks.
    """

    def __init__(self, corpus: Corpus, frame: Frame) -> None:
        self.corpus, self.frame = corpus, frame
        self.indices = np.unique(np.linspace(0, len(corpus) - 1, PICTURED).astype(int)).tolist()

    def images(self) -> Tensor:
        """Padded images ``[4, 1, D, H, W]``."""
        images = np.stack([self.corpus.image(index).astype(np.float32) for index in self.indices])
        return self.frame.image(torch.from_numpy(images))

    def reconstructions(self, stage: Learning) -> Callable[[Path], None]:
        """A function that draws volumes, what the autoencoder makes of them, and the difference ten times enlarged."""

        def draw(path: Path) -> None:
            net: Any = stage.net
            with _at_rest(net):
                images = self.images().to(stage.device)
                back = net.decode(net.encode(images)[0]).clamp(0, 1)
            rows = [(image, other, (other - image).abs() * 10) for image, other in zip(images, back, strict=True)]
            save_png(sheet([[part[0].float().cpu().numpy() for part in row] for row in rows]), path)

        return draw

    def samples(
        self,
        stage: Learning,
        autoencoder: Autoencoder,
        latents: Latents,
        conditions: Sequence[Condition],
        prediction: str,
    ) -> Callable[[Path], None]:
        """A function that draws a sample of every pictured volume's person, in three planes."""
        vector = self._told(conditions)

        def draw(path: Path) -> None:
            device, decoder = stage.device, autoencoder.to(stage.device).eval()
            with _at_rest(stage.kept):
                networks = Networks(decoder, stage.kept, latents.centre[None].to(device), latents.scale, self.frame)
                volumes = self._sampled(networks, prediction, vector)
            save_png(sheet([[volume[0]] for volume in volumes]), path)

        return draw

    def controlled(self, stage: LearnControl, conditions: Sequence[Condition]) -> Callable[[Path], None]:
        """A function that draws the label map of every pictured volume and the sample that follows it, in three planes."""
        vector = self._told(conditions)
        labels = np.stack([self._label(index) for index in self.indices])
        ranks = np.searchsorted(np.array(self.frame.labels), labels) / max(1, len(self.frame.labels) - 1)
        prediction, latents = stage.options.prediction, stage.latents

        def draw(path: Path) -> None:
            device, control = stage.device, stage.kept
            assert isinstance(control, Control)
            fixed: Any = stage.fixed
            autoencoder, unet = (network.to(device) for network in fixed)
            with _at_rest(control):
                centre = latents.centre[None].to(device)
                networks = Networks(autoencoder, unet, centre, latents.scale, self.frame, control)
                volumes = self._sampled(networks, prediction, vector, torch.from_numpy(labels))
            rows = zip(ranks.astype(np.float32), volumes, strict=True)
            save_png(sheet([[rank, volume[0]] for rank, volume in rows]), path)

        return draw

    def _label(self, index: int) -> npt.NDArray[Any]:
        label = self.corpus.label(index)
        assert label is not None
        return label

    def _told(self, conditions: Sequence[Condition]) -> Tensor:
        """Condition vectors ``[4, K]`` of the pictured volumes' people."""
        people = [self.corpus.entry(index)["covariates"] for index in self.indices]
        return torch.from_numpy(np.stack([encode(conditions, person) for person in people]))

    def _sampled(
        self, networks: Networks, prediction: str, vector: Tensor, label: Tensor | None = None
    ) -> npt.NDArray[np.float32]:
        """A volume ``[1, D, H, W]`` of each, from the same noise in every picture."""
        device, sampler = networks.centre.device, SAMPLERS[prediction][0]
        noise = np.stack([noise_of(seed, tuple(networks.centre.shape[1:])) for seed in range(len(vector))])
        walk = make_sampler(sampler, prediction, STEPS[sampler])
        followed = None if label is None else label.to(device)
        drawn = sample_latent(networks, walk, torch.from_numpy(noise).to(device), vector.to(device), label=followed)
        return decode(networks, drawn, _whole(self.corpus))


def _whole(corpus: Corpus) -> tuple[int, int, int]:
    d, h, w = corpus.image_shape[1:]
    return d, h, w


@contextlib.contextmanager
def _at_rest(net: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients; what the network was in before comes back, torch's random state too."""
    training = net.training
    net.eval()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        net.train(training)


def sheet(rows: Sequence[Sequence[npt.NDArray[np.float32]]]) -> Any:
    """A matplotlib figure: a row per person, every volume ``[D, H, W]`` of it in three planes, 0 black and 1 white."""
    from matplotlib.figure import Figure

    columns = 3 * len(rows[0])
    figure = Figure(figsize=(2.1 * columns, 2.3 * len(rows)), facecolor="black")
    for axes, volumes in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        cuts = [cut for volume in volumes for cut in slices(volume)]
        for axis, cut in zip(axes, cuts, strict=True):
            axis.imshow(cut, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.axis("off")
    figure.tight_layout(pad=0.3)
    return figure
