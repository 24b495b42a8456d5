"""Which parts of a forward keep their precision whatever the caller asked for."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which matrix products keep their inputs' dtype.

    Automatic mixed precision would round similarities, and the residual stream that is merged, to
    16 bits; both are a tiny share of the work.
    """
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
