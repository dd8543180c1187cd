"""ViTs of other libraries become 3-D ones that compute, on a repeated frame, what the originals do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pretrain.backbones import BACKBONES, ViT, make_backbone
from pretrain.backbones.positions import resize_positions
from pretrain.backbones.table import _vit
from pretrain.starts import Report, make_start
from pretrain.starts.files import Source
from pretrain.starts.inflate import fold_channels, plane_positions, resize_kernel, sinusoid_table
from pretrain.starts.names import translate
from pretrain.starts.vit import start_vit

STARTS = Path(__file__).resolve().parents[1] / "fixtures" / "starts"
LAYOUTS: dict[str, dict[str, list[int]]] = json.loads((STARTS / "layouts.json").read_text())
PLANES = ("vit", "vit_mae", "dinov2", "dinov3", "timm_vit", "timm_dinov2", "timm_dinov3")


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones as small as the fixtures."""
    monkeypatch.setitem(BACKBONES, "toy", _vit(32, 2, 2, 8))
    monkeypatch.setitem(BACKBONES, "toy14", _vit(32, 2, 2, 14))


def started(folder: Path, word: str, shape: tuple[int, int, int], channels: int = 1) -> tuple[ViT, Report]:
    backbone, report = make_start(str(folder), word, shape, channels)
    assert isinstance(backbone, ViT) and report is not None
    return backbone.eval(), report


def repeated(image: torch.Tensor, depth: int) -> torch.Tensor:
    """``[B, C, H, W]`` → ``[B, C, depth, H, W]``."""
    return image[:, :, None].expand(-1, -1, depth, -1, -1)


def agrees_on_a_repeated_frame(folder: Path, expected: dict[str, torch.Tensor], layers: int) -> None:
    patch = 14 if "dinov2" in folder.name else 8
    side = expected["image"].shape[-1]
    word = "toy14" if patch == 14 else "toy"
    backbone, _ = started(folder, word, (layers * patch, side, side))
    volume = repeated(expected["image"], layers * patch)
    with torch.no_grad():
        tokens = backbone.feature_map(volume).flatten(3).permute(0, 2, 3, 1)  # [B, layer, patch, E]
        assert torch.allclose(backbone(volume), expected["pooled"], atol=1e-5)
    for layer in range(layers):
        assert torch.allclose(tokens[:, layer], expected["tokens"], atol=2e-5)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", PLANES)
def test_a_frame_repeated_through_the_depth_gives_what_the_model_of_planes_gives(name: str, layers: int) -> None:
    agrees_on_a_repeated_frame(STARTS / name, load_file(STARTS / f"{name}.expected.safetensors"), layers)


def test_without_a_first_token_in_every_layer_the_class_token_has_too_small_a_share() -> None:
    expected = load_file(STARTS / "vit.expected.safetensors")
    backbone, _ = started(STARTS / "vit", "toy:prefix_per_layer=false", (24, 32, 32))
    with torch.no_grad():
        assert not torch.allclose(backbone(repeated(expected["image"], 24)), expected["pooled"], atol=1e-2)


def agrees_on_a_clip(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    clip = expected["image"]
    backbone, _ = started(folder, "toy:patch_depth=2", tuple(clip.shape[2:]))  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.allclose(backbone(clip), expected["pooled"], atol=1e-4)
        assert torch.allclose(backbone.tokens(clip), expected["tokens"], atol=5e-5)


def test_videomae_gives_on_one_channel_what_it_gives_on_three_equal_ones() -> None:
    agrees_on_a_clip(STARTS / "videomae", load_file(STARTS / "videomae.expected.safetensors"))


def test_deep_patches_of_slow_frames_are_videomae_s_tubelets() -> None:
    expected = load_file(STARTS / "videomae.expected.safetensors")
    slow = expected["image"].repeat_interleave(
        4, dim=2
    )  # each of 8 frames stands for 4 slices; 4 patches of 8³ in depth
    backbone, report = started(STARTS / "videomae", "toy", (32, 32, 32))
    with torch.no_grad():
        assert torch.allclose(backbone(slow), expected["pooled"], atol=1e-4)
    assert report.inflated == {"embed.weight": "3 × 2 × 8 × 8 → 1 × 8 × 8 × 8 (channels, patch)"}
    assert "CC-BY-NC" in report.notes[-1]


@pytest.mark.parametrize("kind", ["conv", "perceptron"])
@pytest.mark.parametrize("classifies", [False, True])
def test_a_vit_of_monai_computes_what_it_did(kind: str, classifies: bool, tmp_path: Path) -> None:
    from monai.networks.nets import ViT as MonaiViT

    arguments: dict[str, Any] = {"hidden_size": 32, "mlp_dim": 128, "num_layers": 2, "num_heads": 2}
    model = MonaiViT(
        1, (16, 24, 32), (8, 8, 8), proj_type=kind, classification=classifies, qkv_bias=classifies, **arguments
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_file({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, tmp_path / "vit.safetensors")
    backbone, _ = started(tmp_path / "vit.safetensors", "toy", (16, 24, 32))
    image = torch.randn(2, 1, 16, 24, 32)
    if classifies:
        model.classification_head = torch.nn.Identity()
    with torch.no_grad():
        found = backbone(image) if classifies else backbone.tokens(image)
        assert torch.allclose(found, model.eval()(image)[0], atol=1e-5)


def test_another_grid_and_several_channels_are_interpolated_and_folded() -> None:
    backbone, report = started(STARTS / "vit", "toy:pool=mean", (16, 40, 48), channels=2)
    assert report.interpolated == {"positions": "1 × 4 × 4 → 2 × 5 × 6"}
    table = load_file(STARTS / "vit" / "model.safetensors")["embeddings.position_embeddings"][:, 1:]
    assert torch.equal(backbone.positions, plane_positions(table, (4, 4), (2, 5, 6)))
    grey = torch.randn(1, 1, 16, 40, 48)
    single, _ = started(STARTS / "vit", "toy:pool=mean", (16, 40, 48))
    with torch.no_grad():
        assert torch.allclose(backbone(grey.expand(-1, 2, -1, -1, -1)), single(grey), atol=1e-5)


def test_a_table_resized_in_the_plane_has_its_own_shape_and_one_that_fits_is_left_alone() -> None:
    table = torch.randn(1, 16, 32)
    assert torch.equal(plane_positions(table, (4, 4), (3, 4, 4)), table.repeat(1, 3, 1))
    ramp = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 4, 32).reshape(1, 16, 32)
    wider = plane_positions(ramp, (4, 4), (1, 8, 4)).view(8, 4, 32)[:, 0, 0]
    assert torch.all(wider.diff() > 0) and float(wider.mean()) == pytest.approx(1.5, abs=1e-5)


def test_the_report_says_of_every_tensor_what_became_of_it() -> None:
    backbone, report = started(STARTS / "dinov2", "toy14", (28, 28, 28))
    theirs = load_file(STARTS / "dinov2" / "model.safetensors")
    assert sorted([*report.loaded, *report.inflated, *report.interpolated]) == sorted(backbone.state_dict())
    assert report.skipped == {"embeddings.mask_token": "of its own pre-training (decoder, mask token)"}
    assert report.fresh == []
    for i in range(2):
        whole = [theirs[f"encoder.layer.{i}.attention.attention.{part}.weight"] for part in ("query", "key", "value")]
        assert torch.equal(backbone.state_dict()[f"blocks.{i}.qkv.weight"], torch.cat(whole))
    assert report.lines()[0].endswith("DINOv2 ViT (transformers), 33 tensors as they are")
    assert json.loads(json.dumps(report.record())) == report.record()


def test_the_kernel_for_larger_patches_answers_on_enlarged_patches_as_the_old_one_did() -> None:
    kernel, patch = torch.randn(5, 1, 14, 14), torch.randn(1, 1, 14, 14)
    larger = torch.nn.functional.interpolate(patch, size=(16, 16), mode="bilinear")
    resized = resize_kernel(kernel, (16, 16, 16))
    answer = torch.einsum("ecdhw,bcdhw->be", resized, repeated(larger, 16))
    assert torch.allclose(answer, torch.einsum("echw,bchw->be", kernel, patch), atol=1e-3)


def test_colours_are_summed_so_that_equal_channels_answer_alike() -> None:
    kernel, grey = torch.randn(4, 3, 8, 8), torch.randn(1, 1, 8, 8)
    answer = torch.einsum("echw,bchw->be", kernel, grey.expand(-1, 3, -1, -1))
    for channels in (1, 2, 3, 4):
        folded = fold_channels(kernel, channels)
        found = torch.einsum("echw,bchw->be", folded, grey.expand(-1, channels, -1, -1))
        assert torch.allclose(found, answer, atol=1e-4)


@pytest.mark.parametrize(
    "layout, word, kind",
    [
        ("vit-b-16", "vit_b", "ViT of images (transformers)"),
        ("timm-vit-b-16", "vit_b", "ViT of images (timm)"),
        ("dinov2-b-14", "vit_b", "DINOv2 ViT (transformers)"),
        ("dinov3-s-16", "vit_s", "DINOv3 ViT (transformers)"),
        ("videomae-b", "vit_b", "VideoMAE ViT"),
        ("videomae-b", "vit_b:patch_depth=2", "VideoMAE ViT"),
    ],
)
def test_the_published_sizes_fill_every_block(layout: str, word: str, kind: str) -> None:
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in LAYOUTS[layout].items()}
        foreign = translate(tensors, layout)
        assert foreign is not None
        backbone, report = start_vit(Source(layout, tensors, {}, ""), foreign, word, (96, 112, 96), 1, 0)
    assert report.kind == kind and foreign.depth == 12
    assert set(report.fresh) <= {"norm.weight", "norm.bias"}  # VideoMAE's pre-training has no norm at the end
    assert len(report.loaded) + len(report.inflated) + len(report.interpolated) + len(report.fresh) == len(
        backbone.state_dict()
    )


def test_positions_of_videomae_base_are_brought_from_8_14_14() -> None:
    backbone, report = started(STARTS / "videomae", "toy", (32, 32, 32))
    assert report.interpolated == {}  # 8 frames of 32², as its config says: 4 × 4 × 4
    table = sinusoid_table(64, 32)
    assert torch.equal(backbone.positions, table)
    assert float(table[0, 5, 3]) == pytest.approx(torch.tensor(5 / 10000 ** (2 / 32)).cos().item(), abs=1e-6)
    assert resize_positions(table, (4, 4, 4), (4, 4, 4)) is table


def _real(name: str) -> Any:
    """The fixture's maker, where the library is installed."""
    sys.path.insert(0, str(STARTS.parent))
    try:
        import make_starts

        return make_starts.drawn(make_starts.SMALL[name], seed=5), make_starts
    except (ImportError, RuntimeError) as error:  # torchvision raises when it is built for another torch
        pytest.skip(f"the real class is not here ({type(error).__name__})")
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize("name", [*PLANES, "videomae"])
def test_the_real_class_agrees_where_it_is_installed(name: str, tmp_path: Path) -> None:
    made, maker = _real(name)
    maker.save(made, tmp_path / name)
    expected = maker.asked(made, seed=6)
    if name == "videomae":
        agrees_on_a_clip(tmp_path / name, expected)
    else:
        agrees_on_a_repeated_frame(tmp_path / name, expected, layers=2)


def test_what_a_start_does_not_say_is_drawn_from_the_seed(tmp_path: Path) -> None:
    tensors = load_file(STARTS / "videomae" / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if "fc_norm" not in name}, tmp_path / "v.safetensors")
    backbone, report = started(tmp_path / "v.safetensors", "toy", (32, 32, 32))
    assert report.fresh == ["norm.weight", "norm.bias"]
    assert torch.equal(backbone.norm.weight, make_backbone("toy", (32, 32, 32)).state_dict()["norm.weight"])
