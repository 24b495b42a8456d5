"""Fixtures of the core tests; the models are made by `tiny.py`."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from .tiny import random_images, tiny_vit

settings.register_profile("core", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("core")


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from more, and on a busy machine threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model() -> nn.Module:
    """The plainest tiny model; never change it."""
    return tiny_vit()


@pytest.fixture(scope="session")
def images(model: nn.Module) -> Tensor:
    """Two images for it."""
    return random_images(model)
