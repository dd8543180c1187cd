"""Networks of MONAI's modules start from the files of others: torchvision's video networks, MedicalNet, MONAI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from pretrain.starts import Report, make_start
from pretrain.starts.cnn import start_cnn
from pretrain.starts.files import Source
from synth.errors import UserError

STARTS = Path(__file__).resolve().parents[1] / "fixtures" / "starts"
LAYOUTS: dict[str, dict[str, list[int]]] = json.loads((STARTS / "layouts.json").read_text())
Tensors = dict[str, torch.Tensor]


def of_layout(name: str) -> Tensors:
    """A full-size file with weights drawn anew; variances and scales near 1."""
    generator = torch.Generator().manual_seed(0)
    made: Tensors = {}
    for key, shape in LAYOUTS[name].items():
        noise = torch.randn(shape, generator=generator)
        fan = max(1, noise[0].numel()) if noise.ndim > 1 else 1
        made[key] = 1 + 0.1 * noise if noise.ndim == 1 and "bias" not in key else noise * (2 / fan) ** 0.5
        if key.endswith("running_var"):
            made[key] = made[key].abs()
    return made


def r3d(tensors: Tensors, clip: torch.Tensor) -> torch.Tensor:
    """torchvision's r3d_18 up to its classifier, written out from Tran et al. 2018."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance, weight, bias = (
            tensors[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias)

    x = F.conv3d(clip, tensors["stem.0.weight"], stride=(1, 2, 2), padding=(1, 3, 3))
    x = F.relu(norm(x, "stem.1"))
    for stage in range(1, 5):
        for block in range(2):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = F.relu(norm(F.conv3d(x, tensors[f"{at}.conv1.0.weight"], stride=stride, padding=1), f"{at}.conv1.1"))
            y = norm(F.conv3d(y, tensors[f"{at}.conv2.0.weight"], padding=1), f"{at}.conv2.1")
            if stride == 2:
                x = norm(F.conv3d(x, tensors[f"{at}.downsample.0.weight"], stride=2), f"{at}.downsample.1")
            x = F.relu(x + y)
    return x.mean((2, 3, 4))


def test_r3d_18_gives_on_one_channel_what_it_gives_on_three_equal_ones(tmp_path: Path) -> None:
    tensors = of_layout("r3d_18")
    save_file(tensors, tmp_path / "r3d_18.safetensors")
    backbone, report = make_start(str(tmp_path / "r3d_18.safetensors"), "r3d_18", (16, 32, 32))
    clip = torch.randn(1, 1, 16, 32, 32)
    with torch.no_grad():
        expected = r3d(tensors, clip.expand(-1, 3, -1, -1, -1))
        assert torch.allclose(backbone.eval()(clip), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert report is not None and report.inflated == {"net.conv1.weight": "3 channels → 1"}
    assert set(report.skipped) == {"fc.weight", "fc.bias"}


def test_swin3d_s_published_names_fill_the_whole_backbone() -> None:
    report = poured(of_layout("swin3d_t"), "swin3d_t")
    assert report.fresh == [] and set(report.skipped) == {"head.weight", "head.bias"}
    assert list(report.inflated) == ["net.patch_embed.proj.weight"]


@pytest.mark.parametrize("name", ["r3d_18", "swin3d_t"])
def test_the_real_video_network_agrees_where_torchvision_is_installed(name: str, tmp_path: Path) -> None:
    try:
        from torchvision.models import video
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        pytest.skip(f"torchvision is not here ({type(error).__name__})")
    model = getattr(video, name)().eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    backbone, _ = make_start(str(tmp_path / "w.safetensors"), name, (32, 64, 64))
    clip = torch.randn(1, 1, 32, 64, 64)
    setattr(model, "fc" if name == "r3d_18" else "head", torch.nn.Identity())
    with torch.no_grad():
        assert torch.allclose(backbone.eval()(clip), model(clip.expand(-1, 3, -1, -1, -1)), atol=1e-4)


def poured(tensors: Tensors, word: str) -> Report:
    made = start_cnn(Source("file", tensors, {}, ""), word, (32, 32, 32), 1, 0)
    assert made is not None
    return made[1]


def monai_resnet(depth: int, **arguments: Any) -> torch.nn.Module:
    """As MedicalNet's files are: conv1 7³ with stride 2, no classifier."""
    from monai.networks.nets import resnet

    shortcut, bias = ("A", True) if depth == 18 else ("B", False)
    make = getattr(resnet, f"resnet{depth}")
    arguments = {
        "n_input_channels": 1,
        "feed_forward": False,
        "shortcut_type": shortcut,
        "bias_downsample": bias,
        **arguments,
    }
    return make(conv1_t_stride=2, **arguments)


def test_a_file_of_medicalnet_computes_what_monai_computes_from_it(tmp_path: Path) -> None:
    model = monai_resnet(18).eval()
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}},
        tmp_path / "resnet_18.pth",
    )
    backbone, report = make_start(str(tmp_path / "resnet_18.pth"), "resnet18", (32, 40, 32))
    image = torch.randn(1, 1, 32, 40, 32)
    with torch.no_grad():
        assert torch.allclose(backbone.eval()(image), model(image), atol=1e-5)
    assert report is not None and report.fresh == [] and "dilation" in " ".join(report.notes)


def test_medicalnet_s_resnet50_fills_the_whole_backbone() -> None:
    with torch.device("meta"):
        tensors = {f"module.{name}": value for name, value in monai_resnet(50).state_dict().items()}
        assert poured(tensors, "resnet50").fresh == []


def test_a_network_of_monai_with_a_classifier_and_two_channels_is_taken_too() -> None:
    from monai.networks.nets import DenseNet121

    with torch.device("meta"):
        report = poured(dict(DenseNet121(3, 2, 4).state_dict()), "densenet121")
    assert set(report.skipped) == {"class_layers.out.weight", "class_layers.out.bias"}
    assert report.inflated == {"features.conv0.weight": "2 channels → 1"}


@pytest.mark.parametrize(
    "tensors, word, said",
    [
        (lambda: monai_resnet(50).state_dict(), "resnet18", "net.layer1.0.conv1.weight is 64 × 64 × 1 × 1 × 1, not 64 × 64 × 3 × 3 × 3"),
        (lambda: monai_resnet(18).state_dict(), "resnet50", "lacks .* of resnet50's .* tensors, such as net.layer1.0.conv3.weight"),
        (lambda: monai_resnet(18).state_dict(), "vit_b", "choose --backbone resnet18 or resnet50, not vit_b"),
    ],
)  # fmt: skip
def test_another_network_is_refused_with_the_first_difference(tensors: Any, word: str, said: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=said):
        poured(dict(tensors()), word)


def of_images(word: str) -> Tensors:
    """A network of planes with three colours under the names that timm and torchvision give its tensors."""
    from monai.networks.nets import DenseNet121, resnet50

    torch.manual_seed(0)
    if word == "resnet50":
        network = resnet50(spatial_dims=2, n_input_channels=3, num_classes=5, bias_downsample=False)
        return dict(network.state_dict())
    state = DenseNet121(spatial_dims=2, in_channels=3, out_channels=5).state_dict()
    return {name.replace(".layers.", ".").replace("class_layers.out", "classifier"): x for name, x in state.items()}


def test_a_resnet18_of_images_is_refused_for_its_shortcuts(tmp_path: Path) -> None:
    from monai.networks.nets import resnet18

    save_file(resnet18(spatial_dims=2, n_input_channels=3).state_dict(), tmp_path / "images.safetensors")
    with pytest.raises(UserError, match="type A"):
        make_start(str(tmp_path / "images.safetensors"), "resnet18", (32, 32, 32))


@pytest.mark.parametrize("word", ["resnet50", "densenet121"])
def test_a_network_of_images_answers_inside_a_repeated_slice_as_on_the_slice(word: str, tmp_path: Path) -> None:
    tensors = of_images(word)
    save_file(tensors, tmp_path / "images.safetensors")
    backbone, report = make_start(str(tmp_path / "images.safetensors"), word, (32, 32, 32))
    assert report is not None and report.kind.endswith("of images") and report.fresh == []
    state = {name.removeprefix("net."): tensor for name, tensor in backbone.state_dict().items()}
    for name, kernel in tensors.items():
        ours = state.get(name, state.get(name.replace(".conv", ".layers.conv")))
        if kernel.ndim == 4:
            assert ours is not None and ours.ndim == 5
            summed = kernel.sum(1, keepdim=True) if kernel.shape[1] == 3 else kernel
            torch.testing.assert_close(ours.sum(2), summed, rtol=1e-4, atol=1e-5)
    first = "conv1.weight" if word == "resnet50" else "features.conv0.weight"
    plane = torch.randn(1, 1, 32, 32)
    answer = F.conv3d(plane[:, :, None].expand(-1, -1, 32, -1, -1), state[first], padding=3)[:, :, 16]
    flat = F.conv2d(plane.expand(-1, 3, -1, -1), tensors[first], padding=3)
    torch.testing.assert_close(answer, flat, rtol=1e-3, atol=1e-4)
    assert "3 channels → 1" in report.inflated[f"net.{first}" if word == "resnet50" else first]
