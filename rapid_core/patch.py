"""Turn a timm Vision Transformer into one that removes tokens in its blocks."""

from types import MethodType
from typing import cast

from torch import Tensor, nn

from rapid_core.attention import size_bias
from rapid_core.blocks import ReducedBlocks
from rapid_core.contract import ReductionPlan, TokenLayout
from rapid_core.cost import closest_from_below, share_of_macs
from rapid_core.errors import InvalidScheduleError
from rapid_core.inputs.half_size import at_half_size, prepare_half_size
from rapid_core.inputs.resize import InputSize, at_own_size, resized
from rapid_core.inputs.sharing import shallow_copy
from rapid_core.matching import fused
from rapid_core.methods import create_method, require_one_amount
from rapid_core.schedule import PAPER_PRUNE_BLOCKS, Reductions, named_schedule
from rapid_core.tokens import Tokens
from rapid_core.vit import VisionTransformer, check_model

WEIGHTED_POOLINGS = ("avg", "avgmax", "map")
"""Poolings over patches, in which a merged token counts as often as its size."""


def patch(  # noqa: PLR0913 - all but r are named options
    model: nn.Module,
    r: Reductions | None = None,
    *,
    macs_ratio: float | None = None,
    schedule: str = "constant",
    method: str = "rapid",
    input_size: InputSize | None = None,
    prefix_only: bool = False,
    fused_kernels: bool = True,
    **options: float | str | None,
) -> nn.Module:
    """Give a model a token-reduction schedule.

    The given model stays as it was. The result is a shallow copy: it shares every weight, has the
    same state-dict keys, and may be called from several threads at once. Moving either of the two
    models to another device or dtype moves both.

    Args:
        model: a timm `VisionTransformer` or `VisionTransformerDistilled`.
        r: tokens to remove in every block; or a list with one number per block; or ToMe's pair
            (r, inflection). >= 0, capped at half of the patch tokens left. 0 is the model itself,
            bit for bit (at its own size, without flat cells).
        macs_ratio: instead of r: the share of the model's own multiply-adds to stay below, in
            (0, 1]. Every block removes the smallest r that stays below; then as many blocks as
            possible, the last first, remove one token less.
        schedule: what an integer r means: "constant"; "decreasing", from 2 r to 0; or "paper",
            RAPID's own: 4 blocks that prune, 8 that merge, nothing after.
        method: a name in `METHODS`; docs/methods.md describes them.
        input_size: side of the images that the result takes, in pixels, or (height, width); a
            multiple of the patch size. The position embedding is resampled to that grid of patches,
            the other weights are used as they are. A `macs_ratio` stays a share of the model's
            multiply-adds at its own size. None: the model's own size.
        prefix_only: let the last block of a CLS-pooled model compute the prefix tokens alone, which
            the head reads: the same logits within rounding, for less work. `forward_features` then
            returns the prefix tokens alone.
        fused_kernels: let methods that match tokens do so in Triton kernels, on a GPU where these
            work: the same choices within rounding. A GPU is tried here, or in the first forward if
            the model is moved to it later. False: PyTorch always matches the tokens.
        **options: the method's own; for "rapid": `similarity_threshold` = 0.7, `num_prune_blocks` =
            first third, `importance_weight` = 50.0, `importance_top` = 0.2, `clamp_importance` =
            False, `match_on` = "key", `flat_cells` = 0.

    Returns:
        A module from images (B, 3, S, S) to logits (B, K); with `input_size`, of that size only.

    Raises:
        UnsupportedModelError: the model has a part whose result cannot be reproduced, or, with
            `input_size` or `flat_cells`, one that is made for one size.
        InvalidScheduleError: `r`, `macs_ratio`, `schedule`, `method`, `input_size` or an option is
            not possible for this model.
    """
    own = at_own_size(check_model(model))
    vit = own if input_size is None else resized(own, input_size)
    layout = _layout(vit, is_grid_fixed=input_size is not None, fused_kernels=fused_kernels)
    if schedule == "paper" and method == "rapid":
        options = {"num_prune_blocks": min(PAPER_PRUNE_BLOCKS, layout.num_blocks), **options}
    chosen = create_method(method, options)
    if prefix_only and vit.global_pool != "token":
        raise InvalidScheduleError(
            f"prefix_only needs a model that pools the CLS token, not global_pool = "
            f"{vit.global_pool!r}"
        )
    require_one_amount(chosen, r, macs_ratio)
    if macs_ratio is not None:
        if schedule != "constant":
            raise InvalidScheduleError(f"schedule = {schedule!r} needs r, not macs_ratio")
        budget = share_of_macs(own, macs_ratio)
        r = closest_from_below(vit, chosen, layout, budget, prefix_only=prefix_only)
    plan = chosen.plan(named_schedule(schedule, 0 if r is None else r, layout.num_blocks), layout)
    return _with_plan(vit, plan, layout, prefix_only=prefix_only)


def _layout(vit: VisionTransformer, *, is_grid_fixed: bool, fused_kernels: bool) -> TokenLayout:
    """What a method is told about a model. Tries the GPU now, not in a forward."""
    if fused_kernels:
        fused.is_available(next(cast(nn.Module, vit).parameters()).device)
    return TokenLayout(
        num_blocks=len(vit.blocks),
        num_prefix_tokens=vit.num_prefix_tokens,
        has_class_token=vit.has_class_token,
        grid_size=vit.patch_embed.grid_size,
        is_grid_fixed=is_grid_fixed or not vit.dynamic_img_size,
        fused_kernels=fused_kernels,
    )


def _with_plan(
    vit: VisionTransformer, plan: ReductionPlan, layout: TokenLayout, *, prefix_only: bool
) -> nn.Module:
    """A shallow copy of a model that reduces its tokens by a plan."""
    reduced = shallow_copy(cast(nn.Module, vit))
    reduced.blocks = ReducedBlocks(
        vit.blocks,
        plan,
        num_tokens=layout.num_tokens,
        num_prefix_tokens=layout.num_prefix_tokens,
        prefix_only=prefix_only,
    )
    reduced.blocks.training = reduced.training
    reduced.forward = MethodType(_forward, reduced)
    if plan.looks_at_half_size:
        prepare_half_size(cast(VisionTransformer, reduced))
        vars(reduced)["forward_features"] = MethodType(_forward_features, reduced)
    return reduced


def _forward(model: VisionTransformer, images: Tensor) -> Tensor:
    """A timm VisionTransformer's forward, with its pooling over patches weighted by size.

    A token that stands for s patches counts s times in the pooling. The sizes are known only inside
    a forward, so the model's own forward cannot do this. Attention masks and gradient checkpointing
    are not supported: with them, timm would run the blocks without the reduction.
    """
    tokens = _run_blocks(model, images)
    x = model.norm(tokens.x)
    if tokens.size is None or model.global_pool not in WEIGHTED_POOLINGS:
        return model.forward_head(x)
    pooled = _pool(model, Tokens(x, tokens.size))
    logits: Tensor = model.head(model.head_drop(model.fc_norm(pooled)))
    return logits


def _forward_features(model: VisionTransformer, images: Tensor) -> Tensor:
    """The tokens left, (B, M, C), where timm's own would not show the blocks the image."""
    x: Tensor = model.norm(_run_blocks(model, images).x)
    return x


def _run_blocks(model: VisionTransformer, images: Tensor) -> Tokens:
    """Embed images (B, 3, S, S) and run the blocks on them."""
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
    blocks = cast(ReducedBlocks, model.blocks)
    if not blocks.reduction.looks_at_half_size:
        return blocks.run(x)
    return blocks.run(x, half_size=at_half_size(model, images))


def _pool(model: VisionTransformer, tokens: Tokens) -> Tensor:
    """Pooled tokens (B, C); each token counts as often as its size."""
    assert tokens.size is not None
    x, size = tokens.x, tokens.size
    if not model.pool_include_prefix:
        x, size = x[:, model.num_prefix_tokens :], size[:, model.num_prefix_tokens :]
    if model.attn_pool is not None:
        return model.attn_pool(x, attn_mask=size_bias(size).to(x.dtype))
    mean = (x * (size / size.sum(dim=1, keepdim=True)).to(x.dtype)).sum(dim=1)
    return 0.5 * (x.amax(dim=1) + mean) if model.global_pool == "avgmax" else mean
