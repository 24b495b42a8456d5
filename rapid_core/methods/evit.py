"""EViT: keep the patches that the CLS token attends to, in three blocks.

Used without the training of the paper.

Source: Liang et al. 2022, EViT (arXiv 2202.07800).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from rapid_core.attention import importance
from rapid_core.contract import Evidence, Planner, ReductionPlan, TokenLayout
from rapid_core.errors import InvalidScheduleError
from rapid_core.matching import selection
from rapid_core.methods.options import INSTEAD_OF_R, require_number, require_switch
from rapid_core.plans import FusePlan, PrunePlan
from rapid_core.schedule import Reductions, parse_r


@dataclass(frozen=True)
class EViT:
    """Keep the patches that the CLS token attends to, at a quarter, half, three quarters of depth.

    With an integer r, these three blocks together remove what r in every block would; with a list,
    every block removes its own number.
    """

    fuse: bool = False
    """True: the dropped tokens' attention-weighted sum stays as one more token."""
    keep_rate: float | None = field(default=None, metadata=INSTEAD_OF_R)
    """share of the patch tokens that each of the three blocks keeps, in [0.5, 1]; instead of r."""

    def __post_init__(self) -> None:
        require_switch("fuse", self.fuse)
        if self.keep_rate is not None:
            require_number("keep_rate", self.keep_rate)
            if not 0.5 <= self.keep_rate <= 1:
                raise InvalidScheduleError(f"keep_rate = {self.keep_rate!r} must lie in [0.5, 1]")

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        """The same decision in every block; with an integer r, three blocks use it."""
        keep: Planner = partial(keep_attended, layout=layout, fuse=self.fuse)
        schedule = parse_r(r, layout.num_blocks)
        if not isinstance(r, Sequence):
            schedule = self._at_three_blocks(schedule[0], layout)
        elif self.keep_rate is not None:
            raise InvalidScheduleError("keep_rate and a list r exclude each other; give one")
        return ReductionPlan.in_blocks(schedule, [keep] * layout.num_blocks)

    def _at_three_blocks(self, r: int, layout: TokenLayout) -> tuple[int, ...]:
        L, num_left = layout.num_blocks, layout.num_tokens - layout.num_prefix_tokens
        places = sorted({L // 4, L // 2, 3 * L // 4})
        removed = [0] * L
        for place in places:
            removed[place] = round(r * L / len(places))
            if self.keep_rate is not None:
                num_kept = math.ceil(self.keep_rate * num_left) + self.fuse
                removed[place] = max(num_left - num_kept, 0)
            num_left -= min(removed[place], num_left // 2)
        return tuple(removed)


def keep_attended(
    seen: Evidence, num_removed: int, *, layout: TokenLayout, fuse: bool
) -> PrunePlan | FusePlan:
    """Drop, or fuse, the patches that the CLS token attends to least."""
    P = layout.num_prefix_tokens
    A = importance(seen.attention, has_class_token=layout.has_class_token)[:, P:]
    if fuse:
        return selection.plan_fuse(-A, A, num_removed=num_removed, num_prefix_tokens=P)
    return selection.plan_drop(-A, num_removed=num_removed, num_prefix_tokens=P)
