"""How many tokens every block removes, and what that leaves: plain integers, no torch.

All counts of tokens include the prefix tokens (CLS, distillation, registers), which are never
removed. A *schedule* is a tuple with the number of tokens to remove in each block.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from rapid_core.errors import InvalidScheduleError


def parse_r(r: int | Sequence[int], num_blocks: int) -> tuple[int, ...]:
    """Number of tokens that each block is asked to remove.

    Args:
        r: one number for every block, or one number per block; each >= 0. Numbers beyond half of
            a block's patch tokens are allowed and capped by `removed_per_block`.
        num_blocks: >= 1.

    Raises:
        InvalidScheduleError: a number is negative or no integer, or their count is not
            `num_blocks`.
    """
    schedule = tuple(r) if isinstance(r, Sequence) else (r,) * num_blocks
    if len(schedule) != num_blocks:
        raise InvalidScheduleError(
            f"r has {len(schedule)} entries; this model needs one for each of its "
            f"{num_blocks} blocks"
        )
    for number in schedule:
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise InvalidScheduleError(
                f"r = {number!r} is not possible: r is the number of tokens to remove in a block, "
                "an integer >= 0"
            )
    return schedule


def removable(num_tokens: int, num_prefix_tokens: int) -> int:
    """The most tokens that one block can remove: half of the patch tokens, rounded down.

    Source: Bolya et al. 2023 (Token Merging), section 3: only one of two sets can be removed.
    """
    return max(num_tokens - num_prefix_tokens, 0) // 2


def token_counts(
    *, num_tokens: int, num_prefix_tokens: int, num_blocks: int, r: int | Sequence[int]
) -> list[int]:
    """Number of tokens after each block.

    Args:
        num_tokens: tokens that enter the first block, prefix tokens included.
        num_prefix_tokens: CLS, distillation and register tokens, which always stay.
        num_blocks: number of transformer blocks.
        r: tokens to remove in every block, or one number per block; capped at half of the patch
            tokens that are left.

    Returns:
        `num_blocks` counts, prefix tokens included.

    Raises:
        InvalidScheduleError: see `parse_r`; or the counts are not 0 <= prefix <= tokens.

    Example:
        >>> token_counts(num_tokens=197, num_prefix_tokens=1, num_blocks=12, r=17)
        [180, 163, 146, 129, 112, 95, 78, 61, 44, 27, 14, 8]
    """
    if not 0 <= num_prefix_tokens <= num_tokens:
        raise InvalidScheduleError(
            f"num_prefix_tokens = {num_prefix_tokens} must lie in 0 ... num_tokens = {num_tokens}"
        )
    counts = []
    for number in parse_r(r, num_blocks):
        num_tokens -= min(number, removable(num_tokens, num_prefix_tokens))
        counts.append(num_tokens)
    return counts


def removed_per_block(
    *, num_tokens: int, num_prefix_tokens: int, schedule: Sequence[int]
) -> tuple[int, ...]:
    """What each block really removes, once `schedule` is capped; arguments as `token_counts`."""
    counts = token_counts(
        num_tokens=num_tokens,
        num_prefix_tokens=num_prefix_tokens,
        num_blocks=len(schedule),
        r=schedule,
    )
    return tuple(before - after for before, after in pairwise([num_tokens, *counts]))


class BlockCost(NamedTuple):
    """Multiply-adds of one transformer block, split by what they grow with."""

    attention_per_token: int
    """query, key, value and output projections: 4 C² for a plain block."""
    attention_per_pair: int
    """scores and weighted sum, for each (query, key) pair: 2 C for a plain block."""
    mlp_per_token: int
    """8 C² for a plain block with hidden width 4 C."""

    def macs(self, num_entering: int, num_reduced: int) -> int:
        """Multiply-adds of one image.

        Args:
            num_entering: tokens that enter the block and its attention.
            num_reduced: tokens that are left for the MLP.
        """
        return (
            self.attention_per_token * num_entering
            + self.attention_per_pair * num_entering**2
            + self.mlp_per_token * num_reduced
        )
