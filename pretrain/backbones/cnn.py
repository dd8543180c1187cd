"""MONAI's convolutional networks without their classifiers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from pretrain.backbones.base import Backbone, Fit, Shape


class MonaiDenseNet(Backbone):
    """MONAI's 3-D DenseNet121 (Huang et al. 2017) without its classifier."""

    fit = Fit(smallest=32)

    def __init__(self, shape: Shape, channels: int) -> None:
        super().__init__()
        from monai.networks.nets.densenet import DenseNet121

        self.features = DenseNet121(spatial_dims=3, in_channels=channels, out_channels=1).features
        self.feature_size = 1024

    def feature_map(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, 1024, D/32, H/32, W/32]``."""
        self._check(image)
        return F.relu(self.features(image))

    def layer_prefixes(self) -> list[tuple[str, ...]]:
        """Stem, every dense layer, every transition, last norm."""
        groups: list[tuple[str, ...]] = [("features.conv0", "features.norm0")]
        for name, part in self.features.named_children():
            if name.startswith("denseblock"):
                groups += [(f"features.{name}.{layer}",) for layer, _ in part.named_children()]
            elif name.startswith(("transition", "norm5")):
                groups.append((f"features.{name}",))
        return groups


class MonaiResNet(Backbone):
    """MONAI's 3-D ResNets (He et al. 2016; Hara et al. 2018) in the layout of MedicalNet (Chen et al. 2019), without
    their classifier. ResNet18's shortcuts are of type A, as MedicalNet's are; no gradient passes through those that
    change the width, as MONAI writes them."""

    fit = Fit(smallest=16)

    def __init__(self, shape: Shape, channels: int, model: str = "resnet18") -> None:
        super().__init__()
        from monai.networks.nets.resnet import ResNetFeatures

        self.net: nn.Module = ResNetFeatures(model, pretrained=False, in_channels=channels)
        self.feature_size = 512 if model in ("resnet10", "resnet18", "resnet34") else 2048

    def feature_map(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, F, D/32, H/32, W/32]``, last stage."""
        self._check(image)
        return self.net(image)[-1]

    def layer_prefixes(self) -> list[tuple[str, ...]]:
        """Stem, then every residual block."""
        return resnet_layers(self.net)


def resnet_layers(net: nn.Module) -> list[tuple[str, ...]]:
    """Stem, then every residual block of a MONAI ResNet called ``net``."""
    groups: list[tuple[str, ...]] = [("net.conv1", "net.bn1")]
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        groups += [(f"net.{stage}.{block}",) for block, _ in net.get_submodule(stage).named_children()]
    return groups


class VideoResNet(Backbone):
    """torchvision's r3d_18 (Tran et al. 2018) built of MONAI's ResNet: a stem of 3 × 7 × 7 that keeps the depth, no
    pooling after it, shortcuts of type B. The volume's first axis stands for time."""

    fit = Fit(smallest=16)

    def __init__(self, shape: Shape, channels: int) -> None:
        super().__init__()
        from monai.networks.nets.resnet import ResNet

        self.net: nn.Module = ResNet(
            "basic",
            [2, 2, 2, 2],
            [64, 128, 256, 512],
            n_input_channels=channels,
            conv1_t_size=(3, 7, 7),  # type: ignore[arg-type]  # MONAI's hint says tuple[int], it means any tuple
            conv1_t_stride=(1, 2, 2),  # type: ignore[arg-type]
            no_max_pool=True,
            shortcut_type="B",
            bias_downsample=False,
            feed_forward=False,
        )
        self.feature_size = 512

    def feature_map(self, image: torch.Tensor) -> torch.Tensor:
        """``[B, 512, D/8, H/16, W/16]``."""
        self._check(image)
        x = self.net.act(self.net.bn1(self.net.conv1(image)))  # type: ignore[operator]
        for stage in (self.net.layer1, self.net.layer2, self.net.layer3, self.net.layer4):
            x = stage(x)  # type: ignore[operator]
        return x

    def layer_prefixes(self) -> list[tuple[str, ...]]:
        """Stem, then every residual block."""
        return resnet_layers(self.net)
