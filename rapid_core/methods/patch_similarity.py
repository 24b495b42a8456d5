"""Patch Similarity: drop the patches that resemble all the others most.

Source: Patch Similarity pruning (preprints.org 202504.0596); the diversity term is our reading.
"""

import math
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from rapid_core.contract import NOTHING, Decision, Evidence, Planner, ReductionPlan, TokenLayout
from rapid_core.errors import InvalidScheduleError
from rapid_core.matching import selection
from rapid_core.methods.options import INSTEAD_OF_R, require_number, require_switch
from rapid_core.plans import PrunePlan
from rapid_core.schedule import Reductions, parse_r, removable
from rapid_core.tokens import positions


@dataclass(frozen=True)
class PatchSimilarity:
    """Drop the patches that resemble all the others most."""

    at_input: bool = False
    """False: in every block. True: once, before the first block, as many as r would in all blocks
    together, but at most half of the patches."""
    diversity: float = 0.0
    """weight of the term that keeps pruned patches from clustering, >= 0; 0 is off."""
    prune_ratio: float | None = field(default=None, metadata=INSTEAD_OF_R)
    """share of the patches to drop, in [0, 0.5]; instead of r. In every block the same number, or
    all at the input. `share_above` turns a threshold of redundancy into it."""

    def __post_init__(self) -> None:
        require_switch("at_input", self.at_input)
        require_number("diversity", self.diversity)
        if self.prune_ratio is not None:
            require_number("prune_ratio", self.prune_ratio)
            if not 0 <= self.prune_ratio <= 0.5:
                raise InvalidScheduleError(
                    f"prune_ratio = {self.prune_ratio!r} must lie in [0, 0.5]"
                )
        if self.diversity < 0:
            raise InvalidScheduleError(f"diversity = {self.diversity!r} must be >= 0")

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        """The same decision in every block, or one decision before the first block."""
        if self.diversity and not layout.is_grid_fixed:
            raise InvalidScheduleError(
                "diversity needs to know where the patches lie; this model takes images of any size"
            )
        schedule = parse_r(r, layout.num_blocks)
        if self.prune_ratio is not None:
            num_dropped = math.floor(self.prune_ratio * math.prod(layout.grid_size))
            schedule = _spread_evenly(num_dropped, layout.num_blocks)
        drop: Planner = partial(drop_redundant, layout=layout, diversity=self.diversity)
        at_input = Decision(remember=remember_positions) if self.diversity else NOTHING
        if self.at_input:
            most = removable(layout.num_tokens, layout.num_prefix_tokens)
            at_input = at_input._replace(num_removed=min(sum(schedule), most), planner=drop)
            schedule = (0,) * layout.num_blocks
        return ReductionPlan.in_blocks(schedule, [drop] * layout.num_blocks, at_input=at_input)


def drop_redundant(
    seen: Evidence, num_removed: int, *, layout: TokenLayout, diversity: float
) -> PrunePlan:
    """Drop the patch tokens that resemble all the others most.

    With diversity, `remember_positions` must have been called before the first block.
    """
    P, (num_rows, num_columns) = layout.num_prefix_tokens, layout.grid_size
    score = patch_redundancy(seen.tokens.x[:, P:])
    if diversity:
        assert seen.tokens.memory is not None
        patch = seen.tokens.memory[:, P:, 0].long() - P
        row, column = patch // num_columns, patch % num_columns
        window = row // 2 * num_columns + column // 2
        # At the edge of an odd grid a window is cut off.
        population = (1 + (row // 2 * 2 + 1 < num_rows)) * (1 + (column // 2 * 2 + 1 < num_columns))
        score = score - diversity * spread_out(score, window, population)
    return selection.plan_drop(score, num_removed=num_removed, num_prefix_tokens=P)


def remember_positions(seen: Evidence) -> Tensor:
    """Where each token stands: (B, N, 1)."""
    return positions(seen.tokens.x)[..., None].float()


def patch_redundancy(x: Tensor) -> Tensor:
    """Mean cosine similarity of every patch token to all the others.

    ``R_i = (Σ_j x̂_i·x̂_j - 1) / (n - 1) = (x̂_i·Σ_j x̂_j - 1) / (n - 1)``

    Args:
        x: (B, n, C), patch tokens, n >= 2.

    Returns:
        (B, n) in -1 ... 1, float32 or wider.

    Source: Patch Similarity pruning (preprints.org 202504.0596).
    """
    unit = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
    # Σ_j (x̂_i·x̂_j) = x̂_i·(Σ_j x̂_j), so the (B, n, n) matrix is never built.
    return ((unit * unit.sum(dim=1, keepdim=True)).sum(dim=-1) - 1) / (x.shape[1] - 1)


def share_above(x: Tensor, threshold: float) -> float:
    """Share of the patches whose redundancy exceeds a threshold, over many images.

    A threshold would remove a different number of patches from every image, but the images of one
    batch need equal numbers. So a threshold is turned into a fixed ratio once, on sample images.

    Args:
        x: (B, n, C), patch tokens of sample images, as they enter the first block.
        threshold: θ, compared with `patch_redundancy`.
    """
    return float((patch_redundancy(x) > threshold).double().mean())


def spread_out(score: Tensor, window: Tensor, population: Tensor) -> Tensor:
    """How many of a 2 x 2 window are gone before this patch goes, as a share in 0 ... 1.

    Subtracted from a redundancy, it keeps pruned patches from clustering: the second patch of a
    window costs 1/3, the last one 1. Patches of the window that left earlier count as gone.

    Args:
        score: (B, n), the redundancy of each patch token.
        window: (B, n), number of the 2 x 2 window of the image that each patch lies in.
        population: (B, n), patches that this window had at first, 1 to 4.

    Returns:
        (B, n).

    Source: our reading of the diversity term of Patch Similarity pruning, whose formula is not
    available; see docs/methods.md.
    """
    same = window[:, :, None] == window[:, None, :]
    index = torch.arange(score.shape[1], device=score.device)
    sooner = score[:, None, :] > score[:, :, None]
    tied = (score[:, None, :] == score[:, :, None]) & (index[None, :] < index[:, None])
    num_gone = population - same.sum(dim=-1) + (same & (sooner | tied)).sum(dim=-1)
    return num_gone.to(score.dtype) / 3


def _spread_evenly(num_removed: int, num_blocks: int) -> tuple[int, ...]:
    """The same number in every block, and one more in the first blocks while a rest is left."""
    each, rest = divmod(num_removed, num_blocks)
    return tuple(each + (block < rest) for block in range(num_blocks))
