"""RAPID: prune redundant tokens in the early blocks, merge unimportant ones later.

Source: RAPID (arXiv 2606.08156), Eq. 1 to 4.
"""

import math
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from rapid_core.attention import importance
from rapid_core.contract import Evidence, Planner, ReductionPlan, TokenLayout
from rapid_core.errors import InvalidScheduleError
from rapid_core.matching.bipartite import MATCH_ON, matched_on, matching_for, merge_similar
from rapid_core.matching.cells import flat_cells
from rapid_core.methods.options import (
    require_choice,
    require_number,
    require_switch,
    resolve_prune_blocks,
)
from rapid_core.plans import MergePlan, PrunePlan
from rapid_core.schedule import Reductions, parse_r


@dataclass(frozen=True)
class Rapid:
    """Prune redundant tokens in the early blocks, merge unimportant ones later."""

    similarity_threshold: float = 0.7
    """τ of Eq. 1, finite."""
    num_prune_blocks: int | None = None
    """leading blocks that prune, 0 ... number of blocks; None: the first third, rounded down."""
    importance_weight: float = 50.0
    """λ of Eq. 2, finite."""
    importance_top: float = 0.2
    """share of the patches at or above τ_A, in (0, 1]; it has an effect only when clamped."""
    clamp_importance: bool = False
    """False: Eq. 2 as printed. True: λ·max(A - τ_A, 0), which treats the less important alike."""
    match_on: str = "key"
    """"key": the block's keys, as ToMe has it. "token": the tokens themselves, ours."""
    flat_cells: int = 0
    """cells of 2 x 2 patches that become one token each before the first block, those of least
    detail; 0 ... a sixth of the patches. Ours."""

    def __post_init__(self) -> None:
        for name in ("similarity_threshold", "importance_weight", "importance_top"):
            require_number(name, getattr(self, name))
        require_switch("clamp_importance", self.clamp_importance)
        require_choice("match_on", self.match_on, MATCH_ON)
        if not 0 < self.importance_top <= 1:
            raise InvalidScheduleError(
                f"importance_top = {self.importance_top!r} must lie in (0, 1]"
            )

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        """Stage R in the first blocks, stage I in the others."""
        num_prune = resolve_prune_blocks(
            self.num_prune_blocks, layout, default=layout.num_blocks // 3
        )
        prune: Planner = partial(
            prune_redundant, layout=layout, threshold=self.similarity_threshold
        )
        merge: Planner = partial(
            merge_unimportant,
            layout=layout,
            weight=self.importance_weight,
            clamp_to_top=self.importance_top if self.clamp_importance else None,
        )
        planners = [prune] * num_prune + [merge] * (layout.num_blocks - num_prune)
        planners = [matched_on(self.match_on, planner) for planner in planners]
        schedule = parse_r(r, layout.num_blocks)
        at_input = flat_cells(self.flat_cells, layout)
        return ReductionPlan.in_blocks(schedule, planners, at_input=at_input)


def prune_redundant(
    seen: Evidence, num_removed: int, *, layout: TokenLayout, threshold: float
) -> PrunePlan:
    """Stage R: drop the sources that the destinations repeat most (Eq. 1)."""
    keys, P = seen.features, layout.num_prefix_tokens
    matching = matching_for(keys, layout)
    score, mean_similarity = matching.redundancy(keys, P, threshold)
    return matching.plan_prune(
        score,
        mean_similarity,
        num_removed=num_removed,
        num_tokens=keys.shape[2],
        num_prefix_tokens=P,
    )


def merge_unimportant(
    seen: Evidence,
    num_removed: int,
    *,
    layout: TokenLayout,
    weight: float,
    clamp_to_top: float | None,
) -> MergePlan:
    """Stage I: merge the sources that are similar and unimportant (Eq. 2 to 4).

    Args:
        seen: the block's evidence.
        num_removed: R.
        layout: of the model.
        weight: λ.
        clamp_to_top: None for Eq. 2 as printed; a share for λ·max(A - τ_A, 0) with that τ_A.
    """
    A = importance(seen.attention, has_class_token=layout.has_class_token)
    if clamp_to_top is not None:
        cutoff = importance_cutoff(A[:, layout.num_prefix_tokens :], clamp_to_top)
        A = (A - cutoff).clamp(min=0)
    return merge_similar(seen, num_removed, layout=layout, importance=A, weight=weight)


def importance_cutoff(importance: Tensor, top: float) -> Tensor:
    """τ_A, the importance that the most important share of the patches reaches.

    Args:
        importance: (B, n), of all patch tokens.
        top: the share, in (0, 1].

    Returns:
        (B, 1), the ⌈top · n⌉-th largest importance of each image.

    Source: RAPID (arXiv 2606.08156), section on importance-similarity aware merging.
    """
    rank = max(1, math.ceil(top * importance.shape[1]))
    return importance.topk(rank, dim=-1).values[:, -1:]
