"""Index plans: which tokens of a batch stay, which go, and where to.

A method makes a plan; `reduction.apply_plan` carries it out.
"""

from typing import Literal, NamedTuple

from torch import Tensor


class PrunePlan(NamedTuple):
    """Drop every token that is not kept."""

    keep_idx: Tensor
    """(B, N - R), the tokens that stay, in their new order."""


class MergePlan(NamedTuple):
    """Move some tokens into others."""

    keep_idx: Tensor
    """(B, N - R), the tokens that stay, in their new order."""
    src_idx: Tensor
    """(B, R), the tokens that are merged away; positions among the N old tokens."""
    dst_idx: Tensor
    """(B, R), where each of them goes; positions among the N - R kept tokens."""
    rule: Literal["mean", "mlerp"] = "mean"
    """size-weighted mean, or the plain mean rescaled to the largest norm of the group."""


class FusePlan(NamedTuple):
    """Replace some tokens by one weighted sum of them, which becomes the last token."""

    keep_idx: Tensor
    """(B, N - R - 1), the tokens that stay, in their new order."""
    src_idx: Tensor
    """(B, R + 1), the tokens that are fused."""
    weight: Tensor
    """(B, R + 1), the weight of each of them in the sum."""


class CellPlan(NamedTuple):
    """Replace cells of four patches by one token each, from another embedding of the image."""

    keep_idx: Tensor
    """(B, N - 3k), the tokens that stay, in their order; of each of the k cells the first."""
    src_idx: Tensor
    """(B, 3k), the other tokens of the cells; positions among the N old tokens."""
    dst_idx: Tensor
    """(B, 3k), where the cell of each of them stands, among the kept tokens; the first k differ."""
    x: Tensor
    """(B, M, C), the tokens of all cells that there could be."""
    cell_idx: Tensor
    """(B, k), which of them take the cells' places, in the order of the first k of `dst_idx`."""


Plan = PrunePlan | MergePlan | FusePlan | CellPlan
