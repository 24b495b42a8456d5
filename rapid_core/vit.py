"""The parts of a timm Vision Transformer, and which models can be reproduced exactly.

The library reads timm's models by the names of their parts and never imports timm; these
protocols are the parts that it reads.
"""

from typing import Protocol, cast

from torch import Tensor, nn

from rapid_core.errors import UnsupportedModelError


class Attention(Protocol):
    """timm's multi-head self-attention."""

    num_heads: int
    head_dim: int
    scale: float
    fused_attn: bool
    """whether attention is one operation of PyTorch, or two products with a softmax between."""
    training: bool
    qkv: nn.Linear
    q_norm: nn.Module
    k_norm: nn.Module
    attn_drop: nn.Dropout
    norm: nn.Module
    proj: nn.Module
    proj_drop: nn.Module


class Block(Protocol):
    """timm's pre-norm transformer block."""

    norm1: nn.Module
    attn: Attention
    ls1: nn.Module
    drop_path1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    ls2: nn.Module
    drop_path2: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        """The whole block, unreduced: (B, N, C) -> (B, N, C)."""


class PatchEmbed(Protocol):
    """timm's patch embedding."""

    num_patches: int
    img_size: tuple[int, int]
    patch_size: tuple[int, int]
    grid_size: tuple[int, int]
    strict_img_size: bool

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, n, C)."""


class AttentionPool(Protocol):
    """timm's pooling by attention from a learnt query (`AttentionPoolLatent`)."""

    num_heads: int
    head_dim: int
    latent_len: int
    kv: nn.Module

    def __call__(self, x: Tensor, attn_mask: Tensor) -> Tensor:
        """(B, N, C) and an attention bias (B, 1, 1, N) -> (B, C)."""


class VisionTransformer(Protocol):
    """timm's plain Vision Transformer."""

    patch_embed: PatchEmbed
    pos_embed: nn.Parameter | None
    """(1, n or P + n, C)"""
    patch_drop: nn.Module
    norm_pre: nn.Module
    blocks: nn.Sequential
    norm: nn.Module
    fc_norm: nn.Module
    head_drop: nn.Module
    head: nn.Module
    num_prefix_tokens: int
    has_class_token: bool
    global_pool: str
    dynamic_img_size: bool
    no_embed_class: bool
    attn_pool: AttentionPool | None
    pool_include_prefix: bool

    def _pos_embed(self, x: Tensor) -> Tensor: ...

    def forward_head(self, x: Tensor) -> Tensor:
        """Pool and classify: (B, N, C) -> (B, K)."""


BLOCK_CHILDREN = frozenset(
    {"norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2"}
)
ATTENTION_CHILDREN = frozenset(
    {"qkv", "q_norm", "k_norm", "attn_drop", "norm", "proj", "proj_drop"}
)
POOLINGS = ("token", "avg", "avgmax", "max", "map", "")


def check_model(model: nn.Module) -> VisionTransformer:
    """Refuse a model that would silently give wrong logits; return any other model, typed.

    Raises:
        UnsupportedModelError: it names the block and the part, and says what is supported.
    """
    name = type(model).__name__
    if not any(cls.__name__ == "VisionTransformer" for cls in type(model).__mro__):
        raise UnsupportedModelError(
            f"{name}: not a timm VisionTransformer, so its blocks are not known; windows, rotary "
            "embeddings and hierarchical stages are not supported"
        )
    base = next(cls for cls in type(model).__mro__ if cls.__name__ == "VisionTransformer")
    if name != "VisionTransformerDistilled":  # `patch` calls its own parts
        for method in ("forward", "forward_features", "forward_head", "pool"):
            if getattr(type(model), method) is not getattr(base, method):
                raise UnsupportedModelError(f"{name}: cannot reproduce its own {method}()")
    if model.grad_checkpointing:
        raise UnsupportedModelError(
            f"{name}: gradient checkpointing walks the blocks without the reduction; "
            "call set_grad_checkpointing(False) first"
        )
    if model.global_pool not in POOLINGS:
        raise UnsupportedModelError(
            f"{name}: cannot reproduce global_pool={model.global_pool!r}; supported are "
            f"{', '.join(pool for pool in POOLINGS if pool)}"
        )
    if getattr(model.attn_pool, "pos_embed", None) is not None:
        raise UnsupportedModelError(
            f"{name}: attn_pool has a position embedding, so it needs every patch in its place"
        )
    vit = cast(VisionTransformer, model)
    for layer, block in enumerate(vit.blocks):
        _check_layer(f"blocks.{layer}", block, "Block", BLOCK_CHILDREN)
        attn = block.get_submodule("attn")
        _check_layer(f"blocks.{layer}.attn", attn, "Attention", ATTENTION_CHILDREN)
    return vit


def _check_layer(where: str, layer: nn.Module, kind: str, children: frozenset[str]) -> None:
    """Accept one kind of layer, with exactly the children that `blocks.py` runs."""
    if type(layer).__name__ != kind:
        raise UnsupportedModelError(
            f"{where}: cannot reproduce {type(layer).__name__}, only timm's {kind}"
        )
    if "forward" in vars(layer):
        raise UnsupportedModelError(f"{where}: its forward was replaced and would not be called")
    found = {name for name, _ in layer.named_children()}
    if unknown := sorted(found - children):
        raise UnsupportedModelError(f"{where}: cannot reproduce {', '.join(unknown)}")
    if missing := sorted(children - found):
        raise UnsupportedModelError(f"{where}: {', '.join(missing)} is missing")
    if own := sorted(name for name, _ in layer.named_parameters(recurse=False)):
        raise UnsupportedModelError(f"{where}: cannot reproduce the parameters {', '.join(own)}")
