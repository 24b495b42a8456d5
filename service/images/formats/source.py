"""What a reader of one format tells about a picture file before Pillow opens it."""

from typing import NamedTuple

from service.images.formats.parts import Part

Box = tuple[int, int, int, int]
"""left, top, right and bottom edge in pixels"""


class Source(NamedTuple):
    """A picture file without what does not matter for its pixels, and what Pillow does not tell."""

    parts: tuple[Part, ...]
    """the file for Pillow, cut into parts"""
    refusal: str = ""
    """what to say if Pillow cannot open it; empty: that its format is not known"""
    size: tuple[int, int] | None = None
    """width and height, where Pillow would take memory for the pixels to find them"""
    orientation: int | None = None
    """1 ... 8 as EXIF has it; None: what Pillow finds counts"""
    frame: Box | None = None
    """what of the picture the first frame covers; None: all of it, or Pillow tells"""
    bits: int = 16
    """bits of a sample where Pillow gives 16 bits of grey, and of the samples in `key`"""
    inverted: bool = False
    """Grey of 16 bits is stored as its negative, and Pillow does not invert it."""
    key: tuple[int, ...] = ()
    """samples of the one grey or RGB colour that is transparent; empty: none is"""
    raw_planes: str = ""
    """what the samples of separate planes are, as Pillow writes it (`;16L`); empty: Pillow knows"""
    certain_alpha: bool = True
    """False: an alpha channel that is 0 everywhere is no alpha channel."""
