"""The tokens of a batch, as one block passes them to the next."""

from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """Tokens of a batch of images, and how many input patches each of them stands for."""

    x: Tensor
    """(B, N, C), prefix tokens first."""
    size: Tensor | None = None
    """(B, N, 1), float32 or wider, >= 1; None while every token stands for one patch."""
    memory: Tensor | None = None
    """(B, N, M), what a method remembers of each token; it is moved with the token."""


def ones_like_size(x: Tensor) -> Tensor:
    """Sizes of tokens (B, N, C) that stand for one patch each: (B, N, 1) ones.

    Sizes are kept in float32 at least: bfloat16 cannot count beyond 256.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.ones(x.shape[0], x.shape[1], 1, dtype=dtype, device=x.device)


def positions(per_token: Tensor) -> Tensor:
    """Numbers of the tokens in their order: (B, N, ...) -> (B, N), int64."""
    return torch.arange(per_token.shape[1], device=per_token.device).expand(len(per_token), -1)
