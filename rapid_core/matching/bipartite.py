"""Bipartite matching of sources and destinations, from keys or tokens to a plan.

Source: Bolya et al. 2023 (Token Merging), section 3, bipartite soft matching.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from rapid_core.contract import Evidence, Planner, TokenLayout
from rapid_core.matching import fused, scoring, selection
from rapid_core.plans import MergePlan, Plan, PrunePlan

MATCH_ON = ("key", "token")
"""What can be compared: the block's keys, or the tokens themselves."""


class Matching(NamedTuple):
    """The steps from keys (B, H, N, D) to a plan. `PYTORCH` and `FUSED` compute the same."""

    redundancy: Callable[[Tensor, int, float], tuple[Tensor, Tensor]]
    """(keys, P, τ) -> redundancy of each source, and its mean similarity: (B, S) and (B, S)."""
    best_match: Callable[[Tensor, int, Tensor | None, float], tuple[Tensor, Tensor]]
    """(keys, P, A, λ) -> merge score of each source, and its destination: (B, S) and (B, S)."""
    plan_prune: Callable[..., PrunePlan]
    """as `selection.plan_prune`."""
    plan_merge: Callable[..., MergePlan]
    """as `selection.plan_merge`."""


def matching_for(keys: Tensor, layout: TokenLayout) -> Matching:
    """The fused kernels where they are wanted and can take these keys, else PyTorch."""
    return FUSED if layout.fused_kernels and fused.can_match(keys) else PYTORCH


def matched_on(feature: str, planner: Planner) -> Planner:
    """A planner whose matching compares one of `MATCH_ON`; on keys, it is the planner itself.

    "token" is the residual stream after the block's attention, which is what will be merged.
    """
    return partial(_on_tokens, planner) if feature == "token" else planner


def _on_tokens(planner: Planner, seen: Evidence, num_removed: int) -> Plan:
    return planner(seen._replace(compared=seen.tokens.x[:, None]), num_removed)


def merge_similar(
    seen: Evidence,
    num_removed: int,
    *,
    layout: TokenLayout,
    importance: Tensor | None = None,
    weight: float = 0.0,
) -> MergePlan:
    """Merge the sources with the highest score into their most similar destinations.

    Args:
        seen: the block's evidence.
        num_removed: R.
        layout: of the model.
        importance: (B, N), A of `scoring.merge_score`; None: the score is the similarity alone.
        weight: λ of `scoring.merge_score`.
    """
    keys, P = seen.features, layout.num_prefix_tokens
    matching = matching_for(keys, layout)
    score, destination = matching.best_match(keys, P, importance, weight)
    return matching.plan_merge(
        score,
        destination,
        num_removed=num_removed,
        num_tokens=keys.shape[2],
        num_prefix_tokens=P,
    )


def _redundancy(keys: Tensor, num_prefix_tokens: int, threshold: float) -> tuple[Tensor, Tensor]:
    similarities = scoring.similarity(keys, num_prefix_tokens)
    return scoring.redundancy(similarities, threshold), similarities.mean(dim=-1)


def _best_match(
    keys: Tensor, num_prefix_tokens: int, importance: Tensor | None, weight: float
) -> tuple[Tensor, Tensor]:
    similarities = scoring.similarity(keys, num_prefix_tokens)
    # argmax promises the first of equal values; max(dim) does not.
    destination = similarities.argmax(dim=-1)
    score = similarities.gather(-1, destination[..., None])[..., 0]
    if importance is not None:
        important = scoring.sources(importance, num_prefix_tokens)
        score = scoring.merge_score(score, important, weight)
    return score, destination


PYTORCH = Matching(_redundancy, _best_match, selection.plan_prune, selection.plan_merge)
FUSED = Matching(fused.redundancy, fused.best_match, fused.plan_prune, fused.plan_merge)
