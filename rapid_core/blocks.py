"""The transformer blocks, with the reduction between attention and MLP."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, cast

from torch import Tensor, nn

from rapid_core.attention import Evidence, attend, attend_from_prefix
from rapid_core.methods import ReductionPlan
from rapid_core.planners import Planner, Remember
from rapid_core.reduction import apply_plan
from rapid_core.schedule import removable, removed_per_block
from rapid_core.selection import Plan
from rapid_core.tokens import Tokens
from rapid_core.vit import Block

OnPlan = Callable[[Plan | None], None]
"""Told of what each reduction did to the tokens, None for nothing."""


class BlockStep(NamedTuple):
    """What one block does to the tokens."""

    num_removed: int
    """R, 0 ... half of the patch tokens."""
    planner: Planner
    """decides which."""
    remember: Remember | None = None
    """what to note of each token first, if anything."""


class ReducedBlocks(nn.Sequential):
    """A model's own blocks, run with a method's plan. It holds no state of any call."""

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        reduction: ReductionPlan,
        *,
        num_prefix_tokens: int,
        prefix_only: bool = False,
    ) -> None:
        """Put a plan beside the blocks.

        Args:
            blocks: of the model; they are shared, not copied.
            reduction: what each of them does.
            num_prefix_tokens: P.
            prefix_only: let the last block compute its P prefix tokens alone; for models that
                look at no other token after it.
        """
        super().__init__(*blocks)
        self.reduction = reduction
        self.num_prefix_tokens = num_prefix_tokens
        self.prefix_only = prefix_only

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name nn.Sequential gives it
        """Run all blocks on embedded tokens (B, N, C); returns what is left, (B, M, C)."""
        return self.run(input).x

    def run(self, x: Tensor, on_plan: OnPlan = lambda _: None) -> Tokens:
        """Run all blocks on embedded tokens (B, N, C).

        Args:
            x: (B, N, C).
            on_plan: called once for the input and once for every block.
        """
        tokens = self._reduce_input(Tokens(x), on_plan)
        for block, step in self._steps(tokens.x.shape[1]):
            tokens = run_block(block, tokens, step, on_plan)
        if self.prefix_only:
            return run_prefix(cast(Block, self[-1]), tokens, self.num_prefix_tokens)
        return tokens

    def _reduce_input(self, tokens: Tokens, on_plan: OnPlan) -> Tokens:
        num_removed = min(
            self.reduction.num_removed_at_input,
            removable(tokens.x.shape[1], self.num_prefix_tokens),
        )
        if num_removed == 0 or self.reduction.at_input is None:
            on_plan(None)
            return tokens
        plan = self.reduction.at_input(tokens.x, num_removed)
        on_plan(plan)
        return apply_plan(tokens, plan)

    def _steps(self, num_tokens: int) -> Iterator[tuple[Block, BlockStep]]:
        """Every block that all tokens go through, with what it removes."""
        removed = removed_per_block(
            num_tokens=num_tokens,
            num_prefix_tokens=self.num_prefix_tokens,
            schedule=self.reduction.schedule,
        )
        remember = self.reduction.remember if any(removed) else None
        steps = list(zip(self, removed, self.reduction.planners, strict=True))
        for block, num_removed, planner in steps[: len(self) - self.prefix_only]:
            yield cast(Block, block), BlockStep(num_removed, planner, remember)


def run_block(
    block: Block, tokens: Tokens, step: BlockStep, on_plan: OnPlan = lambda _: None
) -> Tokens:
    """Run one timm `Block` and remove R tokens inside it.

    Args:
        block: all its own parts are used.
        tokens: N tokens.
        step: how many of them go, and who decides.
        on_plan: told of the plan.

    Returns:
        N - R tokens.
    """
    if step.num_removed == 0 and tokens.size is None and step.remember is None:
        on_plan(None)
        return Tokens(block(tokens.x))  # nothing of ours to do: the original, bit for bit
    attention = attend(block.attn, block.norm1(tokens.x), tokens.size)
    tokens = tokens._replace(x=tokens.x + block.drop_path1(block.ls1(attention.output)))
    if step.remember is not None:
        tokens = tokens._replace(memory=step.remember(Evidence(attention, tokens)))
    plan = None
    if step.num_removed > 0:
        plan = step.planner(Evidence(attention, tokens), step.num_removed)
        tokens = apply_plan(tokens, plan)
    on_plan(plan)
    return tokens._replace(
        x=tokens.x + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens.x))))
    )


def run_prefix(block: Block, tokens: Tokens, num_prefix_tokens: int) -> Tokens:
    """Run a block for the P prefix tokens alone; all tokens are still attended to.

    What a reduction in this block would do to the other tokens cannot reach the prefix tokens any
    more, so the result for these is the same.

    Returns:
        P tokens.
    """
    attention = attend_from_prefix(
        block.attn, block.norm1(tokens.x), tokens.size, num_prefix_tokens
    )
    x = tokens.x[:, :num_prefix_tokens] + block.drop_path1(block.ls1(attention.output))
    return Tokens(x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))
