"""ToMe: merge the most similar tokens in every block.

Source: Bolya et al. 2023, Token Merging: Your ViT But Faster (arXiv 2210.09461).
"""

from dataclasses import dataclass
from functools import partial

from rapid_core.contract import Planner, ReductionPlan, TokenLayout
from rapid_core.matching.bipartite import merge_similar
from rapid_core.schedule import Reductions, parse_r


@dataclass(frozen=True)
class ToMe:
    """Merge the sources that are most similar to their best destination, in every block."""

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        """The same decision in every block."""
        merge: Planner = partial(merge_similar, layout=layout)
        return ReductionPlan.in_blocks(parse_r(r, layout.num_blocks), [merge] * layout.num_blocks)
