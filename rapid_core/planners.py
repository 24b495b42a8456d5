"""What a block decides: from its attention and tokens to the plan of its reduction.

One function per decision; `methods.py` says which block of which method takes which.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rapid_core import fused, scoring, selection
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
    fused_kernels: bool = True
    """False: the matching is PyTorch's even where `fused` could do it."""

    @property
    def num_tokens(self) -> int:
        """Tokens that enter the model, prefix tokens included."""
        return self.num_prefix_tokens + math.prod(self.grid_size)


class Matching(NamedTuple):
    """The steps from keys (B, H, N, D) to a plan. Two sets of functions do the same."""

    redundancy: Callable[[Tensor, int, float], tuple[Tensor, Tensor]]
    """(keys, P, τ) -> redundancy of each source, and its mean similarity: (B, S) and (B, S)."""
    best_match: Callable[[Tensor, int, Tensor | None, float], tuple[Tensor, Tensor]]
    """(keys, P, A, λ) -> merge score of each source, and its destination: (B, S) and (B, S)."""
    plan_prune: Callable[..., PrunePlan]
    plan_merge: Callable[..., MergePlan]


def prune_redundant(
    seen: Evidence, num_removed: int, *, layout: TokenLayout, threshold: float
) -> PrunePlan:
    """RAPID, stage R: drop the sources that the destinations repeat most (Eq. 1)."""
    matching = _matching(seen, layout)
    score, mean_similarity = matching.redundancy(
        seen.attention.keys, layout.num_prefix_tokens, threshold
    )
    return matching.plan_prune(
        score,
        mean_similarity,
        num_removed=num_removed,
        num_tokens=seen.tokens.x.shape[1],
        num_prefix_tokens=layout.num_prefix_tokens,
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
    importance = _importance(seen.attention, layout)
    if clamp_to_top is not None:
        patches = importance[:, layout.num_prefix_tokens :]
        cutoff = scoring.importance_cutoff(patches, clamp_to_top)
        importance = (importance - cutoff).clamp(min=0)
    return _merge(seen, num_removed, layout, importance, weight)


def merge_similar(seen: Evidence, num_removed: int, *, layout: TokenLayout) -> MergePlan:
    """ToMe: merge the sources that are most similar to their best destination."""
    return _merge(seen, num_removed, layout)


def drop_similar(seen: Evidence, num_removed: int, *, layout: TokenLayout) -> PrunePlan:
    """ToFu, early blocks: what ToMe would merge is dropped."""
    return PrunePlan(merge_similar(seen, num_removed, layout=layout).keep_idx)


def merge_by_mlerp(seen: Evidence, num_removed: int, *, layout: TokenLayout) -> MergePlan:
    """ToFu, later blocks: what ToMe would merge is merged by MLERP."""
    return merge_similar(seen, num_removed, layout=layout)._replace(rule="mlerp")


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


def _merge(
    seen: Evidence,
    num_removed: int,
    layout: TokenLayout,
    importance: Tensor | None = None,
    weight: float = 0.0,
) -> MergePlan:
    """Merge the sources of the highest score; of importance (B, N) None, the most similar ones."""
    matching = _matching(seen, layout)
    score, destination = matching.best_match(
        seen.attention.keys, layout.num_prefix_tokens, importance, weight
    )
    return matching.plan_merge(
        score,
        destination,
        num_removed=num_removed,
        num_tokens=seen.tokens.x.shape[1],
        num_prefix_tokens=layout.num_prefix_tokens,
    )


def _redundancy(keys: Tensor, num_prefix_tokens: int, threshold: float) -> tuple[Tensor, Tensor]:
    similarities = scoring.similarity(keys, num_prefix_tokens)
    return scoring.redundancy(similarities, threshold), similarities.mean(dim=-1)


def _best_match(
    keys: Tensor, num_prefix_tokens: int, importance: Tensor | None, weight: float
) -> tuple[Tensor, Tensor]:
    similarities = scoring.similarity(keys, num_prefix_tokens)
    # argmax promises the first of equal values; max(dim) does not.
    destination = similarities.argmax(dim=-1)
    score = similarities.gather(-1, destination[..., None])[..., 0]
    if importance is not None:
        important = scoring.sources(importance, num_prefix_tokens)
        score = scoring.merge_score(score, important, weight)
    return score, destination


PYTORCH = Matching(_redundancy, _best_match, selection.plan_prune, selection.plan_merge)
FUSED = Matching(fused.redundancy, fused.best_match, fused.plan_prune, fused.plan_merge)


def _matching(seen: Evidence, layout: TokenLayout) -> Matching:
    """The one place that chooses between the two."""
    return FUSED if layout.fused_kernels and fused.can_match(seen.attention.keys) else PYTORCH


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
