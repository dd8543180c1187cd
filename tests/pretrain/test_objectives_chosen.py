"""How an objective is chosen, configured, refused and written down: short names, hybrids, plug-ins, finished weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.backbones import make_backbone
from pretrain.objectives import ObjectiveSpec, known_objectives, make_objective
from pretrain.testing import Small
from pretrain.train import TrainOptions, pretrain
from synth.corpus import Corpus
from synth.errors import UserError
from tests import conftest
from tests.conftest import Run
from tests.pretrain.test_objectives import seeded, stored


def test_an_installed_package_s_objective_goes_by_the_name_it_gives_itself(
    planted: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain-1.0.dist-info").mkdir()
    (tmp_path / "plain-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plain\nVersion: 1.0\n")
    points = "[brainloom.objectives]\nplain = plainly:Plainly\n"
    (tmp_path / "plain-1.0.dist-info" / "entry_points.txt").write_text(points)
    for place in (conftest.PLUGIN, tmp_path):
        monkeypatch.syspath_prepend(str(place))
    assert type(make_objective("plain", Small(), planted, 0)).__name__ == "Plainly"
    assert "plain" in known_objectives()


def test_a_hybrid_is_the_weighted_sum_of_its_parts(planted: Corpus) -> None:
    objective = make_objective("masked+supervised", Small(), planted, 0, {"weights": [0.5, 2], "masked.cube": 4})
    batch, generator, other = stored(planted), seeded(4), seeded(4)
    found = objective.eval().loss(batch.image, batch.index, generator)
    expected = torch.zeros(())
    for part, weight in zip(objective.parts, (0.5, 2.0), strict=True):  # type: ignore[arg-type]
        expected = expected + weight * part.loss(part.prepare(batch.image, other), batch.index, other)
    assert torch.allclose(found, expected)
    assert objective.needs_covariates and not objective.labels


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("simclr+simclr", {}, "twice"),
        ("simclr+supervised", {"weights": [1.0]}, "one number of 0 or more for each of simclr, supervised"),
        ("supervized", {}, "supervised"),
        ("simclr+supervised", {"mae.masked": 0.5}, "has no option 'mae.masked'"),
        ("simclr", {"temprature": 1}, "temperature"),
        ("simclr", {"temperature": 0}, "above 0"),
        ("masked", {"masked": 1.5}, "between 0 and 1"),
        ("masked", {"cube": 9}, "expected 1 to 8"),
        ("json.JSONDecoder", {}, "not a subclass of pretrain.objectives.base.Objective"),
        ("mae", {}, "needs a ViT"),
    ],
)
def test_what_cannot_be_made_is_refused(planted: Corpus, name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_objective(name, Small(), planted, 0, options)


@pytest.mark.parametrize("name", ["segment", "contrasts"])
def test_label_maps_that_are_not_there_are_asked_for(name: str, told: Any) -> None:
    with pytest.raises(UserError, match=r"needs label maps, corpus 'told\.zarr' holds none"):
        make_objective(name, Small(), told(age=[1.0, 2.0]), 0)


def test_the_options_of_a_hybrid_are_those_of_its_parts_with_their_names() -> None:
    names = [option.name for option in ObjectiveSpec.options_of("mae+simclr")]
    assert names[:3] == ["weights", "mae.masked", "simclr.temperature"]
    spec = ObjectiveSpec.from_options("mae+simclr", {"weights": "1,0.5", "simclr.crop": "1,0.5,1"})
    assert spec.init_args == {"weights": [1.0, 0.5], "simclr.crop": [1.0, 0.5, 1.0]}
    with pytest.raises(UserError, match=r"has no option 'simclr\.crp'; near: simclr\.crop"):
        ObjectiveSpec.from_options("mae+simclr", {"simclr.crp": "1"})


PLUGIN = '''
import torch
from pretrain.objectives.base import Objective


class Mean(Objective):
    """Tells the mean intensity.

    Args:
        scale: of the loss.
    """

    def __init__(self, backbone, corpus, seed, scale: float = 1.0) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale is {scale}; expected more than 0")
        self.backbone, self.scale = backbone, scale

    def loss(self, image, index, generator, label=None):
        return self.scale * (self.backbone(image).mean(1) - image.mean((1, 2, 3, 4))).square().mean()
'''


def test_a_loose_module_in_the_current_folder_is_an_objective(
    planted: Corpus, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_objective.py").write_text(PLUGIN)
    words = (
        "pretrain",
        "run",
        "--corpus",
        planted.path,
        "--steps",
        2,
        "--batch-size",
        4,
        "--objective",
        "own_objective.Mean",
    )
    assert run(*words, "--out", "w", "--objective.scale", 2, "--probe-every", 0).code == 0
    training = json.loads((tmp_path / "w" / "config.json").read_text())["training"]
    assert (training["objective"], training["objective_options"]) == ("own_objective.Mean", {"scale": 2.0})
    assert "options of objective own_objective.Mean" in run(*words, "--help").out
    refused = run(*words, "--out", "x", "--objective.scale", -1)
    assert refused.code == 2 and "scale is -1.0; expected more than 0" in refused.err and not (tmp_path / "x").exists()


def test_a_printed_config_gives_the_same_objective_again(tmp_path: Path, run: Run) -> None:
    words = (
        "--corpus",
        "c.zarr",
        "--out",
        "w",
        "--objective",
        "yaware",
        "--objective.sigma",
        "3",
        "--objective.agree",
        "sex",
    )
    printed = run("pretrain", "run", *words, "--print_config")
    assert printed.code == 0, printed.err
    (tmp_path / "c.yaml").write_text(printed.out)
    assert run("pretrain", "run", "--config", tmp_path / "c.yaml", "--print_config").out == printed.out
    assert "class_path: yaware" in printed.out and "sigma: 3.0" in printed.out


def test_finished_weights_are_of_their_objective_s_options_and_of_no_probe_s(planted: Corpus, tmp_path: Path) -> None:
    def asked(every: int = 0, **options: Any) -> TrainOptions:
        return TrainOptions("vit_xs", "mae", 2, 4, objective_options=options, probe_every=every)

    pretrain(planted.path, tmp_path / "w", asked(masked=0.5))
    before = (tmp_path / "w" / "model.safetensors").stat().st_mtime_ns
    pretrain(planted.path, tmp_path / "w", asked(every=1, masked=0.5))
    assert (tmp_path / "w" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="objective_options"):
        pretrain(planted.path, tmp_path / "w", asked(masked=0.6))


@pytest.mark.parametrize("objective", ["simclr", "contrasts", "mae+yaware"])
def test_a_batch_of_one_has_nothing_to_be_contrasted_with(planted: Corpus, tmp_path: Path, objective: str) -> None:
    with pytest.raises(UserError, match="needs 2 or more"):
        pretrain(planted.path, tmp_path / "w", TrainOptions("vit_xs", objective, 2, 1))
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("objective", ["segment", "contrasts", "mae+supervised"])
def test_weights_of_every_kind_are_written_with_their_figures(planted: Corpus, tmp_path: Path, objective: str) -> None:
    about = pretrain(planted.path, tmp_path / "w", TrainOptions("vit_xs", objective, 2, 4))
    assert about.objective == objective and all(math.isfinite(value) for value in about.figures.values())
    assert (tmp_path / "w" / "log" / "version_0" / "pictures-000002.png").read_bytes()[:4] == b"\x89PNG"


def test_make_backbone_serves_every_objective_that_asks_for_maps(planted: Corpus) -> None:
    for name in ("sfcn_s", "vit_xs"):
        objective = make_objective("segment", make_backbone(name, (16, 16, 16)), planted, 0)
        batch = stored(planted, 4, labels=True)
        image = objective.prepare(batch.image, seeded(0))
        assert torch.isfinite(objective.loss(image, batch.index, seeded(0), batch.label))
