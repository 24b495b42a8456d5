"""From scores to index plans: the tokens with the highest scores go.

After matching, the tokens stand in this order: prefix tokens, the sources that stay, in order, then
all destinations, in order. So the next block's split into odd and even positions is well defined.
"""

import torch
from torch import Tensor

from rapid_core.plans import FusePlan, MergePlan, PrunePlan


def plan_prune(
    score: Tensor,
    tie_break: Tensor,
    *,
    num_removed: int,
    num_tokens: int,
    num_prefix_tokens: int,
) -> PrunePlan:
    """Drop the sources with the highest score.

    Args:
        score: (B, S), of every source.
        tie_break: (B, S), decides between equal scores, higher first; then the lower index goes.
        num_removed: R, at most S.
        num_tokens: N, prefix tokens included.
        num_prefix_tokens: P.
    """
    by_tie_break = tie_break.sort(dim=-1, descending=True, stable=True).indices
    by_score = score.gather(-1, by_tie_break).sort(dim=-1, descending=True, stable=True).indices
    order = by_tie_break.gather(-1, by_score)
    return PrunePlan(_kept(order[:, num_removed:], num_tokens, num_prefix_tokens))


def plan_drop(score: Tensor, *, num_removed: int, num_prefix_tokens: int) -> PrunePlan:
    """Drop the patch tokens with the highest score, sources and destinations alike.

    Args:
        score: (B, n), of every patch token; of equal ones the lower index goes first.
        num_removed: R, at most n.
        num_prefix_tokens: P.

    Returns:
        A plan that keeps the others in their order.
    """
    kept, _ = _split_by_score(score, num_removed, num_prefix_tokens)
    return PrunePlan(kept)


def plan_fuse(
    score: Tensor, weight: Tensor, *, num_removed: int, num_prefix_tokens: int
) -> FusePlan:
    """Fuse the R + 1 patch tokens with the highest score into one: R tokens fewer.

    Args:
        score: (B, n), as for `plan_drop`.
        weight: (B, n), what each patch token counts in the sum.
        num_removed: R, at most n - 1.
        num_prefix_tokens: P.

    Source: EViT (Liang et al. 2022, arXiv 2202.07800), section 3.3, inattentive token fusion.
    """
    kept, gone = _split_by_score(score, num_removed + 1, num_prefix_tokens)
    return FusePlan(kept, gone, weight.gather(-1, gone - num_prefix_tokens))


def _split_by_score(
    score: Tensor, num_removed: int, num_prefix_tokens: int
) -> tuple[Tensor, Tensor]:
    """Positions of the tokens that stay (B, N - R), prefix first, and of those that go (B, R)."""
    order = score.sort(dim=-1, descending=True, stable=True).indices + num_prefix_tokens
    kept = order[:, num_removed:].sort(dim=-1).values
    prefix = torch.arange(num_prefix_tokens, device=score.device).expand(len(score), -1)
    return torch.cat([prefix, kept], dim=1), order[:, :num_removed]


def plan_merge(
    score: Tensor,
    destination: Tensor,
    *,
    num_removed: int,
    num_tokens: int,
    num_prefix_tokens: int,
) -> MergePlan:
    """Merge the sources with the highest score, each into its own destination.

    Args:
        score: (B, S), of every source; of equal ones the lower index is merged first.
        destination: (B, S), number of each source's destination, in 0 ... T - 1.
        num_removed: R, at most S.
        num_tokens: N, prefix tokens included.
        num_prefix_tokens: P.

    Source: Bolya et al. 2023 (Token Merging), section 3, bipartite soft matching.
    """
    order = score.sort(dim=-1, descending=True, stable=True).indices
    merged = order[:, :num_removed]
    keep_idx = _kept(order[:, num_removed:], num_tokens, num_prefix_tokens)
    num_destinations = num_tokens - num_prefix_tokens - score.shape[1]
    first_destination = num_tokens - num_removed - num_destinations
    return MergePlan(
        keep_idx=keep_idx,
        src_idx=num_prefix_tokens + 1 + 2 * merged,
        dst_idx=first_destination + destination.gather(-1, merged),
    )


def _kept(unreduced: Tensor, num_tokens: int, num_prefix_tokens: int) -> Tensor:
    """Old positions of the survivors, in their new order.

    Args:
        unreduced: (B, S - R), numbers of the sources that stay, in any order.
        num_tokens: N.
        num_prefix_tokens: P.
    """
    B = unreduced.shape[0]
    position = torch.arange(num_tokens, device=unreduced.device).expand(B, -1)
    return torch.cat(
        [
            position[:, :num_prefix_tokens],
            num_prefix_tokens + 1 + 2 * unreduced.sort(dim=-1).values,
            position[:, num_prefix_tokens::2],
        ],
        dim=1,
    )
