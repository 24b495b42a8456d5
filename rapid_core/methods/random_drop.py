"""Random: drop patches at random, the control that every method has to beat."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rapid_core.contract import Evidence, Planner, ReductionPlan, TokenLayout
from rapid_core.errors import InvalidScheduleError
from rapid_core.matching import selection
from rapid_core.plans import PrunePlan
from rapid_core.schedule import Reductions, parse_r


@dataclass(frozen=True)
class RandomDrop:
    """Drop patches at random: the control that every method has to beat.

    The choice depends on the seed, the block and the number of tokens, not on the image or the
    batch: the same image gives the same logits anywhere.
    """

    seed: int = 0
    """any integer; another seed drops other patches."""

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int):
            raise InvalidScheduleError(f"seed = {self.seed!r} must be an integer")

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        """The same decision in every block, each with a seed of its own."""
        planners: list[Planner] = [
            partial(
                drop_at_random,
                num_prefix_tokens=layout.num_prefix_tokens,
                seed=self.seed * layout.num_blocks + block,
            )
            for block in range(layout.num_blocks)
        ]
        return ReductionPlan.in_blocks(parse_r(r, layout.num_blocks), planners)


def drop_at_random(
    seen: Evidence, num_removed: int, *, num_prefix_tokens: int, seed: int
) -> PrunePlan:
    """Drop any patches, the same in every image."""
    B, N, _ = seen.tokens.x.shape
    score = pseudo_random(N - num_prefix_tokens, seed, seen.tokens.x.device)
    return selection.plan_drop(
        score.expand(B, -1), num_removed=num_removed, num_prefix_tokens=num_prefix_tokens
    )


def pseudo_random(num_scores: int, seed: int, device: torch.device) -> Tensor:
    """Numbers that look random and are the same everywhere: (num_scores,), float32, in 0 ... 1.

    An integer hash (splitmix-like, 31 bits) instead of a generator: it has no state, needs no
    transfer from the host, and gives the same numbers on every device and in every batch.
    """
    mask = 0x7FFFFFFF
    value = torch.arange(num_scores, device=device) + (seed * 0x9E3779B1 & mask)
    for factor in (0x45D9F3B, 0x2C1B3C6D, 0x297A2D39):
        value = ((value >> 15 ^ value) * factor) & mask
    return (value >> 15 ^ value).float() / mask
