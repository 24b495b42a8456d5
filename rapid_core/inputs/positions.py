"""A model's position embedding, resampled to another grid of patches."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns of patches."""


def resample(positions: Tensor, old: Grid, new: Grid, num_prefix: int) -> Tensor:
    """Resample a position embedding: bicubic with antialiasing, in float32; the prefix stays.

    Args:
        positions: (1, num_prefix + old rows · old columns, C), patches in raster order.
        old: the grid that it is for.
        new: the grid that it becomes.
        num_prefix: positions in front that belong to no patch.

    Returns:
        (1, num_prefix + new rows · new columns, C), of the same dtype; for the same grid, the given
        tensor itself.

    Source: the rule of timm (`timm.layers.resample_abs_pos_embed`), by which its models change
    their size.
    """
    if old == new:
        return positions
    prefix, patches = positions[:, :num_prefix], positions[:, num_prefix:]
    image = patches.float().reshape(1, *old, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=new, mode="bicubic", antialias=True)
    patches = image.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)
    return torch.cat([prefix, patches], dim=1) if num_prefix else patches


class ResampledPositions:
    """A position embedding for another grid, computed once and again only when it has changed.

    The model's own embedding stays where it was, a shared weight like all others. So whatever moves
    or loads the weights reaches this one, too. May be called from several threads at once.
    """

    def __init__(self, old: Grid, new: Grid, num_prefix: int) -> None:
        """Say between which grids; arguments as for `resample`."""
        self.old, self.new, self.num_prefix = old, new, num_prefix
        self._kept: tuple[tuple[object, ...], Tensor] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies compute their own: in a copy, the version of an embedding starts anew."""
        return type(self), (self.old, self.new, self.num_prefix)

    def of(self, positions: Tensor) -> Tensor:
        """`resample(positions, ...)`, or the result of an earlier call for the same weights.

        While gradients are recorded it is always computed, so that they reach the weights. So it is
        in a compiled model, which cannot see whether a weight was written to; a program that is
        exported holds the result of the last call.
        """
        if torch.is_grad_enabled() and positions.requires_grad:
            return self._resample(positions)
        if torch.compiler.is_compiling():
            kept = self._kept if torch.compiler.is_exporting() else None
            return self._resample(positions) if kept is None else kept[1]
        kept, state = self._kept, _state(positions)
        if kept is not None and kept[0] == state:
            return kept[1]
        with torch.inference_mode(mode=False), torch.no_grad():
            resampled = self._resample(positions)
        if not _is_recorded(positions):
            self._kept = state, resampled
        return resampled

    def _resample(self, positions: Tensor) -> Tensor:
        return resample(positions, self.old, self.new, self.num_prefix)


def _state(positions: Tensor) -> tuple[object, ...]:
    """What differs once a weight was moved, converted or written to."""
    version = None if positions.is_inference() else positions._version
    return positions.device, positions.dtype, version


def _is_recorded(positions: Tensor) -> bool:
    """Whether a CUDA graph is being recorded: what is computed now has no values yet."""
    return positions.is_cuda and torch.cuda.is_current_stream_capturing()
