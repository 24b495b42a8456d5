"""Pillow's resizing and the crop after it, computed by PyTorch: the same bits, but sooner.

Pillow sums whole numbers: pixels times coefficients of 22 bits, first along the rows, then along
the columns, each time rounded to bytes. A coefficient is taken apart into an upper and a lower
part, so that the sums of either are exact in float32, and `embedding_bag` adds them up: a new
column is a weighted sum of a few old ones. What the crop drops is not computed.

Source: docs/decisions/0011
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import embedding_bag

from service.images.cut import SUPPORT, Axis, Columns, Cut

BITS = 22
"""bits of Pillow's coefficients behind the point"""
LOWER = 2**11
"""A lower part is below half of this, an upper one is a multiple of it."""
BYTE_MAX = 255
KNOWN_AXES = 256
"""sides for which the coefficients are remembered, a few kilobytes each"""
SAMPLES = ((61, 47), (97, 170), (300, 41), (233, 232))
"""width and height of the pictures by which Pillow is compared"""


class Resampling(NamedTuple):
    """A transform once more, for the part of a picture that its result depends on."""

    transform: Callable[[Image.Image], Tensor]
    """the transform: RGB picture -> (3, H, W)"""
    cut: Cut
    """the resizing and the crop with which it begins"""
    finish: Callable[[Tensor], Tensor]
    """its other steps: levels 0 ... 255 (3, H, W), float32, may change in place -> (3, H, W)"""

    def __call__(self, columns: Columns) -> Tensor:
        """Pixels (3, H, W), the same that the transform gives for the whole picture."""
        return self.finish(resized(columns, self.cut))


class Sums(NamedTuple):
    """Weighted sums of rows: `len(starts)` new ones from old ones."""

    rows: Tensor
    """(N,), int32: the old rows of all sums, one sum after the other"""
    starts: Tensor
    """(M,), int32: where each sum begins in `rows`"""
    upper: Tensor
    """(N,), float32: upper parts of the coefficients"""
    lower: Tensor
    """(N,), float32: lower parts of the coefficients, in units of the last place of the upper"""

    def of(self, table: Tensor) -> Tensor:
        """Levels of old rows, whole numbers (R, D), float32 -> of new rows (M, D), float32."""
        low, high = (
            embedding_bag(self.rows, table, self.starts, mode="sum", per_sample_weights=weights)
            for weights in (self.lower, self.upper)
        )
        # Every step is exact: floor((high + floor(low)) / 2^11 + 1/2), in steps of 2^-11.
        return high.add_(low.floor_(), alpha=1 / LOWER).add_(0.5).floor_().clamp_(0, BYTE_MAX)


def resized(columns: Columns, cut: Cut) -> Tensor:
    """The levels 0 ... 255 of the resized and cropped picture: (3, side, side), float32."""
    across, down = cut.axes(columns.size)
    left, right = across.span(_support(cut.resample))
    old = torch.frombuffer(columns.pixels, dtype=torch.uint8).view(right - left, -1).float()
    rows = sums(across, cut.resample).of(old).t().contiguous()  # of each old row, R, G, B
    return sums_of_planes(down, cut.resample).of(rows).view(3, cut.side, cut.side)


@lru_cache(KNOWN_AXES)
def sums_of_planes(axis: Axis, resample: int) -> Sums:
    """The same as `sums`, of rows that alternate between three colours: all of red come first."""
    rows, starts, *weights = sums(axis, resample)
    upper, lower = (each.repeat(3) for each in weights)
    colors = range(3)
    return Sums(
        rows=torch.cat([3 * rows + color for color in colors]),
        starts=torch.cat([starts + color * len(rows) for color in colors]),
        upper=upper,
        lower=lower,
    )


@lru_cache(KNOWN_AXES)
def sums(axis: Axis, resample: int) -> Sums:
    """The sums by which Pillow resizes one side, of the part that `Axis.span` tells.

    Args:
        axis: what becomes of the side.
        resample: filter, a key of `SUPPORT`.
    """
    support = _support(resample)
    reach, (start, _) = axis.reach(support), axis.span(support)
    numbers = torch.arange(axis.first, axis.first + axis.kept, dtype=torch.float64)
    centers = (numbers + 0.5) * (axis.length / axis.resized)
    lowest = (centers - reach + 0.5).trunc().clamp_min(0)
    beyond = (centers + reach + 0.5).trunc().clamp_max(axis.length)
    places = lowest[:, None] + torch.arange(int((beyond - lowest).max()))
    is_inside = places < beyond[:, None]
    distances = (places - centers[:, None] + 0.5) * (1 / (reach / support))
    weights = torch.where(is_inside, _weight(distances.abs(), resample), 0)
    # Pillow adds them from left to right, which `sum` need not do.
    total = sum(weights.unbind(dim=1), torch.zeros(axis.kept, dtype=torch.float64))
    scaled = weights / total[:, None] * 2**BITS
    whole = (scaled.abs() + 0.5).trunc().copysign(scaled)[is_inside]
    upper = (whole / LOWER).round()
    counts = is_inside.sum(dim=1)
    return Sums(
        rows=(places[is_inside] - start).int(),
        starts=(counts.cumsum(0) - counts).int(),
        upper=(upper / LOWER).float(),
        lower=((whole - upper * LOWER) / LOWER).float(),
    )


def _weight(distances: Tensor, resample: int) -> Tensor:
    """The filter at these distances, at least 0, in the order of Pillow's operations."""
    x = distances
    if resample == Image.Resampling.BILINEAR:
        return (1 - x).clamp_min(0)
    a = -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < SUPPORT[Image.Resampling.BICUBIC], far, 0))


def _support(resample: int) -> float:
    return SUPPORT[Image.Resampling(resample)]


def agrees(cut: Cut) -> bool:
    """The Pillow that is installed gives the same bits, for a few pictures of noise."""
    small = Cut(32, min(cut.side, 32), cut.resample)
    return all(_is_same(small, size) for size in SAMPLES)


def _is_same(cut: Cut, size: tuple[int, int]) -> bool:
    noise = torch.randint(256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(0))
    picture = Image.frombytes("RGB", size, bytes(noise.flatten().tolist()))
    across, down = cut.axes(size)
    left, top = across.first, down.first
    pillows = picture.resize((across.resized, down.resized), Image.Resampling(cut.resample))
    box = (left, top, left + cut.side, top + cut.side)
    expected = torch.frombuffer(bytearray(pillows.crop(box).tobytes()), dtype=torch.uint8)
    pixels = cut.columns(picture)
    if pixels is None:
        return False
    found = resized(Columns(size, bytearray(pixels)), cut).permute(1, 2, 0).flatten()
    return torch.equal(found, expected.float())
