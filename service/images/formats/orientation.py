"""Which way up a picture is, from the metadata of its file."""

import logging
import re
import struct

from PIL import Image

from service.images.formats import tiff_tags

logger = logging.getLogger(__name__)

TAG = 274
EXIF_HEADER = re.compile(rb"\A(?:Exif\x00\x00){1,2}")
IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')

# What shows a picture the right way up that a camera stored with this orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def of(exif: bytes | None, xmp: bytes | str | None = None) -> int:
    """The orientation, 1 ... 8. The EXIF block counts before XMP; a damaged one counts as 1.

    Only this one tag is looked at: a block may hold tens of thousands of others.
    """
    found: int | None = None
    if exif:
        try:
            found = in_tags(tiff_tags.read(EXIF_HEADER.sub(b"", exif), (TAG,)))
        except (SyntaxError, struct.error) as exc:
            # The type only: the message may quote the block, and logs hold nothing of an image.
            logger.debug("unreadable EXIF block: %s", type(exc).__name__)
    if found is None and xmp:
        in_xmp = IN_XMP.search(xmp if isinstance(xmp, bytes) else xmp.encode())
        found = int(in_xmp[1]) if in_xmp else None
    return found or 1


def in_tags(tags: tiff_tags.Tags) -> int | None:
    """The orientation that TIFF tags give; None: they give none, or none that is known."""
    (value,) = tags.numbers(TAG, 1) or (0,)
    return value if 1 <= value <= 8 else None


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """The picture the right way up."""
    turn = TURNS.get(orientation)
    return picture if turn is None else picture.transpose(turn)
