"""The interface of a backend to the engine: the variants it computes, and how."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from service.backends.pixels import Normalization


class Variant(NamedTuple):
    """A model with one reduction."""

    model: str
    method: str
    r: int | None
    """None where the schedule is not constant."""
    module: nn.Module
    """images (B, 3, H, W) -> logits (B, K)."""
    schedule: tuple[int, ...]
    """tokens that each block really removes."""
    num_output_tokens: int
    macs: int
    """multiply-adds of one image."""
    macs_ratio: float = 1.0
    """multiply-adds as a share of the unreduced model's."""
    dtype: torch.dtype = torch.float32
    """dtype of the images that `module` takes."""
    normalization: Normalization | None = None
    """for images that come as bytes; None if none do."""


class Prepared(Protocol):
    """Computes batches, and may prepare for some variants before."""

    def capture(
        self, variants: Sequence[Variant], input_size: Sequence[int], max_batch_size: int
    ) -> None:
        """Prepare for some variants, before there are batches.

        Args:
            variants: variants of a model on the device.
            input_size: channels, height and width of an image.
            max_batch_size: most images in a batch.
        """

    def run(self, variant: Variant, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W), which are on the device, in the variant's dtype.

        This also computes a batch that nothing was prepared for.
        """


def eagerly(variant: Variant, images: Tensor) -> Tensor:
    """Logits (B, K) of images (B, 3, H, W), which are on the device, in the variant's dtype."""
    logits: Tensor = variant.module(images)
    return logits
