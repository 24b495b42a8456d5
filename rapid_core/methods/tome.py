"""ToMe: merge the most similar tokens in every block.

Source: Bolya et al. 2023, Token Merging: Your ViT But Faster (arXiv 2210.09461).
"""

from dataclasses import dataclass
from functools import partial

from rapid_core.contract import Planner, ReductionPlan, TokenLayout
from rapid_core.matching.bipartite import MATCH_ON, matched_on, merge_similar
from rapid_core.methods.options import require_choice
from rapid_core.schedule import Reductions, parse_r


@dataclass(frozen=True)
class ToMe:
    """Merge the sources that are most similar to their best destination, in every block."""

    match_on: str = "key"
    """"key": the block's keys, the paper's choice. "token": the tokens themselves."""

    def __post_init__(self) -> None:
        require_choice("match_on", self.match_on, MATCH_ON)

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        """The same decision in every block."""
        merge: Planner = partial(merge_similar, layout=layout)
        planners = [matched_on(self.match_on, merge)] * layout.num_blocks
        return ReductionPlan.in_blocks(parse_r(r, layout.num_blocks), planners)
