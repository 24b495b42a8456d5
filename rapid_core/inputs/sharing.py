"""Copies of a module that share its weights."""

import copy
from types import MethodType

from torch import nn


def shallow_copy(model: nn.Module) -> nn.Module:
    """A copy of a module: its own dictionaries, the same children, parameters and buffers."""
    twin = copy.copy(model)
    for name, value in vars(model).items():
        if isinstance(value, dict | set):
            vars(twin)[name] = copy.copy(value)
        elif isinstance(value, MethodType) and value.__self__ is model:
            vars(twin)[name] = MethodType(value.__func__, twin)
    return twin
