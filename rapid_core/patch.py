"""Turn a timm Vision Transformer into one that removes tokens as it goes."""

import copy
from collections.abc import Sequence
from types import MethodType
from typing import cast

from torch import Tensor, nn

from rapid_core.block import run_block
from rapid_core.methods import Planner, TokenLayout, create_method
from rapid_core.schedule import parse_r, removed_per_block
from rapid_core.tokens import Tokens
from rapid_core.vit import Block, VisionTransformer, check_model


class ReducedBlocks(nn.Sequential):
    """A model's own blocks, run with a schedule. It holds no state of any call."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        *,
        schedule: tuple[int, ...],
        planners: Sequence[Planner],
        num_prefix_tokens: int,
    ) -> None:
        """Put a schedule and its planners, one entry per block, beside the blocks."""
        super().__init__(*blocks)
        self.schedule = schedule
        self.planners = tuple(planners)
        self.num_prefix_tokens = num_prefix_tokens

    def run(self, x: Tensor) -> Tokens:
        """Run all blocks on embedded tokens (B, N, C)."""
        removed = removed_per_block(
            num_tokens=x.shape[1],
            num_prefix_tokens=self.num_prefix_tokens,
            schedule=self.schedule,
        )
        tokens = Tokens(x)
        for block, num_removed, planner in zip(self, removed, self.planners, strict=True):
            tokens = run_block(cast(Block, block), tokens, num_removed, planner)
        return tokens

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name nn.Sequential gives it
        """Run all blocks on embedded tokens (B, N, C); returns what is left, (B, M, C)."""
        return self.run(input).x


def patch(
    model: nn.Module, r: int | Sequence[int], *, method: str = "rapid", **options: float | None
) -> nn.Module:
    """Give a model a token-reduction schedule.

    The given model stays as it was. The result is a shallow copy: it shares every weight, has the
    same state-dict keys and may be called from several threads at once. Moving one of the two to
    another device or dtype moves both.

    Args:
        model: a timm `VisionTransformer` or `VisionTransformerDistilled`.
        r: tokens to remove in every block, or a list with one number per block; >= 0, capped at
            half of the patch tokens left. 0 is the model itself, bit for bit.
        method: "rapid" (arXiv 2606.08156) or "tome" (arXiv 2210.09461).
        **options: the method's own; for "rapid" (see `Rapid`): `similarity_threshold` = 0.7,
            `num_prune_blocks` = first third, `importance_weight` = 50.0, `importance_top` = 0.2,
            `clamp_importance` = False. "tome" has none.

    Returns:
        A module from images (B, 3, S, S) to logits (B, K).

    Raises:
        UnsupportedModelError: the model has a part whose result cannot be reproduced.
        InvalidScheduleError: `r`, `method` or an option is not possible for this model.
    """
    vit = check_model(model)
    layout = TokenLayout(len(vit.blocks), vit.num_prefix_tokens, vit.has_class_token)
    reduced = _shallow_copy(model)
    reduced.blocks = ReducedBlocks(
        list(vit.blocks),
        schedule=parse_r(r, layout.num_blocks),
        planners=create_method(method, options).planners(layout),
        num_prefix_tokens=layout.num_prefix_tokens,
    )
    if vit.global_pool in ("avg", "avgmax"):
        # On the instance: the sizes that the average needs are known only inside a forward.
        reduced.forward = MethodType(_forward_size_weighted, reduced)
    return reduced


def _shallow_copy(model: nn.Module) -> nn.Module:
    """A module with its own dictionaries over the same children, parameters and buffers."""
    twin = copy.copy(model)
    for name, value in vars(model).items():
        if isinstance(value, dict | set):
            vars(twin)[name] = copy.copy(value)
    return twin


def _forward_size_weighted(model: VisionTransformer, images: Tensor) -> Tensor:
    """A timm VisionTransformer's forward, with its average over patches weighted by size.

    A token that stands for s patches counts s times, as its s patches would have.
    """
    x = model.patch_drop(model._pos_embed(model.patch_embed(images)))
    tokens = cast(ReducedBlocks, model.blocks).run(model.norm_pre(x))
    x = model.norm(tokens.x)
    if tokens.size is None:
        return model.forward_head(x)
    size = tokens.size
    if not model.pool_include_prefix:
        x, size = x[:, model.num_prefix_tokens :], size[:, model.num_prefix_tokens :]
    pooled = (x * (size / size.sum(dim=1, keepdim=True)).to(x.dtype)).sum(dim=1)
    if model.global_pool == "avgmax":
        pooled = 0.5 * (x.amax(dim=1) + pooled)
    return cast(Tensor, model.head(model.head_drop(model.fc_norm(pooled))))
