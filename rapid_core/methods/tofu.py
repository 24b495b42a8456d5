"""ToFu: ToMe's choice of tokens; early blocks drop them, later blocks merge them by MLERP.

Source: Kim et al. 2024, Token Fusion (arXiv 2312.01026).
"""

from dataclasses import dataclass
from functools import partial

from rapid_core.contract import Evidence, Planner, ReductionPlan, TokenLayout
from rapid_core.matching.bipartite import merge_similar
from rapid_core.methods.options import resolve_prune_blocks
from rapid_core.plans import MergePlan, PrunePlan
from rapid_core.schedule import Reductions, parse_r


@dataclass(frozen=True)
class ToFu:
    """ToMe's choice of tokens; early blocks drop them, later blocks merge them by MLERP."""

    num_prune_blocks: int | None = None
    """leading blocks that drop, 0 ... number of blocks; None: the first half, rounded down."""

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        """Drop in the first blocks, merge in the others."""
        num_prune = resolve_prune_blocks(
            self.num_prune_blocks, layout, default=layout.num_blocks // 2
        )
        drop: Planner = partial(drop_similar, layout=layout)
        merge: Planner = partial(merge_by_mlerp, layout=layout)
        planners = [drop] * num_prune + [merge] * (layout.num_blocks - num_prune)
        return ReductionPlan.in_blocks(parse_r(r, layout.num_blocks), planners)


def drop_similar(seen: Evidence, num_removed: int, *, layout: TokenLayout) -> PrunePlan:
    """Early blocks: drop the sources that ToMe would merge."""
    return PrunePlan(merge_similar(seen, num_removed, layout=layout).keep_idx)


def merge_by_mlerp(seen: Evidence, num_removed: int, *, layout: TokenLayout) -> MergePlan:
    """Later blocks: merge the sources that ToMe would merge, but by MLERP."""
    return merge_similar(seen, num_removed, layout=layout)._replace(rule="mlerp")
