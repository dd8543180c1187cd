"""The names that other libraries give to a ViT's tensors, in ours."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import torch

from synth.errors import UserError

# What stands before a name when a ViT is a part of something larger.
AROUND = ("module.", "model.", "backbone.", "encoder.", "vit.", "dinov2.", "videomae.", "teacher.", "base_model.")
OUTSIDE = {  # name → ours
    "embeddings.patch_embeddings.projection": "embed",  # transformers: ViT, MAE, DINOv2, VideoMAE
    "embeddings.patch_embeddings": "embed",  # transformers: DINOv3
    "patch_embed.proj": "embed",  # timm, and the original DINO, MAE, VideoMAE
    "patch_embedding.patch_embeddings": "embed",  # MONAI
    "patch_embedding.patch_embeddings.1": "embed",  # MONAI, perceptron
    "embeddings.cls_token": "class_token",
    "cls_token": "class_token",
    "embeddings.register_tokens": "registers",
    "register_tokens": "registers",
    "reg_token": "registers",
    "embeddings.position_embeddings": "positions",
    "pos_embed": "positions",
    "patch_embedding.position_embeddings": "positions",
    "layernorm": "norm",
    "norm": "norm",
    "fc_norm": "pooled_norm",
}
INSIDE = {  # of a block; name → ours
    "norm1": "norm1",
    "layernorm_before": "norm1",
    "norm2": "norm2",
    "layernorm_after": "norm2",
    "attn.qkv": "qkv",
    "attn.proj": "proj",
    "attn.out_proj": "proj",
    "attention.o_proj": "proj",
    "attention.output.dense": "proj",
    "mlp.fc1": "mlp.0",
    "mlp.linear1": "mlp.0",
    "mlp.up_proj": "mlp.0",
    "intermediate.dense": "mlp.0",
    "mlp.fc2": "mlp.2",
    "mlp.linear2": "mlp.2",
    "mlp.down_proj": "mlp.2",
    "output.dense": "mlp.2",
    "ls1.gamma": "scale1",
    "layer_scale1.lambda1": "scale1",
    "gamma_1": "scale1",
    "ls2.gamma": "scale2",
    "layer_scale2.lambda1": "scale2",
    "gamma_2": "scale2",
    **{
        f"{attention}.{word}": f"qkv.{letter}"
        for attention in ("attention", "attn", "attention.attention")
        for letter, words in {"q": ("q_proj", "query"), "k": ("k_proj", "key"), "v": ("v_proj", "value")}.items()
        for word in words
    },
}
BARE_BIAS = {
    f"{attention}.{letter}_bias": f"qkv.{letter}.bias"
    for attention in ("attn", "attention.attention")
    for letter in "qv"
}
BLOCK = re.compile(r"^(?:layers?|blocks)\.(?:\d+\.)?(\d+)\.(.+)$")
LEFT_OUT = (
    (r"decoder|mask_token|encoder_to_decoder", "of its own pre-training (decoder, mask token)"),
    (r"head|classifier|^fc\.|pooler|projection_dim", "of its own task (classifier, pooler)"),
    (r"cross_attn", "of cross-attention that it does not use"),
    (r"rope|inv_freq|periods|rotary", "computed here from the grid"),
)


@dataclass
class ForeignViT:
    """A ViT of another library.

    Attributes:
        tensors: by our names (``blocks.3.qkv.weight``); ``positions`` and ``embed.weight`` as they were.
        skipped: names in the file → why they are left out.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return 1 + max((int(name.split(".")[1]) for name in self.tensors if name.startswith("blocks.")), default=-1)

    @property
    def width(self) -> int:
        """Length of a token."""
        return int(self.tensors["embed.weight"].shape[0])


def translate(tensors: dict[str, torch.Tensor], source: str) -> ForeignViT | None:
    """A ViT's tensors under our names; None where there is no patch embedding with blocks behind it.

    Raises:
        UserError: two models in one file, or blocks that ours cannot compute (gated MLPs).
    """
    made = ForeignViT()
    for name, tensor in tensors.items():
        ours = _our_name(name)
        if ours is None:
            made.skipped[name] = _reason(name)
        elif ours in made.tensors:
            raise UserError(f"'{source}' holds two tensors for {ours} (one is {name}); keep one model in the file")
        else:
            made.tensors[ours] = tensor
    if "embed.weight" not in made.tensors or made.depth == 0:
        return None
    if any(re.search(r"gate_proj|weights_in|w12|w3\.", name) for name in made.skipped):
        raise UserError(f"'{source}' has gated MLPs (SwiGLU), which no backbone here has; take a size without them")
    _fuse(made.tensors)
    return made


def _our_name(name: str) -> str | None:
    if re.match(r"(\w+\.)?decoder|encoder_to_decoder|student\.", name):
        return None
    bare = name
    while prefix := next((p for p in AROUND if bare.startswith(p)), None):
        bare = bare.removeprefix(prefix)
    block = BLOCK.match(bare)
    if block and block[2] in BARE_BIAS:
        return f"blocks.{block[1]}.{BARE_BIAS[block[2]]}"
    inner, known = (block[2], INSIDE) if block else (bare, OUTSIDE)
    stem, _, end = inner.rpartition(".")
    if end not in ("weight", "bias"):
        stem, end = inner, ""
    if stem not in known:
        return None
    ours = known[stem] + (f".{end}" if end else "")
    return f"blocks.{block[1]}.{ours}" if block else ours


def _reason(name: str) -> str:
    return next((why for pattern, why in LEFT_OUT if re.search(pattern, name)), "no place for it in the backbone")


def _fuse(tensors: dict[str, torch.Tensor]) -> None:
    """Query, key and value as one matrix; a bias that is not there is zero."""
    for i in range(1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))):
        whole = f"blocks.{i}.qkv"
        parts = [tensors.pop(f"{whole}.{letter}.weight", None) for letter in "qkv"]
        if all(part is not None for part in parts):
            tensors[f"{whole}.weight"] = torch.cat([part for part in parts if part is not None])
        if f"{whole}.weight" not in tensors:
            continue
        rows = tensors[f"{whole}.weight"].shape[0] // 3
        zero = torch.zeros(rows)
        biases = [tensors.pop(f"{whole}.{letter}.bias", zero) for letter in "qkv"]
        tensors.setdefault(f"{whole}.bias", torch.cat(biases))
