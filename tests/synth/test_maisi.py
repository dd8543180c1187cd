"""NVIDIA's MAISI v2 for MRI, without its weights: the published layout at full size, and a tiny twin of MONAI's classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.data.meta_tensor import MetaTensor
from monai.networks.schedulers.rectified_flow import RFlowScheduler
from torch import Tensor, nn

from synth.diffusion.generator import Diffusion
from synth.diffusion.layouts import shapes_of
from synth.diffusion.maisi import NETWORKS, open_maisi
from synth.diffusion.maisi_networks import MaisiAutoencoder, MaisiUNet
from synth.diffusion.networks import Size
from synth.diffusion.sampling import noise_of
from synth.diffusion.weights import open_weights
from synth.errors import UserError
from synth.generator import GeneratorSpec
from synth.repeatable import repeatable
from tests.conftest import Run

ROUNDING = 1e-5  # of 32-bit sums, as MAISI's loop asks the U-Net for both answers at once
SCALE = 0.96240234375
DIM, SPACING = (32, 64, 32), (1.5, 1.0, 2.0)
AUTOENCODER: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 4,
    "num_channels": [8, 8, 16],
    "num_res_blocks": [1, 1, 1],
    "norm_num_groups": 4,
    "norm_eps": 1e-06,
    "attention_levels": [False, False, False],
    "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": False,
}
UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "num_channels": [8, 8, 16, 16],
    "attention_levels": [False, False, True, True],
    "num_head_channels": [0, 0, 8, 8],
    "num_res_blocks": 1,
    "norm_num_groups": 4,
    "include_spacing_input": True,
    "num_class_embeds": 128,
    "resblock_updown": True,
    "include_fc": True,
}


@torch.no_grad()
def disturbed(network: nn.Module) -> nn.Module:
    for tensor in network.parameters():
        tensor += 0.05 * torch.randn(tensor.shape)
    return network.eval()


@pytest.fixture(scope="module")
def theirs() -> tuple[nn.Module, nn.Module]:
    """Autoencoder and U-Net, of MONAI's classes as MAISI's scripts build them."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        autoencoder = AutoencoderKlMaisi(3, **AUTOENCODER, num_splits=2, dim_split=1)
        return disturbed(autoencoder), disturbed(DiffusionModelUNetMaisi(3, **UNET))


@pytest.fixture
def twin(theirs: tuple[nn.Module, nn.Module], tmp_path: Path) -> Path:
    """A folder as MAISI's downloader leaves it, its settings changed as its README says."""
    autoencoder, unet = theirs
    for name in ("models", "configs"):
        (tmp_path / "maisi" / name).mkdir(parents=True)
    folder = tmp_path / "maisi"
    torch.save({"epoch": 3, "unet_state_dict": autoencoder.state_dict()}, folder / "models" / "autoencoder_v1.pt")
    scale = MetaTensor(torch.tensor(SCALE, dtype=torch.float16))
    held = {"epoch": 3, "loss": 1.2, "scale_factor": scale, "unet_state_dict": unet.state_dict()}
    torch.save({**held, "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-5}]}}, unet_of(folder))
    settings = {"dim": DIM, "spacing": SPACING, "num_inference_steps": 6, "modality": 11, "cfg_guidance_scale": 2}
    write_settings(folder, settings)
    network = {
        "latent_channels": 4,
        "include_body_region": False,
        "autoencoder_def": AUTOENCODER,
        "diffusion_unet_def": UNET,
    }
    (folder / "configs" / "config_network_rflow.json").write_text(json.dumps(network))
    return folder


def unet_of(folder: Path) -> Path:
    return folder / "models" / "diff_unet_3d_rflow-mr-brain_v1.pt"


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "configs" / "config_maisi_diff_model_rflow-mr-brain.json"
    held = json.loads(path.read_text())["diffusion_unet_inference"] if path.exists() else {}
    path.write_text(json.dumps({"diffusion_unet_inference": {**held, **settings}}))


def volume_of_theirs(autoencoder: Any, unet: Any, noise: Tensor) -> np.ndarray:
    """The steps of MAISI's diff_model_infer.py, in 32 bits: timesteps as it lists them, guidance from one double batch."""
    scheduler = RFlowScheduler(1000, use_discrete_timesteps=False, use_timestep_transform=True, sample_method="uniform")
    scheduler.set_timesteps(6, input_img_size_numel=torch.prod(torch.tensor(noise.shape[2:])))
    following = torch.cat((scheduler.timesteps[1:], torch.tensor([0], dtype=scheduler.timesteps.dtype)))
    spacing = torch.from_numpy(np.array(SPACING)[None] * 1e2).half().float()
    image = noise
    for time, next_time in zip(scheduler.timesteps, following, strict=True):
        answers = unet(
            x=torch.cat([image] * 2),
            timesteps=torch.cat([torch.Tensor((time,))] * 2),
            class_labels=torch.tensor([11, 0]),
            spacing_tensor=torch.cat([spacing] * 2),
        )
        told, untold = answers.chunk(2)
        image, _ = scheduler.step(untold + 2 * (told - untold), time, image, next_time)
    return np.array(autoencoder.decode_stage_2_outputs(image / SCALE)[0])


def test_full_size_networks_have_the_published_size() -> None:
    """Against two inventories of the published autoencoder_v2.pt and diff_unet_3d_rflow-mr.pt: numbers of tensors, numbers of
    numbers, the tensors that are named with their shapes, and 28 projections of time that take 512 inputs."""
    size = Size.from_json({name: tuple(v) if isinstance(v, list) else v for name, v in NETWORKS.items()})
    with torch.device("meta"):
        layouts = [shapes_of(MaisiAutoencoder(size, 1.0).core), shapes_of(MaisiUNet(size, 9, (1.0, 1.0, 1.0)).core)]
    assert [len(layout) for layout in layouts] == [130, 435]
    assert [sum(int(np.prod(s)) for s in layout.values()) for layout in layouts] == [20_944_897, 180_500_868]
    autoencoder, unet = layouts
    assert {"encoder.blocks.0.conv.conv.weight", "quant_conv_log_sigma.conv.bias", "post_quant_conv.conv.weight"} <= {
        *autoencoder
    }
    named = {
        "class_embedding.weight": (128, 256),
        "spacing_layer.0.weight": (256, 3),
        "spacing_layer.2.weight": (256, 256),
    }
    assert named.items() <= unet.items() and unet["out.2.conv.weight"] == (4, 64, 3, 3, 3)
    assert sum(name.endswith("time_emb_proj.weight") and shape[1] == 512 for name, shape in unet.items()) == 28


def test_twin_gives_the_volume_that_its_own_loop_gives(twin: Path, theirs: tuple[nn.Module, nn.Module]) -> None:
    generator = Diffusion(twin)
    assert (generator.steps, generator.guidance, generator.weights.shape) == (6, 2.0, DIM)
    with repeatable():
        wanted = volume_of_theirs(*theirs, torch.from_numpy(noise_of(7, (1, 4, 8, 16, 8))))
    sample = generator.render({"conditions": {"contrast": "FLAIR"}, "noise_seed": 7})
    assert wanted.std() > 0.05 and ((wanted > 0) & (wanted < 1)).mean() > 0.3  # clipping does not hide the rest
    np.testing.assert_allclose(sample.image, wanted.clip(0, 1), rtol=0, atol=ROUNDING)
    assert sample.spacing == SPACING and sample.covariates == {"contrast": "FLAIR"}


def test_modality_spacing_and_guidance_change_the_volume(twin: Path) -> None:
    record = {"conditions": {"contrast": "FLAIR"}, "noise_seed": 7}
    volumes = [Diffusion(twin).render(record).image, Diffusion(twin, guidance=1.0).render(record).image]
    for settings, contrast in (({"modality": 10}, "T2w"), ({"spacing": [1.0, 1.0, 1.0]}, "T2w")):
        write_settings(twin, settings)
        generator = Diffusion(twin)
        assert generator.draw(np.random.default_rng(0))["conditions"] == {"contrast": contrast}
        volumes.append(generator.render({**record, "conditions": {"contrast": contrast}}).image)
    assert all(np.abs(one - two).max() > 1e-4 for at, one in enumerate(volumes) for two in volumes[:at])


def test_folder_is_opened_with_the_published_sizes_where_it_has_no_configs(twin: Path) -> None:
    for path in (twin / "configs").iterdir():
        path.unlink()
    weights = open_maisi(twin)
    assert weights.shape == (256, 256, 128) and weights.config["latent_shape"] == [4, 64, 64, 32]
    assert (weights.steps("rectified_flow"), weights.guidance) == (30, 2.0)
    assert Diffusion(twin).conditions[0].words == ("T1w",)


def test_parents_name_files_licence_and_data(twin: Path) -> None:
    (mine,) = open_weights(twin / "models").parents()
    assert mine["name"] == "diff_unet_3d_rflow-mr-brain_v1" and mine["licence"] == "NVIDIA Open Model License"
    assert set(mine["files"]) == {"models/autoencoder_v1.pt", "models/diff_unet_3d_rflow-mr-brain_v1.pt"}
    assert "MR-RATE" in mine["data"] and mine["settings"] == {"dim": [*DIM], "spacing": [*SPACING], "modality": 11}


def test_corpus_of_other_settings_is_another_corpus(twin: Path) -> None:
    specs = []
    for settings in ({}, {"modality": 10}, {"spacing": [1.0, 1.0, 1.0]}, {"num_inference_steps": 7}):
        write_settings(twin, settings)
        spec = GeneratorSpec("Diffusion", {"weights": twin})
        specs.append(spec.fingerprint(spec.build().parents()))
    assert len(set(specs)) == len(specs)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dim": [48, 64, 32]}, "dim 48×64×32; expected multiples of 32"),
        ({"dim": "@dim"}, "expected three numbers each"),
        ({"spacing": [1.0, 1.0, -1.0]}, "out of range"),
        ({"modality": 1}, "modality 1; expected one of 9, 10, 11"),
    ],
)
def test_settings_out_of_range_are_refused(twin: Path, run: Run, settings: dict[str, Any], said: str) -> None:
    write_settings(twin, settings)
    assert_refused(twin, run, said)


def assert_refused(twin: Path, run: Run, said: str) -> None:
    out = twin.parent / "never.zarr"
    words = ("--generator", "Diffusion", "--generator.weights", twin, "--count", 1, "--out", out, "--workers", 0)
    answer = run("synth", "generate", *words)
    assert answer.code == 2 and said in answer.err and "Traceback" not in answer.err and not out.exists(), answer.err


def test_missing_autoencoder_is_refused(twin: Path, run: Run) -> None:
    (twin / "models" / "autoencoder_v1.pt").rename(twin / "models" / "autoencoder_v2.pt")  # that of the other model
    assert_refused(twin, run, "not its autoencoder; expected autoencoder_v1.pt beside it")


def test_file_without_its_scale_is_refused(twin: Path, run: Run) -> None:
    held = torch.load(unet_of(twin), weights_only=False)
    torch.save({"unet_state_dict": held["unet_state_dict"]}, unet_of(twin))
    assert_refused(twin, run, "has no scale_factor above 0")


def test_pickle_that_asks_for_more_than_the_known_containers_is_refused(twin: Path, run: Run) -> None:
    torch.save({"unet_state_dict": {}, "scale_factor": nn.Linear(1, 1)}, unet_of(twin))
    assert_refused(twin, run, "nothing in it was run: it asks for torch.nn.modules.linear.Linear")


def test_model_of_computed_tomography_is_not_taken_for_one_of_heads(twin: Path) -> None:
    unet_of(twin).rename(twin / "models" / "diff_unet_3d_rflow-ct.pt")
    with pytest.raises(UserError, match=r"has no config\.json"):
        open_weights(twin)
