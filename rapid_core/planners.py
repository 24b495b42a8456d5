"""What a block decides: from its attention and tokens to the plan of its reduction.

One function per decision; `methods.py` says which block of which method takes which.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rapid_core import scoring, selection
from rapid_core.attention import (
    AttentionPass,
    Evidence,
    attention_received,
    cls_attention,
    mean_attention,
)
from rapid_core.selection import FusePlan, MergePlan, Plan, PrunePlan

Planner = Callable[[Evidence, int], Plan]
"""What one block does: (what may be looked at, number of tokens to remove >= 1) -> plan."""

Remember = Callable[[Evidence], Tensor]
"""What to remember of each token, (B, N, M), before the block's plan is made."""

InputPlanner = Callable[[Tensor, int], PrunePlan]
"""What happens before the first block: (tokens (B, N, C), number to remove) -> plan."""


class TokenLayout(NamedTuple):
    """What a method needs to know of a model."""

    num_blocks: int
    num_prefix_tokens: int
    has_class_token: bool
    grid_size: tuple[int, int]
    """rows and columns of patches."""
    is_grid_fixed: bool = True
    """False for models that take images of any size."""

    @property
    def num_tokens(self) -> int:
        """Tokens that enter the model, prefix tokens included."""
        return self.num_prefix_tokens + math.prod(self.grid_size)


def prune_redundant(
    seen: Evidence, num_removed: int, *, num_prefix_tokens: int, threshold: float
) -> PrunePlan:
    """RAPID, stage R: drop the sources that the destinations repeat most (Eq. 1)."""
    similarities = scoring.similarity(seen.attention.keys, num_prefix_tokens)
    return selection.plan_prune(
        scoring.redundancy(similarities, threshold),
        similarities.mean(dim=-1),
        num_removed=num_removed,
        num_tokens=seen.tokens.x.shape[1],
        num_prefix_tokens=num_prefix_tokens,
    )


def merge_unimportant(
    seen: Evidence,
    num_removed: int,
    *,
    layout: TokenLayout,
    weight: float,
    clamp_to_top: float | None,
) -> MergePlan:
    """RAPID, stage I: merge the sources that are similar and unimportant (Eq. 2 to 4).

    Args:
        seen: the block's evidence.
        num_removed: R.
        layout: of the model.
        weight: λ.
        clamp_to_top: None for Eq. 2 as printed; a share for λ·max(A - τ_A, 0) with that τ_A.
    """
    best_similarity, destination = _best_match(seen, layout.num_prefix_tokens)
    importance = _importance(seen.attention, layout)
    if clamp_to_top is not None:
        patches = importance[:, layout.num_prefix_tokens :]
        cutoff = scoring.importance_cutoff(patches, clamp_to_top)
        importance = (importance - cutoff).clamp(min=0)
    return selection.plan_merge(
        scoring.merge_score(
            best_similarity,
            scoring.sources(importance, layout.num_prefix_tokens),
            weight,
        ),
        destination,
        num_removed=num_removed,
        num_tokens=seen.tokens.x.shape[1],
        num_prefix_tokens=layout.num_prefix_tokens,
    )


def merge_similar(seen: Evidence, num_removed: int, *, num_prefix_tokens: int) -> MergePlan:
    """ToMe: merge the sources that are most similar to their best destination."""
    best_similarity, destination = _best_match(seen, num_prefix_tokens)
    return selection.plan_merge(
        best_similarity,
        destination,
        num_removed=num_removed,
        num_tokens=seen.tokens.x.shape[1],
        num_prefix_tokens=num_prefix_tokens,
    )


def drop_similar(seen: Evidence, num_removed: int, *, num_prefix_tokens: int) -> PrunePlan:
    """ToFu, early blocks: what ToMe would merge is dropped."""
    return PrunePlan(merge_similar(seen, num_removed, num_prefix_tokens=num_prefix_tokens).keep_idx)


def merge_by_mlerp(seen: Evidence, num_removed: int, *, num_prefix_tokens: int) -> MergePlan:
    """ToFu, later blocks: what ToMe would merge is merged by MLERP."""
    plan = merge_similar(seen, num_removed, num_prefix_tokens=num_prefix_tokens)
    return plan._replace(rule="mlerp")


def drop_redundant_patches(
    seen: Evidence, num_removed: int, *, layout: TokenLayout, diversity: float
) -> PrunePlan:
    """Patch Similarity, progressive: drop the tokens that resemble all the others most."""
    positions = None if seen.tokens.memory is None else seen.tokens.memory[..., 0].long()
    return _drop_redundant(seen.tokens.x, positions, num_removed, layout, diversity)


def drop_redundant_inputs(
    x: Tensor, num_removed: int, *, layout: TokenLayout, diversity: float
) -> PrunePlan:
    """Patch Similarity, pre-transformer: the same once, on the embedded patches (B, N, C)."""
    return _drop_redundant(x, _first_positions(x), num_removed, layout, diversity)


def keep_attended(
    seen: Evidence, num_removed: int, *, layout: TokenLayout, fuse: bool
) -> PrunePlan | FusePlan:
    """EViT: drop, or fuse, the patches that the CLS token attends to least."""
    P = layout.num_prefix_tokens
    importance = _importance(seen.attention, layout)[:, P:]
    if fuse:
        return selection.plan_fuse(
            -importance, importance, num_removed=num_removed, num_prefix_tokens=P
        )
    return selection.plan_drop(-importance, num_removed=num_removed, num_prefix_tokens=P)


def drop_rolled_out(seen: Evidence, num_removed: int, *, layout: TokenLayout) -> PrunePlan:
    """Attention rollout: drop the patches that the CLS token has looked at least so far."""
    assert seen.tokens.memory is not None
    rows, position = seen.tokens.memory[..., :-1], seen.tokens.memory[..., -1].long()
    looking = rows[:, 0] if layout.has_class_token else rows.mean(dim=1)
    P = layout.num_prefix_tokens
    importance = looking.gather(-1, position)[:, P:]
    return selection.plan_drop(-importance, num_removed=num_removed, num_prefix_tokens=P)


def drop_at_random(
    seen: Evidence, num_removed: int, *, num_prefix_tokens: int, seed: int
) -> PrunePlan:
    """Random: drop any patches, the same in every image."""
    B, N, _ = seen.tokens.x.shape
    score = scoring.pseudo_random(N - num_prefix_tokens, seed, seen.tokens.x.device)
    return selection.plan_drop(
        score.expand(B, -1), num_removed=num_removed, num_prefix_tokens=num_prefix_tokens
    )


def remember_positions(seen: Evidence) -> Tensor:
    """Where each token stood before the first block: (B, N, 1)."""
    if seen.tokens.memory is not None:
        return seen.tokens.memory
    return _first_positions(seen.tokens.x)[..., None].float()


def remember_rollout(seen: Evidence) -> Tensor:
    """Rollout rows over the tokens of the first block, and each token's position there.

    (B, N, N0 + 1); positions are at most 2^24, so float32 holds them exactly.
    """
    attention = mean_attention(seen.attention)
    if seen.tokens.memory is None:
        rows, position = None, _first_positions(attention)[..., None].to(attention.dtype)
    else:
        rows, position = seen.tokens.memory[..., :-1], seen.tokens.memory[..., -1:]
    return torch.cat([scoring.rollout(attention, rows), position], dim=-1)


def _importance(attention: AttentionPass, layout: TokenLayout) -> Tensor:
    """(B, N): the CLS token's attention, or everybody's on average where there is no CLS token."""
    return (cls_attention if layout.has_class_token else attention_received)(attention)


def _best_match(seen: Evidence, num_prefix_tokens: int) -> tuple[Tensor, Tensor]:
    """Each source's highest similarity and whose it is: (B, S) and (B, S), ties to the lowest."""
    similarities = scoring.similarity(seen.attention.keys, num_prefix_tokens)
    # argmax promises the first of equal values; max(dim) does not.
    destination = similarities.argmax(dim=-1)
    return similarities.gather(-1, destination[..., None])[..., 0], destination


def _first_positions(per_token: Tensor) -> Tensor:
    """(B, N), numbers of the tokens in their order."""
    return torch.arange(per_token.shape[1], device=per_token.device).expand(len(per_token), -1)


def _drop_redundant(
    x: Tensor, positions: Tensor | None, num_removed: int, layout: TokenLayout, diversity: float
) -> PrunePlan:
    P, (num_rows, num_columns) = layout.num_prefix_tokens, layout.grid_size
    score = scoring.patch_redundancy(x[:, P:])
    if diversity and positions is not None:
        patch = positions[:, P:] - P
        row, column = patch // num_columns, patch % num_columns
        window = row // 2 * num_columns + column // 2
        # At the edge of an odd grid a window is cut off.
        population = (1 + (row // 2 * 2 + 1 < num_rows)) * (1 + (column // 2 * 2 + 1 < num_columns))
        score = score - diversity * scoring.spread_out(score, window, population)
    return selection.plan_drop(score, num_removed=num_removed, num_prefix_tokens=P)
