"""Pixels on their way to the device: stacked, copied, and normalised there if they are bytes.

A picture of bytes takes a quarter of its size in float32. So the decoding threads convert less, and
less is stacked and copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BYTE_MAX = 255


@dataclass(frozen=True, eq=False)
class Normalization:
    """The last steps of a model's transform: from bytes to normalised float32."""

    mean: Tensor
    """(3, 1, 1), float32"""
    std: Tensor
    """(3, 1, 1), float32"""

    def to(self, device: torch.device) -> "Normalization":
        """The same normalisation for batches on another device."""
        return Normalization(self.mean.to(device), self.std.to(device))

    def __call__(self, batch: Tensor) -> Tensor:
        """Bytes (B, 3, H, W), uint8 -> (B, 3, H, W), float32."""
        return batch.float().div_(BYTE_MAX).sub_(self.mean).div_(self.std)


def to_device(
    images: Sequence[Tensor],
    normalization: Normalization | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """A batch (B, 3, H, W) on the device. The host does not wait until a copy to a GPU is done.

    Args:
        images: each (3, H, W), uint8, or float32 and already normalised; a batch may have both.
        normalization: for the uint8 images, on that device; None if there are none.
        device: device of the result.
        dtype: dtype of the result; the normalisation computes in float32.
    """
    if len({image.dtype for image in images}) > 1:
        alone = ([image] for image in images)
        return torch.cat(
            [to_device(one, normalization, device=device, dtype=dtype) for one in alone]
        )
    batch = _stack(images, is_pinned=device.type == "cuda").to(device, non_blocking=True)
    if batch.dtype == torch.uint8:
        assert normalization is not None
        batch = normalization(batch)
    return batch.to(dtype)


def _stack(images: Sequence[Tensor], *, is_pinned: bool) -> Tensor:
    """(B, 3, H, W) on the host. From pinned memory, a copy to a GPU needs no waiting.

    PyTorch keeps pinned memory and reuses it once the copy from it is done.
    """
    if not is_pinned:
        return torch.stack(list(images))
    shape = (len(images), *images[0].shape)
    return torch.stack(list(images), out=torch.empty(shape, dtype=images[0].dtype, pin_memory=True))
