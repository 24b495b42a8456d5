"""AVIF files without their EXIF block: Pillow unpacks all of it, and rotation stands elsewhere."""

import re

from service.images.source import Source

EXIF_ITEM = re.compile(rb"infe(?:\x02.{3}.{2}|\x03.{3}.{4}).{2}(?=Exif)", re.DOTALL)
"""what comes before the type of an item that is an EXIF block; ISO/IEC 14496-12, 8.11.6"""
UNKNOWN_TYPE = b"skip"


def is_avif(body: bytes) -> bool:
    """The bytes begin as a file of the formats around AVIF does."""
    return body[4:8] == b"ftyp"


def read(body: bytes) -> Source:
    """The file, whose items of EXIF are of a type that no decoder looks at."""
    view = memoryview(body)
    parts: list[bytes | memoryview] = []
    at = 0
    for found in EXIF_ITEM.finditer(body):
        parts += [view[at : found.end()], UNKNOWN_TYPE]
        at = found.end() + len(UNKNOWN_TYPE)
    return Source((*parts, view[at:]) if parts else (body,))
