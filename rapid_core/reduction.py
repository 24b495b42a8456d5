"""Carry out an index plan on tokens. No other file moves tokens."""

import torch
from torch import Tensor

from rapid_core.plans import CellPlan, FusePlan, MergePlan, Plan, PrunePlan
from rapid_core.precision import without_autocast
from rapid_core.tokens import Tokens, ones_like_size


def apply_plan(tokens: Tokens, plan: Plan) -> Tokens:
    """Carry out a plan on N tokens: N - R tokens, in the plan's order."""
    with without_autocast(tokens.x.device):
        if isinstance(plan, PrunePlan):
            return prune(tokens, plan)
        if isinstance(plan, FusePlan):
            return fuse(tokens, plan)
        if isinstance(plan, CellPlan):
            return replace_cells(tokens, plan)
        return merge(tokens, plan)


def prune(tokens: Tokens, plan: PrunePlan) -> Tokens:
    """Keep the planned tokens; the sizes of the others are lost."""
    size = None if tokens.size is None else take(tokens.size, plan.keep_idx)
    memory = None if tokens.memory is None else take(tokens.memory, plan.keep_idx)
    return Tokens(take(tokens.x, plan.keep_idx), size, memory)


def fuse(tokens: Tokens, plan: FusePlan) -> Tokens:
    """Keep the planned tokens and add one: the weighted sum of the others.

    The new token has size 1 and the memory of the first of the others.
    """
    kept = prune(tokens, PrunePlan(plan.keep_idx))
    fused = plan.weight[:, None].to(tokens.x.dtype) @ take(tokens.x, plan.src_idx)
    size, memory = kept.size, kept.memory
    if size is not None:
        size = torch.cat([size, torch.ones_like(size[:, :1])], dim=1)
    if memory is not None and tokens.memory is not None:
        memory = torch.cat([memory, take(tokens.memory, plan.src_idx[:, :1])], dim=1)
    return Tokens(torch.cat([kept.x, fused], dim=1), size, memory)


def replace_cells(tokens: Tokens, plan: CellPlan) -> Tokens:
    """Keep the planned tokens; those of the cells get their new values, and the size 4.

    Before the first block only, where every token stands for one patch.
    """
    assert tokens.size is None, "cells are of single patches"
    kept = prune(tokens, PrunePlan(plan.keep_idx))
    place = plan.dst_idx[:, : plan.cell_idx.shape[1], None]
    cells = take(plan.x, plan.cell_idx).to(kept.x.dtype)
    size = ones_like_size(kept.x)
    return Tokens(
        kept.x.scatter(1, place.expand(-1, -1, kept.x.shape[2]), cells),
        size.scatter(1, place, torch.full_like(size[:, :1], 4.0).expand_as(place)),
        kept.memory,
    )


def merge(tokens: Tokens, plan: MergePlan) -> Tokens:
    """Merge each source into its destination: the sizes add up, the destination keeps its memory.

    Sources: Bolya et al. 2023 (Token Merging), section 3, for the size-weighted mean; ToFu (Kim et
    al. 2024, arXiv 2312.01026), section 3.2, for MLERP.
    """
    old_size = ones_like_size(tokens.x) if tokens.size is None else tokens.size
    kept = prune(tokens, PrunePlan(plan.keep_idx))
    src_x, src_size = take(tokens.x, plan.src_idx), take(old_size, plan.src_idx)
    # A product with a 0/1 matrix needs no atomic adds, so the result is the same every time.
    moves_to = _one_hot(plan.dst_idx, plan.keep_idx.shape[1], old_size.dtype)
    kept_size = take(old_size, plan.keep_idx)
    size = torch.baddbmm(kept_size, moves_to, src_size)
    if plan.rule == "mlerp":
        num_members = 1 + moves_to.sum(dim=-1, keepdim=True)
        own_share, src_share = 1 / num_members, 1 / take(num_members, plan.dst_idx)
    else:
        own_share, src_share = kept_size / size, src_size / take(size, plan.dst_idx)
    # Each token is multiplied by its share before the sum: with shares of at most 1, a sum of large
    # tokens does not overflow float16. A destination without sources has share 1 and stays the
    # same, bit for bit.
    x = torch.baddbmm(
        kept.x * own_share.to(kept.x.dtype),
        moves_to.to(kept.x.dtype),
        src_x * src_share.to(kept.x.dtype),
    )
    if plan.rule == "mlerp":
        x = torch.where(num_members > 1, _rescale(x, kept.x, src_x, moves_to), x)
    return Tokens(x, size, kept.memory)


def _rescale(mean: Tensor, x: Tensor, src_x: Tensor, moves_to: Tensor) -> Tensor:
    """Give each mean the largest norm of the tokens that it is a mean of."""
    largest = torch.maximum(_norm(x), (moves_to * _norm(src_x).mT).amax(dim=-1, keepdim=True))
    tiny = torch.finfo(largest.dtype).tiny  # a mean of zero stays zero
    return mean * (largest / _norm(mean).clamp(min=tiny)).to(mean.dtype)


def _norm(x: Tensor) -> Tensor:
    """Length of each token: (B, N, C) -> (B, N, 1), float32 or wider."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.to(dtype).square().sum(dim=-1, keepdim=True).sqrt()


def take(per_token: Tensor, index: Tensor) -> Tensor:
    """Rows of each image: (B, N, C) and (B, M) -> (B, M, C)."""
    B, N, C = per_token.shape
    # index_select copies whole rows; on a CPU, gather would look up every number by itself.
    row = index + N * torch.arange(B, device=index.device)[:, None]
    return per_token.reshape(B * N, C).index_select(0, row.flatten()).view(B, -1, C)


def _one_hot(dst_idx: Tensor, num_kept: int, dtype: torch.dtype) -> Tensor:
    """(B, num_kept, R), 1 where kept token m receives source r, else 0."""
    position = torch.arange(num_kept, device=dst_idx.device)
    return (position[:, None] == dst_idx[:, None, :]).to(dtype)
