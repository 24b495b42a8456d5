"""Follow every input patch through the blocks."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rapid_core.blocks import OnPlan, ReducedBlocks
from rapid_core.contract import HalfSize
from rapid_core.errors import UnsupportedModelError
from rapid_core.inputs.sharing import shallow_copy
from rapid_core.plans import CellPlan, FusePlan, MergePlan, Plan
from rapid_core.tokens import Tokens


class TokenTrace(NamedTuple):
    """The logits of one forward, and the token that holds each patch after each block."""

    logits: Tensor
    """(B, K)."""
    assignment: list[Tensor]
    """per block, (B, n0) int64: position, after that block, of the token that holds input patch p
    (prefix tokens counted), or -1 once it was pruned."""


def trace(model: nn.Module, images: Tensor) -> TokenTrace:
    """Run a patched model and follow every input patch.

    Args:
        model: from `patch`; it stays as it is.
        images: (B, 3, S, S).

    Raises:
        UnsupportedModelError: the model is not patched, so it reduces nothing.
    """
    if not isinstance(model.blocks, ReducedBlocks):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no reduction to trace; patch it first"
        )
    recording = _RecordingBlocks(model.blocks)
    twin = shallow_copy(model)
    twin.blocks = recording
    logits = twin(images)
    patches = torch.arange(recording.num_patches, device=images.device).expand(len(images), -1)
    assignment = []
    current = patches + recording.num_prefix_tokens
    for plan, num_tokens in recording.plans:
        current = _follow(current, plan, num_tokens)
        assignment.append(current)
    # The first entry is the reduction before the first block; the entry of that block includes it.
    return TokenTrace(logits, assignment[1:])


class _RecordingBlocks(ReducedBlocks):
    """Reduced blocks that record the plans of one forward; made anew for each trace."""

    def __init__(self, blocks: ReducedBlocks) -> None:
        super().__init__(
            blocks,
            blocks.reduction,
            num_tokens=blocks.num_tokens,
            num_prefix_tokens=blocks.num_prefix_tokens,
            prefix_only=False,
        )
        self.plans: list[tuple[Plan | None, int]] = []
        self.num_patches = 0

    def run(
        self, x: Tensor, on_plan: OnPlan = lambda _: None, half_size: HalfSize | None = None
    ) -> Tokens:
        self.num_patches = x.shape[1] - self.num_prefix_tokens
        num_tokens = x.shape[1]

        def record(plan: Plan | None) -> None:
            nonlocal num_tokens
            self.plans.append((plan, num_tokens))
            if plan is not None:
                num_tokens = plan.keep_idx.shape[1] + isinstance(plan, FusePlan)
            on_plan(plan)

        return super().run(x, record, half_size)


def _follow(current: Tensor, plan: Plan | None, num_tokens: int) -> Tensor:
    """New positions (B, n0) of the tokens that hold each patch; -1 for none."""
    if plan is None:
        return current
    B, num_kept = plan.keep_idx.shape
    moved_to = torch.full((B, num_tokens), -1, device=current.device)
    kept = torch.arange(num_kept, device=current.device).expand(B, -1)
    moved_to = moved_to.scatter(1, plan.keep_idx, kept)
    if isinstance(plan, MergePlan | CellPlan):
        moved_to = moved_to.scatter(1, plan.src_idx, plan.dst_idx)
    elif isinstance(plan, FusePlan):
        fused = torch.full_like(plan.src_idx, num_kept)
        moved_to = moved_to.scatter(1, plan.src_idx, fused)
    return torch.where(current < 0, -1, moved_to.gather(1, current.clamp(min=0)))
