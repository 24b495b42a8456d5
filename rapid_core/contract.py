"""What a method is told, what it may look at, and what it answers.

Methods are written against this file. The blocks and the cost read it too, and know no method.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from rapid_core.attention import AttentionPass
from rapid_core.plans import Plan
from rapid_core.schedule import Reductions, capped
from rapid_core.tokens import Tokens


class TokenLayout(NamedTuple):
    """What a method is told about a model."""

    num_blocks: int
    num_prefix_tokens: int
    has_class_token: bool
    grid_size: tuple[int, int]
    """rows and columns of patches."""
    is_grid_fixed: bool = True
    """False for models that take images of any size."""
    fused_kernels: bool = True
    """False: PyTorch matches the tokens even where the kernels of `matching.fused` could."""

    @property
    def num_tokens(self) -> int:
        """Tokens that enter the model, prefix tokens included."""
        return self.num_prefix_tokens + math.prod(self.grid_size)


class HalfSize(NamedTuple):
    """An image at half its size, in which a patch covers a cell of 2 x 2 patches of the image."""

    cells: Tensor
    """(B, n / 4, C), the embedded patches of the half-size image, as they enter the blocks."""
    detail: Tensor
    """(B, n / 4), what the half-size image lacks of each cell: mean squared difference, >= 0."""


class Evidence(NamedTuple):
    """What a decision may look at."""

    tokens: Tokens
    """N tokens; in a block, after the attention's residual."""
    block_attention: AttentionPass | None = None
    """of the block; None before the first block. Decisions in a block read `attention`."""
    compared: Tensor | None = None
    """(B, H, N, D), what matching compares; None: the block's keys. It reads `features`."""
    half_size: HalfSize | None = None
    """of the images; None but before the first block, where the decision says that it looks."""

    @property
    def attention(self) -> AttentionPass:
        """The attention pass of the block."""
        assert self.block_attention is not None, "there is no attention before the first block"
        return self.block_attention

    @property
    def features(self) -> Tensor:
        """What matching compares, averaged over H: (B, H, N, D)."""
        return self.attention.keys if self.compared is None else self.compared


Planner = Callable[[Evidence, int], Plan]
"""(what may be looked at, number of tokens to remove >= 1) -> plan. Prefix tokens stay in front."""

Remember = Callable[[Evidence], Tensor]
"""What to remember of each token, (B, N, M): the new `Tokens.memory`, before the plan is made."""


class Decision(NamedTuple):
    """What a method does at one place: before the first block, or inside a block."""

    num_removed: int = 0
    """tokens to remove, >= 0; at most half of the patch tokens are removed at one place."""
    planner: Planner | None = None
    """decides which tokens go; None only where none are to go."""
    remember: Remember | None = None
    """what to remember of each token first; None for nothing."""
    looks_at_half_size: bool = False
    """whether the planner looks at the image at half its size; before the first block only."""


NOTHING = Decision()


class ReductionPlan(NamedTuple):
    """A method, fitted to one model: one decision for every place where tokens can go."""

    decisions: tuple[Decision, ...]
    """number of blocks + 1: before the first block, then inside each block."""

    @classmethod
    def in_blocks(
        cls,
        schedule: Sequence[int],
        planners: Sequence[Planner],
        *,
        remember: Remember | None = None,
        at_input: Decision = NOTHING,
    ) -> "ReductionPlan":
        """Put the plan of all places together.

        Args:
            schedule: tokens to remove in each block.
            planners: one per block.
            remember: what every block remembers of each token.
            at_input: the decision before the first block.
        """
        pairs = zip(schedule, planners, strict=True)
        return cls((at_input, *(Decision(number, planner, remember) for number, planner in pairs)))

    @property
    def num_removed(self) -> tuple[int, ...]:
        """Tokens to remove at each place, before they are capped."""
        return tuple(decision.num_removed for decision in self.decisions)

    @property
    def schedule(self) -> tuple[int, ...]:
        """Tokens to remove in each block, before they are capped."""
        return self.num_removed[1:]

    @property
    def looks_at_half_size(self) -> bool:
        """Whether the image is embedded a second time, at half its size."""
        return self.decisions[0].looks_at_half_size

    def for_tokens(self, num_tokens: int, num_prefix_tokens: int) -> tuple[Decision, ...]:
        """The decisions on N tokens, of which P are prefix tokens: the capped numbers.

        Where no token goes at any place, nothing is remembered either.
        """
        removed = capped(self.num_removed, num_tokens, num_prefix_tokens)
        if not any(removed):
            return (NOTHING,) * len(removed)
        return tuple(
            decision._replace(num_removed=number)
            for decision, number in zip(self.decisions, removed, strict=True)
        )


class Method(Protocol):
    """A way to decide which tokens go: a frozen dataclass whose fields are its options."""

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        """Fit the method to a model.

        Args:
            r: tokens to remove per block, or one number per block.
            layout: of the model.

        Raises:
            InvalidScheduleError: `r` or an option does not fit the model.
        """
