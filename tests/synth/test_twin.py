"""The GPU twin gives what the CPU path gives, within the tolerance that it states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from synth.appearance.priors import EFFECTS
from synth.appearance.twin import render_on
from synth.keys import rng_for
from synth.labelmap import LabelMap

ALL = {"motion": 2.0, "spikes": 0.05, "gibbs": 0.7, "noise": 0.03, "rician": 0.03, "quantise": 255.0, "gamma": 1.3}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def compare(generator: LabelMap, params: list[dict[str, Any]], device: str) -> None:
    images, labels = render_on(generator, params, device)
    assert images.shape == (len(params), 1, *generator.shape) and images.dtype == torch.float32
    for n, sample in enumerate(map(generator.render, params)):
        assert sample.label is not None
        assert np.mean(labels[n].cpu().numpy() == sample.label) > 0.999
        far = np.abs(images[n].cpu().numpy() - sample.image)
        assert np.mean(far <= 0.002) > 0.999 and far.mean() < 1e-3
        assert sample.image.std() > 0.05


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("spacing", [1.25, 2.0, 3.0])
@pytest.mark.parametrize("contrast, deformation", [("random", "strong"), ("t1w", "mild")])
def test_a_batch_is_what_the_cpu_renders(contrast: Any, deformation: Any, spacing: float, device: str) -> None:
    generator = LabelMap(shape=(60, 66, 62), spacing=spacing, contrast=contrast, deformation=deformation, strip=0.5)
    compare(generator, [generator.draw(rng_for(2, i)) for i in range(3)], device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("effects", [ALL, {**ALL, "slices": 6.0}, {"resolution": 5.0}, {"crop": 0.3, "neck": -10.0}])
def test_every_effect_is_the_same(effects: dict[str, float], device: str) -> None:
    generator = LabelMap(shape=(48, 52, 50), spacing=3.0, **{n: (0.0, e.lowest, e.lowest) for n, e in EFFECTS.items()})
    drawn = generator.draw(rng_for(3, 0))
    steps = {"quantise": None}  # a step's border is a border too: rounding may fall on either side
    compare(generator, [{**drawn, "scanner": {**drawn["scanner"], **effects, **steps}}], device)


def test_quantised_volumes_differ_by_a_step_at_most() -> None:
    generator = LabelMap(shape=(48, 52, 50), spacing=3.0, quantise=(1.0, 63.0, 63.0))
    params = generator.draw(rng_for(3, 0))
    far = np.abs(render_on(generator, [params], "cpu")[0][0].numpy() - generator.render(params).image)
    assert np.mean(far <= 1.01 / 63) > 0.999
