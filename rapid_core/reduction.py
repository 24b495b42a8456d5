"""A plan, applied: fewer tokens. The only file that moves tokens."""

import torch
from torch import Tensor

from rapid_core.precision import without_autocast
from rapid_core.selection import MergePlan, Plan, PrunePlan
from rapid_core.tokens import Tokens, ones_like_size


def apply_plan(tokens: Tokens, plan: Plan) -> Tokens:
    """Carry out a plan on N tokens: N - R tokens, in the plan's order."""
    if isinstance(plan, PrunePlan):
        return prune(tokens, plan)
    return merge(tokens, plan)


def prune(tokens: Tokens, plan: PrunePlan) -> Tokens:
    """Keep the planned tokens; what the others stood for is lost."""
    size = None if tokens.size is None else take(tokens.size, plan.keep_idx)
    return Tokens(take(tokens.x, plan.keep_idx), size)


def merge(tokens: Tokens, plan: MergePlan) -> Tokens:
    """Merge each source into its destination: size-weighted mean, sizes add up.

    Source: Bolya et al. 2023 (Token Merging), section 3.
    """
    with without_autocast(tokens.x.device):
        old_size = ones_like_size(tokens.x) if tokens.size is None else tokens.size
        src_size = take(old_size, plan.src_idx)
        # A product with a 0/1 matrix needs no atomic adds: the same result every time.
        moves_to = _one_hot(plan.dst_idx, plan.keep_idx.shape[1], old_size.dtype)
        size = torch.baddbmm(take(old_size, plan.keep_idx), moves_to, src_size)
        # The mean (s_d x_d + Σ s_i x_i) / s, where s = s_d + Σ s_i, is x_d + Σ s_i / s (x_i - x_d).
        # So it leaves the other tokens alone, and with shares <= 1 it cannot overflow float16.
        kept = take(tokens.x, plan.keep_idx)
        difference = take(tokens.x, plan.src_idx) - take(kept, plan.dst_idx)
        share = (src_size / take(size, plan.dst_idx)).to(kept.dtype)
        return Tokens(torch.baddbmm(kept, moves_to.to(kept.dtype), share * difference), size)


def take(per_token: Tensor, index: Tensor) -> Tensor:
    """Rows of each image: (B, N, C) and (B, M) -> (B, M, C)."""
    return per_token.gather(1, index[..., None].expand(-1, -1, per_token.shape[-1]))


def _one_hot(dst_idx: Tensor, num_kept: int, dtype: torch.dtype) -> Tensor:
    """(B, num_kept, R), 1 where kept token m receives source r, else 0."""
    position = torch.arange(num_kept, device=dst_idx.device)
    return (position[:, None] == dst_idx[:, None, :]).to(dtype)
