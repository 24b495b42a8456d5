"""The transformer blocks, with the reduction between attention and MLP."""

from collections.abc import Callable, Iterable
from typing import cast

from torch import Tensor, nn

from rapid_core.attention import attend, attend_from_prefix, weigh_of
from rapid_core.contract import Decision, Evidence, HalfSize, ReductionPlan
from rapid_core.errors import InvalidScheduleError
from rapid_core.plans import Plan
from rapid_core.reduction import apply_plan
from rapid_core.tokens import Tokens
from rapid_core.vit import Block

OnPlan = Callable[[Plan | None], None]
"""Called with what each place did to the tokens, None for nothing."""


class ReducedBlocks(nn.Sequential):
    """A model's own blocks, run with a method's plan. It holds no state of any call."""

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        reduction: ReductionPlan,
        *,
        num_tokens: int,
        num_prefix_tokens: int,
        prefix_only: bool = False,
    ) -> None:
        """Put a plan beside the blocks.

        Args:
            blocks: of the model; they are shared, not copied.
            reduction: one decision before the first block, and one for each block.
            num_tokens: tokens that enter the model at its own image size. For these the decisions
                are made ready here; for another number, in each forward.
            num_prefix_tokens: P.
            prefix_only: let the last block compute its P prefix tokens alone; for models that
                read no other token after it.

        Raises:
            InvalidScheduleError: the plan does not fit the blocks.
        """
        super().__init__(*blocks)
        _check_plan(reduction, len(self))
        self.reduction = reduction
        self.num_tokens = num_tokens
        self.num_prefix_tokens = num_prefix_tokens
        self.prefix_only = prefix_only
        self.decisions = reduction.for_tokens(num_tokens, num_prefix_tokens)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name nn.Sequential gives it
        """Run all blocks on embedded tokens (B, N, C); returns the tokens left, (B, M, C)."""
        return self.run(input).x

    def run(
        self, x: Tensor, on_plan: OnPlan = lambda _: None, half_size: HalfSize | None = None
    ) -> Tokens:
        """Run all blocks on embedded tokens (B, N, C).

        Args:
            x: (B, N, C).
            on_plan: called once for the input and once for every block that computes all tokens.
            half_size: the image at half its size, where the plan looks at it.
        """
        at_input, *in_blocks = self._decisions_for(x.shape[1])
        tokens = _reduce(Evidence(Tokens(x), half_size=half_size), at_input, on_plan)
        whole = in_blocks[: len(self) - self.prefix_only]
        for block, decision in zip(self, whole, strict=False):
            tokens = run_block(cast(Block, block), tokens, decision, on_plan)
        if self.prefix_only:
            return run_prefix(cast(Block, self[-1]), tokens, self.num_prefix_tokens)
        return tokens

    def _decisions_for(self, num_tokens: int) -> tuple[Decision, ...]:
        if num_tokens == self.num_tokens:
            return self.decisions
        # An image of another size, or patch dropout in training.
        return self.reduction.for_tokens(num_tokens, self.num_prefix_tokens)


def _check_plan(reduction: ReductionPlan, num_blocks: int) -> None:
    num_places = num_blocks + 1
    if len(reduction.decisions) != num_places:
        raise InvalidScheduleError(
            f"the method's plan has {len(reduction.decisions)} decisions; this model needs "
            f"{num_places}: before the first block, and one for each of its {num_blocks} blocks"
        )
    for place, decision in enumerate(reduction.decisions):
        if decision.num_removed and decision.planner is None:
            raise InvalidScheduleError(f"the method's plan has no planner at place {place}")


def run_block(
    block: Block, tokens: Tokens, decision: Decision, on_plan: OnPlan = lambda _: None
) -> Tokens:
    """Run one timm `Block` and remove R tokens inside it.

    Args:
        block: all its own parts are used.
        tokens: N tokens.
        decision: how many of them go, which ones, and what is remembered.
        on_plan: called with the plan.

    Returns:
        N - R tokens.
    """
    is_whole = decision.num_removed == 0 and decision.remember is None and tokens.size is None
    if is_whole and weigh_of(block.attn) is None:
        on_plan(None)
        # The model's own block: its result, bit for bit.
        return tokens._replace(x=block(tokens.x))
    attention = attend(block.attn, block.norm1(tokens.x), tokens.size)
    tokens = tokens._replace(x=tokens.x + block.drop_path1(block.ls1(attention.output)))
    tokens = _reduce(Evidence(tokens, attention), decision, on_plan)
    return tokens._replace(
        x=tokens.x + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens.x))))
    )


def _reduce(seen: Evidence, decision: Decision, on_plan: OnPlan) -> Tokens:
    """Remember, decide, remove: the same at every place."""
    if decision.remember is not None:
        seen = seen._replace(tokens=seen.tokens._replace(memory=decision.remember(seen)))
    if decision.num_removed == 0:
        on_plan(None)
        return seen.tokens
    assert decision.planner is not None
    plan = decision.planner(seen, decision.num_removed)
    on_plan(plan)
    return apply_plan(seen.tokens, plan)


def run_prefix(block: Block, tokens: Tokens, num_prefix_tokens: int) -> Tokens:
    """Run a block for the P prefix tokens alone; all tokens are still attended to.

    A reduction in this block would change the other tokens only after attention, and the prefix
    tokens are the same without it.

    Returns:
        P tokens.
    """
    attention = attend_from_prefix(
        block.attn, block.norm1(tokens.x), tokens.size, num_prefix_tokens
    )
    x = tokens.x[:, :num_prefix_tokens] + block.drop_path1(block.ls1(attention.output))
    return Tokens(x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))
