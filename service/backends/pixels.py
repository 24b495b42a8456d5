"""Pixels on their way to the device: stacked, copied, and normalised there if they are bytes.

A picture of bytes is a quarter of what it is in float32: less to convert in the threads that
decode, to stack and to copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BYTE_MAX = 255


@dataclass(frozen=True, eq=False)
class Normalization:
    """From bytes to what a model was trained on: the steps of its transform, in their order."""

    mean: Tensor
    """(3, 1, 1), float32"""
    std: Tensor
    """(3, 1, 1), float32"""

    def to(self, device: torch.device) -> "Normalization":
        """The same for batches on another device."""
        return Normalization(self.mean.to(device), self.std.to(device))

    def __call__(self, batch: Tensor) -> Tensor:
        """Bytes (B, 3, H, W), uint8 -> (B, 3, H, W), float32."""
        return batch.float().div_(BYTE_MAX).sub_(self.mean).div_(self.std)


def place(
    images: Sequence[Tensor],
    normalization: Normalization | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """A batch (B, 3, H, W) on the device. The host does not wait for a GPU to have it.

    Args:
        images: each (3, H, W): uint8, or float32 and already normalised; both may come together.
        normalization: of the bytes, on that device; None if there are none.
        device: where the batch is wanted.
        dtype: that it is wanted in; the normalisation computes in float32.
    """
    if len({image.dtype for image in images}) > 1:
        alone = ([image] for image in images)
        return torch.cat([place(one, normalization, device=device, dtype=dtype) for one in alone])
    batch = _stack(images, is_pinned=device.type == "cuda").to(device, non_blocking=True)
    if batch.dtype == torch.uint8:
        assert normalization is not None
        batch = normalization(batch)
    return batch.to(dtype)


def _stack(images: Sequence[Tensor], *, is_pinned: bool) -> Tensor:
    """(B, 3, H, W) on the host; pinned, it is copied to a GPU without waiting.

    PyTorch keeps pinned memory and hands it out again once the copy from it is done.
    """
    if not is_pinned:
        return torch.stack(list(images))
    shape = (len(images), *images[0].shape)
    return torch.stack(list(images), out=torch.empty(shape, dtype=images[0].dtype, pin_memory=True))
