"""Scores and merging keep their precision under automatic mixed precision."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which matrix products keep their inputs' dtype.

    Automatic mixed precision would round the similarities, and the residual stream when tokens are
    merged, to 16 bits. Computing both in full precision costs little: they are a tiny share of the
    work.
    """
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
