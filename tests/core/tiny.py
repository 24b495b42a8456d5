"""Tiny timm vision transformers in which every part matters: no weight is zero or negligible."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from service.models.timm_models import timm

BASE: dict[str, Any] = {
    "img_size": 40,  # 25 patches: one more destination than sources
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 4,
    "num_classes": 10,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "even_grid": {"img_size": 32},
    "oblong": {"img_size": (24, 56), "depth": 3},
    "deep": {"img_size": 32, "depth": 6},
    "layer_scale": {"init_values": 1e-5},
    "qk_norm": {"qk_norm": True},
    "no_qkv_bias": {"qkv_bias": False},
    "registers": {"reg_tokens": 4},
    "dinov2": {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5},
    "clip": {"pre_norm": True},
    "distilled": {"distilled": True},
    "no_position": {"pos_embed": "none"},
    "no_final_norm": {"final_norm": False},
    "inner_norms": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "trained_with_dropout": {
        "drop_rate": 0.5,
        "pos_drop_rate": 0.5,
        "patch_drop_rate": 0.5,
        "proj_drop_rate": 0.5,
        "attn_drop_rate": 0.5,
        "drop_path_rate": 0.5,
    },
    "maximum": {"global_pool": "max"},
    "average": {"global_pool": "avg"},
    "average_late_norm": {"global_pool": "avg", "fc_norm": False},
    "average_all": {"global_pool": "avg", "pool_include_prefix": True, "reg_tokens": 2},
    "average_maximum": {"global_pool": "avgmax"},
    "attention_pool": {"global_pool": "map", "class_token": False},
    "attention_pool_of_all": {"global_pool": "map", "pool_include_prefix": True, "reg_tokens": 2},
    "no_class_token": {"global_pool": "avg", "class_token": False},
    "no_class_but_registers": {"global_pool": "avg", "class_token": False, "reg_tokens": 2},
}


@cache
def tiny_vit(*, distilled: bool = False, seed: int = 0, **overrides: Any) -> nn.Module:
    """A float64 model in eval mode, the same object for the same arguments: never change it.

    Attention is far from uniform and no two scores are close, so that a wrong choice anywhere shows
    in the logits.
    """
    kind = (
        timm.models.deit.VisionTransformerDistilled
        if distilled
        else (timm.models.vision_transformer.VisionTransformer)
    )
    model = kind(**BASE | overrides).double().eval().requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.copy_(fill(name, noise))
    return model


def fill(name: str, noise: Tensor) -> Tensor:
    """Turn standard normal noise into values that suit the parameter."""
    if name.endswith(("token", "pos_embed")):
        return noise
    if name.endswith("gamma"):
        return 0.6 + 0.4 * noise
    if "norm" in name and name.endswith("weight"):
        return 1.0 + 0.4 * noise
    if name.endswith("bias"):
        return 0.3 * noise
    gain = 1.6 if "qkv" in name else 1.0
    return gain * noise / noise[0].numel() ** 0.5


def random_images(model: nn.Module, num_images: int = 2, *, seed: int = 1) -> Tensor:
    """Float64 noise of the size that the model expects, (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, 3, *model.patch_embed.img_size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)
