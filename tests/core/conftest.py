"""Fixtures of the core tests; the models are made by `tiny.py`."""

import pytest
from hypothesis import settings
from torch import Tensor, nn

from .tiny import random_images, tiny_vit

settings.register_profile("core", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("core")


@pytest.fixture(scope="session")
def model() -> nn.Module:
    """The plainest tiny model; never change it."""
    return tiny_vit()


@pytest.fixture(scope="session")
def images(model: nn.Module) -> Tensor:
    """Two images for it."""
    return random_images(model)
