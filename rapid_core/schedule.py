"""How many tokens every block removes and how many are left: plain integers, no torch.

All counts of tokens include the prefix tokens (CLS, distillation, registers), which are never
removed. A *schedule* is a tuple with the number of tokens to remove in each block.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from operator import index
from typing import NamedTuple, SupportsIndex, TypeGuard

from rapid_core.errors import InvalidScheduleError

Reductions = int | Sequence[int] | tuple[int, float]
"""r in every block; or one number per block; or (r, inflection), see `inflected`."""

PAPER_BLOCKS = 12
"""RAPID's own schedule reduces in the first 12 blocks of a model, whatever its depth."""
PAPER_PRUNE_BLOCKS = 4


def parse_r(r: Reductions, num_blocks: int) -> tuple[int, ...]:
    """Number of tokens that each block is asked to remove.

    Args:
        r: one number for every block, or one number per block, each >= 0; numbers beyond half of
            a block's patch tokens are allowed; `removed_per_block` caps them. Or a pair
            (r, inflection) with an inflection in -1 ... 1, see `inflected`. In a model of two
            blocks, a pair of integers >= 0 is one number per block.
        num_blocks: >= 1.

    Raises:
        InvalidScheduleError: a number is negative or no integer, or their count is not
            `num_blocks`.
    """
    if _is_inflected(r, num_blocks):
        return inflected(int(r[0]), r[1], num_blocks)
    schedule: tuple[object, ...] = tuple(r) if isinstance(r, Sequence) else (r,) * num_blocks
    if len(schedule) != num_blocks:
        raise InvalidScheduleError(
            f"r has {len(schedule)} entries; this model needs one for each of its "
            f"{num_blocks} blocks"
        )
    return tuple(_checked(number) for number in schedule)


def _checked(number: object) -> int:
    if isinstance(number, bool) or not isinstance(number, SupportsIndex) or index(number) < 0:
        raise InvalidScheduleError(
            f"r = {number!r} is not possible: r is the number of tokens to remove in a block, "
            "an integer >= 0"
        )
    return index(number)


def inflected(r: int, inflection: float, num_blocks: int) -> tuple[int, ...]:
    """A schedule that falls (inflection < 0) or rises (> 0) linearly around its mean r.

    -1 falls from 2 r to 0, 0 is constant, 1 rises from 0 to 2 r; numbers are rounded down.

    Source: Bolya et al. 2023 (Token Merging), section 4.1: the decreasing schedule is -1.
    """
    if num_blocks == 1:
        return (r,)
    first = int(r * (1 - inflection))
    step = (2 * r - 2 * first) / (num_blocks - 1)
    return tuple(int(first + step * block) for block in range(num_blocks))


def named_schedule(name: str, r: Reductions, num_blocks: int) -> Reductions:
    """The schedule of a name, around an integer r.

    Args:
        name: "constant": r as it is given; "decreasing": from 2 r to 0, ToMe's (r, -1); "paper":
            RAPID's own, r in the first 12 blocks and nothing after.
        r: an integer, unless the name is "constant".
        num_blocks: of the model.

    Raises:
        InvalidScheduleError: no such name, or r is not a single number.
    """
    if name == "constant":
        return r
    if isinstance(r, Sequence):
        raise InvalidScheduleError(f"schedule = {name!r} needs a single number r, not {r!r}")
    if name == "decreasing":
        return inflected(_checked(r), -1.0, num_blocks)
    if name == "paper":
        return parse_r(r, min(PAPER_BLOCKS, num_blocks)) + (0,) * (num_blocks - PAPER_BLOCKS)
    raise InvalidScheduleError(f"unknown schedule {name!r}; there are: constant, decreasing, paper")


def _is_inflected(r: Reductions, num_blocks: int) -> TypeGuard[tuple[int, float]]:
    if not isinstance(r, tuple) or len(r) != 2 or not -1 <= r[1] <= 1:
        return False
    number, inflection = r
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        return False
    return num_blocks != 2 or isinstance(inflection, float) or inflection < 0


def removable(num_tokens: int, num_prefix_tokens: int) -> int:
    """The most tokens that one block can remove: half of the patch tokens, rounded down.

    Source: Bolya et al. 2023 (Token Merging), section 3: only one of the two sets can be removed.
    """
    return max(num_tokens - num_prefix_tokens, 0) // 2


def capped(wanted: Iterable[int], num_tokens: int, num_prefix_tokens: int) -> tuple[int, ...]:
    """What each place really removes of the number that it is asked to, one place after another.

    Args:
        wanted: tokens to remove at each place, >= 0.
        num_tokens: tokens that enter the first place, prefix tokens included.
        num_prefix_tokens: P, at most `num_tokens`.
    """
    removed = []
    for number in wanted:
        removed.append(min(number, removable(num_tokens, num_prefix_tokens)))
        num_tokens -= removed[-1]
    return tuple(removed)


def token_counts(
    *, num_tokens: int, num_prefix_tokens: int, num_blocks: int, r: Reductions
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
    removed = capped(parse_r(r, num_blocks), num_tokens, num_prefix_tokens)
    return [num_tokens - gone for gone in accumulate(removed)]


def removed_per_block(
    *, num_tokens: int, num_prefix_tokens: int, schedule: Sequence[int]
) -> tuple[int, ...]:
    """What each block really removes once `schedule` is capped; arguments as in `token_counts`."""
    counts = token_counts(
        num_tokens=num_tokens,
        num_prefix_tokens=num_prefix_tokens,
        num_blocks=len(schedule),
        r=schedule,
    )
    return tuple(before - after for before, after in pairwise([num_tokens, *counts]))


class BlockCost(NamedTuple):
    """Multiply-adds of one transformer block, per token or pair of tokens that causes them."""

    per_key: int
    """key and value projections: 2 C² for a plain block."""
    per_query: int
    """query and output projections: 2 C² for a plain block."""
    per_pair: int
    """scores and weighted sum, for each (query, key) pair: 2 C for a plain block."""
    mlp_per_token: int
    """8 C² for a plain block with hidden width 4 C."""

    def macs(self, num_entering: int, num_queries: int, num_left: int) -> int:
        """Multiply-adds of one image.

        Args:
            num_entering: tokens that enter the block.
            num_queries: tokens whose attention is computed: all, or only the prefix tokens.
            num_left: tokens that the reduction leaves for the MLP.
        """
        return (
            self.per_key * num_entering
            + self.per_query * num_queries
            + self.per_pair * num_entering * num_queries
            + self.mlp_per_token * num_left
        )
