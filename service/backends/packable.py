"""Which layers of a ViT can be computed by packed ones."""

from typing import Any

from torch import nn


def is_plain_mlp(mlp: Any) -> bool:
    """Whether this is timm's `Mlp` with the exact GELU and nothing else between its layers."""
    layers = [getattr(mlp, name, None) for name in ("fc1", "fc2")]
    act = getattr(mlp, "act", None)
    return (
        all(type(layer) is nn.Linear for layer in layers)
        and type(act) is nn.GELU
        and act.approximate == "none"
        and isinstance(getattr(mlp, "norm", None), nn.Identity)
    )


def is_plain_attention(attn: Any) -> bool:
    """Whether nothing between its linear layers needs float32."""
    norms = [getattr(attn, name, None) for name in ("q_norm", "k_norm", "norm")]
    return type(attn.qkv) is nn.Linear and all(isinstance(norm, nn.Identity) for norm in norms)


def is_of_patches(layer: Any) -> bool:
    """Whether this is a convolution whose windows lie side by side."""
    return (
        type(layer) is nn.Conv2d
        and layer.stride == layer.kernel_size
        and (layer.padding, layer.dilation, layer.groups) == ((0, 0), (1, 1), 1)
    )
