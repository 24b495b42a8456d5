"""The equations of bipartite matching: from attention keys to the scores of the sources.

Patch tokens are split by their 0-based position among the patch tokens: odd ones are *sources*
(S = n // 2 of them), which may be removed, even ones are *destinations* (T = n - S), which stay.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rapid_core.precision import without_autocast


def sources(per_token: Tensor, num_prefix_tokens: int) -> Tensor:
    """The rows of the source tokens: (B, N, ...) -> (B, S, ...)."""
    return per_token[:, num_prefix_tokens + 1 :: 2]


def destinations(per_token: Tensor, num_prefix_tokens: int) -> Tensor:
    """The rows of the destination tokens: (B, N, ...) -> (B, T, ...)."""
    return per_token[:, num_prefix_tokens::2]


def similarity(keys: Tensor, num_prefix_tokens: int) -> Tensor:
    """Cosine similarity of every source to every destination.

    Args:
        keys: (B, H, N, D), the block's attention keys; they are averaged over heads.
        num_prefix_tokens: tokens at the start that take no part.

    Returns:
        (B, S, T) in -1 ... 1, float32 or wider whatever the dtype of the keys.

    Source: Bolya et al. 2023 (Token Merging), section 3 and Table 1 (keys, cosine, mean of heads).
    """
    metric = keys.to(torch.promote_types(keys.dtype, torch.float32)).mean(dim=1)
    metric = F.normalize(metric, dim=-1)
    with without_autocast(metric.device):
        return sources(metric, num_prefix_tokens) @ destinations(metric, num_prefix_tokens).mT


def redundancy(similarities: Tensor, threshold: float) -> Tensor:
    """How similar a source is to the destinations, beyond a threshold.

    ``score_i = Σ_j max(s_ij - τ, 0)``

    Args:
        similarities: (B, S, T).
        threshold: τ.

    Returns:
        (B, S), >= 0; the higher, the sooner the source is pruned.

    Source: RAPID (arXiv 2606.08156), Eq. 1.
    """
    return (similarities - threshold).clamp(min=0).sum(dim=-1)


def merge_score(best_similarity: Tensor, importance: Tensor, weight: float) -> Tensor:
    """Score of merging a source into its best destination.

    ``score_i = max_j s_ij - λ A_i``. The printed equation subtracts λ (A_i - τ_A). But τ_A is one
    number per image: it shifts all scores of an image alike and cannot change their order.
    For the clamped form, pass ``max(A_i - τ_A, 0)`` as the importance.

    Args:
        best_similarity: (B, S), similarity of each source to its best destination.
        importance: (B, S), A of each source.
        weight: λ.

    Returns:
        (B, S); the higher, the sooner the source is merged.

    Source: RAPID (arXiv 2606.08156), Eq. 2 and 3.
    """
    return best_similarity - weight * importance
