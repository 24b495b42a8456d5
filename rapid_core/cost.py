"""Multiply-adds of one image, counted from the shapes of the model's layers."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import cast

from torch import nn

from rapid_core.blocks import ReducedBlocks
from rapid_core.contract import Method, ReductionPlan, TokenLayout
from rapid_core.errors import InvalidScheduleError, UnsupportedModelError
from rapid_core.schedule import BlockCost, capped, removable
from rapid_core.vit import Block, VisionTransformer, check_model


def macs(model: nn.Module) -> int:
    """Multiply-adds of one image: patch embedding, blocks and head.

    A block costs ``4aC² + 2a²C`` for attention on the a tokens that enter it and ``8bC²`` for the
    MLP on the b tokens that its reduction leaves (for a hidden width of 4C). Additions of biases,
    norms, and the scores of the reduction (well under 1 %) are not counted.

    Args:
        model: a timm `VisionTransformer`, patched or not.

    Raises:
        UnsupportedModelError: it has parts whose cost is not known.
    """
    vit = check_model(model)
    blocks = vit.blocks
    if not isinstance(blocks, ReducedBlocks):
        return schedule_macs(vit, (0,) * len(blocks), prefix_only=False)
    return _plan_macs(vit, blocks.reduction, prefix_only=blocks.prefix_only)


def share_of_macs(vit: VisionTransformer, macs_ratio: float) -> float:
    """A share of the multiply-adds of a model that removes nothing.

    Raises:
        InvalidScheduleError: the share is not in (0, 1].
    """
    if not isinstance(macs_ratio, int | float) or not 0 < macs_ratio <= 1:
        raise InvalidScheduleError(f"macs_ratio = {macs_ratio!r} must lie in (0, 1]")
    return macs_ratio * schedule_macs(vit, (0,) * len(vit.blocks), prefix_only=False)


def closest_from_below(
    vit: VisionTransformer,
    method: Method,
    layout: TokenLayout,
    budget: float,
    *,
    prefix_only: bool,
) -> int | tuple[int, ...]:
    """The r whose multiply-adds come closest to a budget, from below.

    Methods that read a list as one number per block get a list of r and r - 1, which comes closer.

    Args:
        vit: the model, for the size of its images.
        method: decides how many tokens go where.
        layout: of the model.
        budget: multiply-adds of one image, see `share_of_macs`.
        prefix_only: as for `patch`.

    Raises:
        InvalidScheduleError: no schedule gets below the budget.
    """

    def fits(r: int | tuple[int, ...]) -> bool:
        return _plan_macs(vit, method.plan(r, layout), prefix_only=prefix_only) <= budget

    most = removable(layout.num_tokens, layout.num_prefix_tokens)
    r = next((r for r in range(most + 1) if fits(r)), None)
    if r is None:
        raise InvalidScheduleError(
            f"macs_ratio cannot be reached: even r = {most} costs more than {budget:.4g} "
            "multiply-adds"
        )
    schedule = (r,) * layout.num_blocks
    if method.plan(schedule, layout).schedule != method.plan(r, layout).schedule:
        return r  # this method reads a list in a different way from a single number
    return refine(schedule, fits)


def refine(schedule: tuple[int, ...], fits: Callable[[tuple[int, ...]], bool]) -> tuple[int, ...]:
    """Remove one token less in as many blocks as fit, the last first: a token costs least there."""
    refined = list(schedule)
    for block in reversed(range(len(refined))):
        if refined[block] > 0:
            refined[block] -= 1
            if not fits(tuple(refined)):
                refined[block] += 1
    return tuple(refined)


def schedule_macs(vit: VisionTransformer, schedule: tuple[int, ...], *, prefix_only: bool) -> int:
    """Multiply-adds of one image with a number of tokens to remove in each block."""
    return _macs(vit, (0, *schedule), prefix_only=prefix_only)


def _plan_macs(vit: VisionTransformer, plan: ReductionPlan, *, prefix_only: bool) -> int:
    """Multiply-adds of one image with a method's plan."""
    total = _macs(vit, plan.num_removed, prefix_only=prefix_only)
    if plan.looks_at_half_size:
        total += vit.patch_embed.num_patches // 4 * _patch_weights(vit)
    return total


def _macs(vit: VisionTransformer, wanted: Sequence[int], *, prefix_only: bool) -> int:
    """Multiply-adds of one image with a number of tokens to remove at each place."""
    num_tokens = vit.patch_embed.num_patches + vit.num_prefix_tokens
    removed = capped(wanted, num_tokens, vit.num_prefix_tokens)
    counts = [num_tokens - gone for gone in accumulate(removed)]
    total = vit.patch_embed.num_patches * _patch_weights(vit)
    steps = list(pairwise(counts))
    for number, (block, (entering, left)) in enumerate(zip(vit.blocks, steps, strict=True)):
        if prefix_only and number == len(steps) - 1:
            queries = left = vit.num_prefix_tokens
        else:
            queries = entering
        total += _block_cost(cast(Block, block)).macs(entering, queries, left)
    return total + _head_macs(vit, counts[-1])


def _patch_weights(vit: VisionTransformer) -> int:
    """Multiply-adds of embedding one patch."""
    embed = cast(nn.Module, vit.patch_embed)
    layers = [layer for layer in embed.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    if len(layers) != 1:
        raise UnsupportedModelError(
            f"patch_embed: cannot count a {type(embed).__name__} of more than one layer"
        )
    return layers[0].weight.numel()


def _block_cost(block: Block) -> BlockCost:
    per_token = _linear_weights(cast(nn.Module, block.attn))
    per_key = 2 * block.attn.qkv.weight.numel() // 3
    return BlockCost(
        per_key=per_key,
        per_query=per_token - per_key,
        per_pair=2 * block.attn.num_heads * block.attn.head_dim,
        mlp_per_token=_linear_weights(block.mlp),
    )


def _head_macs(vit: VisionTransformer, num_tokens: int) -> int:
    """Multiply-adds of the classifiers, and of attention pooling where the model has it."""
    classifiers = _linear_weights(vit.head) + _linear_weights(getattr(vit, "head_dist", None))
    pool = vit.attn_pool
    if pool is None:
        return classifiers
    num_pooled = num_tokens if vit.pool_include_prefix else num_tokens - vit.num_prefix_tokens
    per_key = _linear_weights(pool.kv)
    per_query = _linear_weights(cast(nn.Module, pool)) - per_key
    pairs = 2 * pool.num_heads * pool.head_dim * num_pooled
    return classifiers + per_key * num_pooled + pool.latent_len * (per_query + pairs)


def _linear_weights(module: nn.Module | None) -> int:
    """Number of weights in the linear layers of a module: its multiply-adds for one token."""
    if module is None:
        return 0
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))
