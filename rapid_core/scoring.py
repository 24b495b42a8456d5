"""The equations: from keys and attention to the scores that decide which tokens go.

Patch tokens are split by their 0-based position among the patch tokens: odd ones are *sources*
(S = n // 2 of them), which may be removed, even ones are *destinations* (T = n - S), which stay.
"""

import math

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
    """How much of a source is already said by the destinations.

    ``score_i = Σ_j max(s_ij - τ, 0)``

    Args:
        similarities: (B, S, T).
        threshold: τ.

    Returns:
        (B, S), >= 0; the higher, the sooner the source is pruned.

    Source: RAPID (arXiv 2606.08156), Eq. 1.
    """
    return (similarities - threshold).clamp(min=0).sum(dim=-1)


def importance_cutoff(importance: Tensor, top: float) -> Tensor:
    """τ_A, the importance that the most important share of the patches reaches.

    Args:
        importance: (B, n), of all patch tokens.
        top: the share, in (0, 1].

    Returns:
        (B, 1), the ⌈top · n⌉-th largest importance of each image.

    Source: RAPID (arXiv 2606.08156), section on importance-similarity aware merging.
    """
    rank = max(1, math.ceil(top * importance.shape[1]))
    return importance.topk(rank, dim=-1).values[:, -1:]


def merge_score(best_similarity: Tensor, importance: Tensor, weight: float) -> Tensor:
    """How gladly a source is merged into its best destination.

    ``score_i = max_j s_ij - λ A_i``. The printed equation subtracts λ (A_i - τ_A); τ_A is one
    number per image, so it shifts all scores of an image alike and cannot change their order.
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

    A threshold would remove another number of patches from every image, and images of one batch
    need equal numbers: so it is mapped to a fixed ratio once, on sample images.

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


def rollout(attention: Tensor, previous: Tensor | None) -> Tensor:
    """Attention followed back through the blocks to the input.

    ``R_l = (Ā_l + I) / 2 · R_(l-1)``; both terms have rows that sum to 1, and so has R.

    Args:
        attention: (B, N, N), attention of this block, averaged over heads.
        previous: (B, N, M), the rollout before it; None in the first block: the identity.

    Returns:
        (B, N, M).

    Source: Abnar and Zuidema 2020 (arXiv 2005.00928), section 3, attention rollout.
    """
    identity = torch.eye(attention.shape[1], dtype=attention.dtype, device=attention.device)
    if previous is None:
        return (attention + identity) / 2
    return (attention @ previous + previous) / 2


def pseudo_random(num_scores: int, seed: int, device: torch.device) -> Tensor:
    """Numbers that look random and are the same everywhere: (num_scores,), float32, in 0 ... 1.

    An integer hash (splitmix-like, 31 bits) instead of a generator: no state, no transfer from the
    host, and the same on every device and in every batch.
    """
    mask = 0x7FFFFFFF
    value = torch.arange(num_scores, device=device) + (seed * 0x9E3779B1 & mask)
    for factor in (0x45D9F3B, 0x2C1B3C6D, 0x297A2D39):
        value = ((value >> 15 ^ value) * factor) & mask
    return (value >> 15 ^ value).float() / mask
