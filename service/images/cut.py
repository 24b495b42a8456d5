"""Which part of a picture the resized and cropped picture depends on.

A decoding process sends only this part, and the service resizes it: see `service.images.resample`.
No PyTorch here: a process that only decodes stays small.
"""

from typing import NamedTuple

from PIL import Image

from service.images.formats.source import Box
from service.images.shrink import Shrink

MAX_PIXELS = 1_500_000
"""pixels of the largest picture that is cut; of a larger one, Pillow's few pixels travel faster"""
MAX_HEIGHT = 1.8
"""Heights, in widths, up to which Pillow resizes rows before columns, whatever its version."""
MAX_SCALE = 7.5
"""how many times smaller a side may become; beyond, the sums do not fit into float32"""
SUPPORT = {Image.Resampling.BILINEAR: 1.0, Image.Resampling.BICUBIC: 2.0}
"""pixels on each side of a new pixel that it depends on, before the picture becomes smaller"""


class Columns(NamedTuple):
    """A part of a picture, column by column."""

    size: tuple[int, int]
    """width and height of the whole picture"""
    pixels: bytearray
    """RGB (width, height, 3) of the part"""


class Axis(NamedTuple):
    """How one side of a picture is resized and cropped."""

    length: int
    """pixels of the side"""
    resized: int
    """pixels of the side after resizing"""
    first: int
    """the first pixel that the crop keeps of these"""
    kept: int
    """how many it keeps"""

    def center(self, number: int) -> float:
        """Where the pixel of this number after resizing lies, in pixels of the side."""
        return (number + 0.5) * (self.length / self.resized)

    def reach(self, support: float) -> float:
        """On each side of a new pixel, how many pixels it depends on."""
        return support * max(1.0, self.length / self.resized)

    def span(self, support: float) -> tuple[int, int]:
        """The first pixel that the crop depends on, and the one after the last."""
        reach = self.reach(support)
        start = int(self.center(self.first) - reach + 0.5)
        stop = int(self.center(self.first + self.kept - 1) + reach + 0.5)
        return max(0, start), min(self.length, stop)


class Cut(NamedTuple):
    """Resizing, by a filter of Pillow, and the square crop of the middle."""

    size: int
    """pixels of the shorter side after resizing"""
    side: int
    """pixels of a side of the crop, at most `size`"""
    resample: int
    """filter, as Pillow counts them: a key of `SUPPORT`"""

    def axes(self, size: tuple[int, int]) -> tuple[Axis, Axis]:
        """What becomes of the width and the height of a picture."""
        resized = Shrink(self.size, self.resample).size_of(size)
        across, down = (
            Axis(length, new, round((new - self.side) / 2), self.side)
            for length, new in zip(size, resized, strict=True)
        )
        return across, down

    def box(self, size: tuple[int, int]) -> Box | None:
        """The part that the result depends on; None: the picture is left to Pillow."""
        width, height = size
        if width * height > MAX_PIXELS or height > MAX_HEIGHT * width:
            return None
        if not self.size < min(size) <= MAX_SCALE * self.size:
            return None
        support = SUPPORT[Image.Resampling(self.resample)]
        (left, right), (top, bottom) = (axis.span(support) for axis in self.axes(size))
        return left, top, right, bottom

    def columns(self, picture: Image.Image) -> bytes | None:
        """The pixels of the part, as `Columns` holds them; None: the picture is left to Pillow."""
        box = self.box(picture.size)
        if box is None:
            return None
        return picture.crop(box).transpose(Image.Transpose.TRANSPOSE).tobytes()
