"""What the benchmark ``train`` times: a step of ours, a step of MONAI's, and on a GPU a step fed by a Stream."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from benchmarks.speed.timing import Skip
from benchmarks.speed.train import AUTOENCODER, DENSENET, MAE, RESNET, SMALL_VIT, SWIN, VIT

WIDTH, DEPTH, HEADS, PATCH, MASKED = 768, 12, 12, 16, 0.75  # ViT-B/16; the share hidden as in He et al. 2022
OURS = {VIT: "vit_b", SMALL_VIT: "vit_s_p8", DENSENET: "densenet121", RESNET: "resnet50", SWIN: "swin"}
PEAK_FLOPS = {  # dense bf16 operations a second, from NVIDIA's data sheets
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
}
Loss = Callable[[torch.Tensor, int], torch.Tensor]


class Step:
    """One step: forward, backward, AdamW.

    Args:
        group: of :mod:`benchmarks.speed.train`.
        edge: voxels along each axis.
        precision: fp32, or bf16 (autocast).
        batch: volumes a step.
        ours: brainloom's, else MONAI's.
        device: where.
    """

    turn_s = 0.0

    def __init__(self, group: str, edge: int, precision: str, batch: int, ours: bool, device: str = "cpu") -> None:
        self.module, self.loss = (ours_of if ours else monais_of)(group, edge)
        self.module.train().to(device)
        self.device, self.bf16 = torch.device(device), precision == "bf16"
        generator = torch.Generator().manual_seed(0)
        self.image = torch.randn(batch, 1, edge, edge, edge, generator=generator).to(device)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), 1e-4)
        self.volumes_per_call = batch

    def __call__(self, number: int) -> float:
        """Loss of the step, as a tensor's number: reading it waits for a GPU."""
        self.step(self.image, number)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return None  # type: ignore[return-value]  # a float would be taken for seconds

    def step(self, image: torch.Tensor, number: int) -> None:
        """Forward, backward, AdamW."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.loss(image, number)
        loss.backward()
        self.optimizer.step()

    def extras(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Operations of a step and, on a GPU, the share of what it can do that was used, and its memory."""
        from torch.utils.flop_counter import FlopCounterMode

        if self.device.type != "cuda":
            return {}
        with FlopCounterMode(display=False) as counter:
            self(0)
        flops = counter.get_total_flops()
        seconds = min(timed(lambda: self(1)) for _ in range(5))
        told = {"flops_a_step": flops, "gpu_peak_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1)}
        return {**told, **utilisation(flops, seconds, torch.cuda.get_device_name())}


def timed(call: Callable[[], Any]) -> float:
    """Seconds of a call."""
    import time

    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def utilisation(flops: float, seconds: float, gpu: str) -> dict[str, Any]:
    """Model FLOP utilisation: operations of forward and backward by those that the GPU could do meanwhile."""
    peak = next((value for name, value in PEAK_FLOPS.items() if name in gpu), None)
    return {"gpu": gpu, "flop_utilisation": None if peak is None else round(flops / seconds / peak, 4)}


def ours_of(group: str, edge: int) -> tuple[nn.Module, Loss]:
    """Our module of a group and its loss."""
    from pretrain.backbones import make_backbone
    from pretrain.objectives.mae import MaskedAutoencoder
    from pretrain.objectives.masked import MaskedModelling

    corpus: Any = SimpleNamespace(image_shape=(1, edge, edge, edge))
    backbone = make_backbone(OURS.get(group, "vit_b"), (edge, edge, edge))
    if group in OURS:
        return backbone, lambda image, number: backbone(image).float().square().mean()
    made = (MaskedAutoencoder if group == MAE else MaskedModelling)(backbone, corpus, 0)

    def loss(image: torch.Tensor, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(number)
        return made.loss(image, torch.arange(len(image)), generator)

    return made, loss


def monais_of(group: str, edge: int) -> tuple[nn.Module, Loss]:
    """MONAI's module of a group, as wide and deep as ours, and the same loss."""
    from monai.networks.nets import DenseNet121, ViT, ViTAutoEnc
    from monai.networks.nets.resnet import ResNetFeatures
    from monai.networks.nets.swin_unetr import SwinTransformer

    shape: dict[str, Any] = {"in_channels": 1, "img_size": (edge,) * 3, "patch_size": (PATCH,) * 3}
    vit = {**shape, "hidden_size": WIDTH, "mlp_dim": 4 * WIDTH, "num_layers": DEPTH, "num_heads": HEADS}
    small = {**vit, "patch_size": (PATCH // 2,) * 3, "hidden_size": 384, "mlp_dim": 4 * 384, "num_heads": 6}
    if group == AUTOENCODER:
        net: nn.Module = ViTAutoEnc(**vit, qkv_bias=True)
        return net, lambda image, number: (net(image)[0].float() - image).square().mean()
    if group == MAE:
        return _monais_mae(vit)
    if group == DENSENET:
        net = DenseNet121(3, 1, 2)
        net.class_layers = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
        return net, lambda image, number: net(image).float().square().mean()
    if group in (RESNET, SWIN):
        swin: dict[str, Any] = {"embed_dim": 48, "window_size": (7,) * 3, "patch_size": (2,) * 3, "depths": (2,) * 4}
        swin |= {"num_heads": (3, 6, 12, 24), "downsample": "mergingv2"}
        resnet = group == RESNET
        net = ResNetFeatures("resnet50", False, in_channels=1) if resnet else SwinTransformer(in_chans=1, **swin)
        return net, lambda image, number: net(image)[-1].mean((2, 3, 4)).float().square().mean()
    if group not in (VIT, SMALL_VIT):
        raise Skip(f"MONAI has nothing like {group}")
    net = ViT(**(vit if group == VIT else small), pos_embed_type="sincos", qkv_bias=True)
    return net, lambda image, number: net(image)[0].mean(1).float().square().mean()


def _monais_mae(vit: dict[str, Any]) -> tuple[nn.Module, Loss]:
    from monai.networks.nets import MaskedAutoEncoderViT

    from pretrain.objectives.mae import DECODER_DEPTH, DECODER_HEADS, DECODER_WIDTH

    net = MaskedAutoEncoderViT(
        **vit,
        masking_ratio=MASKED,
        qkv_bias=True,
        decoder_hidden_size=DECODER_WIDTH,
        decoder_mlp_dim=4 * DECODER_WIDTH,
        decoder_num_layers=DECODER_DEPTH,
        decoder_num_heads=DECODER_HEADS,
    )

    def loss(image: torch.Tensor, number: int) -> torch.Tensor:
        predicted, mask = net(image)
        target = normalised_patches(image)
        return ((predicted.float() - target).square().mean(2) * mask).sum() / mask.sum()

    return net, loss


def normalised_patches(image: torch.Tensor) -> torch.Tensor:
    """``[B, C, D, H, W]`` → ``[B, N, voxels of a patch]`` with zero mean and unit SD."""
    b, c, d, h, w = image.shape
    cut = image.view(b, c, d // PATCH, PATCH, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 6, 1, 3, 5, 7)
    patches = cut.reshape(b, -1, c * PATCH**3)
    return (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-2).sqrt()


class Streamed(Step):
    """Steps of the MAE on batches of a Stream over a corpus of noise; how long training waits for them."""

    def __init__(self, edge: int, batch: int) -> None:
        import tempfile
        from pathlib import Path

        from pretrain.feed import Feed
        from pretrain.intensity import standardise
        from synth.corpus import Corpus
        from synth.engine import Job, generate
        from synth.generator import GeneratorSpec
        from synth.stream import Stream

        super().__init__(MAE, edge, "bf16", batch, True, "cuda")
        self.folder = tempfile.TemporaryDirectory(prefix="brainloom-speed-")
        spec = GeneratorSpec("LabelMap", {"shape": (edge, edge, edge), "spacing": 192 / edge})
        out = Path(self.folder.name) / "corpus.zarr"
        generate(Job(spec, 4 * batch, 0, out, 16))
        stream = Stream(Corpus(out), batch, device="cuda", transform=lambda image, generator: standardise(image))
        self.feed = Feed(stream, 2**31)
        self.batches = iter(self.feed)
        self.spent = 0.0

    def __call__(self, number: int) -> float:
        """A step on the next batch."""

        def step() -> None:
            self.step(next(self.batches).image, number)
            torch.cuda.synchronize()

        self.spent += timed(step)
        return None  # type: ignore[return-value]

    def extras(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """The share of time that training waited for the stream."""
        return {
            "data_wait_share": round(self.feed.waited / max(self.spent, 1e-9), 4),
            "gpu": torch.cuda.get_device_name(),
        }
