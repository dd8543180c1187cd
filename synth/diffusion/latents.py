"""A corpus's latents as a corpus: mean and SD of every volume, never a sample of them, made by the engine."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synth.corpus import Corpus
from synth.diffusion.weights import AUTOENCODER, STAGE
from synth.generator import Generator, Params
from synth.sample import Sample

if TYPE_CHECKING:
    from synth.diffusion.networks import Autoencoder
    from synth.diffusion.settings import Size
    from synth.diffusion.stages import Frame, Latents


class EncodedLatents(Generator):
    """Sample i: means and SDs ``[2c, d, h, w]`` of the latent of volume i of a corpus.

    Args:
        corpus: the volumes.
        weights: folder with the trained autoencoder.
    """

    needs_actor = True

    def __init__(self, corpus: Path, weights: Path) -> None:
        self.corpus, self.weights = Corpus(corpus), Path(weights)

    def draw_at(self, index: int, rng: np.random.Generator) -> Params:
        """The volume of that number."""
        return {"index": index}

    def draw(self, rng: np.random.Generator) -> Params:
        """Any volume."""
        return {"index": int(rng.integers(len(self.corpus)))}

    def render(self, params: Params) -> Sample:
        """The latent of one volume; its affine is that of the volumes, cells for voxels."""
        import torch

        from synth.repeatable import repeatable

        autoencoder, frame, size = self._network
        device = next(autoencoder.parameters()).device
        with repeatable():
            image = torch.from_numpy(self.corpus.image(params["index"]).astype(np.float32))[None].to(device)
            stored = torch.cat(autoencoder.encode(frame.image(image)), dim=1)[0]
        affine = np.array(self.corpus.entry(params["index"])["affine"], np.float64)
        before = np.array([low for low, _ in frame.margins])
        affine[:3, 3] += affine[:3, :3] @ ((size.factor - 1) / 2 - before)
        affine[:3, :3] *= size.factor
        return Sample(stored.float().cpu().numpy(), None, {}, affine)

    def parents(self) -> list[dict[str, Any]]:
        """The corpus."""
        return [{"kind": "corpus", "name": self.corpus.name, "sha256": self.corpus.identity()}]

    @cached_property
    def _network(self) -> tuple[Autoencoder, Frame, Size]:
        from safetensors.torch import load_file

        from synth.diffusion.networks import Autoencoder, best_device
        from synth.diffusion.settings import Size
        from synth.diffusion.stages import Frame

        record = json.loads((self.weights / STAGE).read_text())
        size = Size.from_json(record["networks"])
        network = Autoencoder(size)
        network.load_state_dict(load_file(self.weights / AUTOENCODER))
        margins = tuple((int(a), int(b)) for a, b in record["frame"]["margins"])
        frame = Frame(**{**record["frame"], "margins": margins, "labels": tuple(record["frame"]["labels"])})
        return network.to(best_device()).eval(), frame, size


def write_stage(folder: Path, size: Size, frame: Frame) -> None:
    """What :class:`EncodedLatents` has to know beside the tensors, while the folder has no config.json yet."""
    from synth.storage import write_atomically

    write_atomically(folder / STAGE, json.dumps({"networks": asdict(size), "frame": asdict(frame)}))


def statistics(corpus: Corpus, centred: bool) -> Latents:
    """Mean latent and scale of stored latents, one volume in memory at a time."""
    import torch

    from synth.diffusion.stages import Latents

    channels = corpus.image_shape[0] // 2
    total = np.zeros((channels, *corpus.image_shape[1:]))
    squares = 0.0
    for index in range(len(corpus)):
        mean = corpus.image(index)[:channels].astype(np.float64)
        total += mean
        squares += float((mean**2).mean())
    centre, count = total / len(corpus), len(corpus)
    variance = squares / count - float((centre**2).mean())  # around the centre, cell by cell
    if not centred:
        variance += float((centre**2).mean()) - float(centre.mean()) ** 2
        centre = np.zeros_like(centre)
    return Latents(torch.from_numpy(centre).float(), 1.0 / max(float(np.sqrt(max(variance, 0.0))), 1e-6))
