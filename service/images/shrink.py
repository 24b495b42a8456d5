"""The resizing of a model's transform, done where the picture is decoded.

The pixels that leave a decoding process are then few. The transform finds the picture in its size
already, and leaves it as it is: the result is the same, bit for bit.
"""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image


class Shrink(NamedTuple):
    """How a transform resizes a picture, before it does anything else."""

    size: int | Sequence[int]
    """pixels of the shorter side, which keeps the ratio of the sides; or height and width"""
    resample: int
    """filter, as Pillow counts them"""
    max_untouched: int = 0
    """pixels of a picture that is left to the transform: PyTorch resizes small ones more quickly"""

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The picture in its new size; the same object if nothing is to be done."""
        if picture.width * picture.height <= self.max_untouched:
            return picture
        size = self.size_of(picture.size)
        return picture if size == picture.size else picture.resize(size, self.resample)

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height after resizing."""
        if not isinstance(self.size, int):
            height, width = self.size
            return width, height
        short, long = min(size), max(size)
        longer = int(self.size * long / short)
        return (self.size, longer) if size[0] <= size[1] else (longer, self.size)
