"""AVIF files without their EXIF block: Pillow unpacks all of it, and rotation stands elsewhere."""

import re

from service.errors import ImageRejectedError
from service.images.formats.source import Source

EXIF_ITEM = re.compile(rb"infe(?:\x02.{3}.{2}|\x03.{3}.{4}).{2}(?=Exif)", re.DOTALL)
"""what comes before the type of an item that is an EXIF block; ISO/IEC 14496-12, 8.11.6"""
UNKNOWN_TYPE = b"skip"
MAX_BLOCKS = 100
"""most EXIF blocks; one is usual"""


def is_iso_media(body: bytes) -> bool:
    """The bytes begin as a file of the formats around AVIF does."""
    return body[4:8] == b"ftyp"


def read(body: bytes) -> Source:
    """The file, whose items of EXIF are of a type that no decoder looks at.

    Raises:
        ImageRejectedError: it has too many of them.
    """
    view = memoryview(body)
    parts: list[bytes | memoryview] = []
    at = 0
    for found in EXIF_ITEM.finditer(body):
        parts += [view[at : found.end()], UNKNOWN_TYPE]
        at = found.end() + len(UNKNOWN_TYPE)
        if len(parts) > 2 * MAX_BLOCKS:
            raise ImageRejectedError("the image file consists of too many tiny parts")
    return Source((*parts, view[at:]) if parts else (body,))
