"""What a model costs: multiply-adds of one image, from the shapes of its own layers."""

from itertools import pairwise
from typing import cast

from torch import nn

from rapid_core.errors import UnsupportedModelError
from rapid_core.patch import ReducedBlocks
from rapid_core.schedule import BlockCost, token_counts
from rapid_core.vit import Block, check_model


def macs(model: nn.Module) -> int:
    """Multiply-adds of one image: patch embedding, blocks and head.

    A block costs ``4aC² + 2a²C`` for attention on the a tokens that enter it and ``8bC²`` for the
    MLP on the b tokens that its reduction leaves (for a hidden width of 4C). Additions of biases,
    norms, and the scores of the reduction (well under 1 %) are not counted, as is usual.

    Args:
        model: a timm `VisionTransformer`, patched or not.

    Raises:
        UnsupportedModelError: its parts are not known, so neither is their cost.
    """
    vit = check_model(model)
    embed = vit.patch_embed
    projection, *others = [
        layer
        for layer in cast(nn.Module, embed).modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    if others or not isinstance(projection, nn.Conv2d):
        raise UnsupportedModelError(
            f"patch_embed: cannot count a {type(embed).__name__} of more than one convolution"
        )
    num_tokens = embed.num_patches + vit.num_prefix_tokens
    counts = token_counts(
        num_tokens=num_tokens,
        num_prefix_tokens=vit.num_prefix_tokens,
        num_blocks=len(vit.blocks),
        r=vit.blocks.schedule if isinstance(vit.blocks, ReducedBlocks) else 0,
    )
    total = embed.num_patches * projection.weight.numel()
    for block, (entering, left) in zip(vit.blocks, pairwise([num_tokens, *counts]), strict=True):
        total += _block_cost(cast(Block, block)).macs(entering, left)
    return total + _linear_weights(vit.head) + _linear_weights(getattr(vit, "head_dist", None))


def _block_cost(block: Block) -> BlockCost:
    return BlockCost(
        attention_per_token=_linear_weights(cast(nn.Module, block.attn)),
        attention_per_pair=2 * block.attn.num_heads * block.attn.head_dim,
        mlp_per_token=_linear_weights(block.mlp),
    )


def _linear_weights(module: nn.Module | None) -> int:
    """Number of weights in the linear layers of a module: its multiply-adds for one token."""
    if module is None:
        return 0
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))
