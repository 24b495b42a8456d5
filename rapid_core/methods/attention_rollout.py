"""Attention rollout: drop the patches that the CLS token has looked at least, so far.

It needs the whole attention matrix of every block: a control for quality, not for speed.

Source: Abnar and Zuidema 2020 (arXiv 2005.00928).
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rapid_core.attention import mean_attention
from rapid_core.contract import Evidence, Planner, ReductionPlan, TokenLayout
from rapid_core.matching import selection
from rapid_core.plans import PrunePlan
from rapid_core.schedule import Reductions, parse_r
from rapid_core.tokens import positions


@dataclass(frozen=True)
class AttentionRollout:
    """Drop the patches that the CLS token has looked at least, through all blocks so far."""

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        """The same decision in every block; every block remembers its rollout."""
        drop: Planner = partial(drop_rolled_out, layout=layout)
        schedule, planners = parse_r(r, layout.num_blocks), [drop] * layout.num_blocks
        return ReductionPlan.in_blocks(schedule, planners, remember=remember_rollout)


def drop_rolled_out(seen: Evidence, num_removed: int, *, layout: TokenLayout) -> PrunePlan:
    """Drop the patches with the lowest rollout from the CLS token, or the lowest on average."""
    assert seen.tokens.memory is not None
    rows, position = seen.tokens.memory[..., :-1], seen.tokens.memory[..., -1].long()
    looking = rows[:, 0] if layout.has_class_token else rows.mean(dim=1)
    P = layout.num_prefix_tokens
    importance = looking.gather(-1, position)[:, P:]
    return selection.plan_drop(-importance, num_removed=num_removed, num_prefix_tokens=P)


def remember_rollout(seen: Evidence) -> Tensor:
    """Rollout rows over the tokens of the first block, and each token's position there.

    (B, N, N0 + 1); positions are at most 2^24, so float32 holds them exactly.
    """
    attention = mean_attention(seen.attention)
    if seen.tokens.memory is None:
        rows, position = None, positions(attention)[..., None].to(attention.dtype)
    else:
        rows, position = seen.tokens.memory[..., :-1], seen.tokens.memory[..., -1:]
    return torch.cat([rollout(attention, rows), position], dim=-1)


def rollout(attention: Tensor, previous: Tensor | None) -> Tensor:
    """Attention followed back through the blocks to the input.

    ``R_l = (Ā_l + I) / 2 · R_(l-1)``; both terms have rows that sum to 1, and so has R.

    Args:
        attention: (B, N, N), attention of this block, averaged over heads.
        previous: (B, N, M), the rollout before it; None in the first block: the identity.

    Returns:
        (B, N, M).

    Source: Abnar and Zuidema 2020 (arXiv 2005.00928), section 3, attention rollout.
    """
    identity = torch.eye(attention.shape[1], dtype=attention.dtype, device=attention.device)
    if previous is None:
        return (attention + identity) / 2
    return (attention @ previous + previous) / 2
