"""JPEG files: bounded in scans and segments, and without metadata."""

import re
from itertools import islice

from service.errors import ImageRejectedError
from service.images.formats import orientation
from service.images.formats.source import Source

SIGNATURE = b"\xff\xd8"
MAX_SCANS = 32
"""most scans of a JPEG. Encoders write about ten; even a short one is a pass over all pixels."""
MAX_SEGMENTS = 10_000
"""most segments of a JPEG, scans included; a photo has some dozens."""
MAX_FILLING = 1 << 16
"""most bytes between two segments; there are none, as a rule"""
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""start of a JPEG segment; FF 00 and restart markers are data of a scan, FF FF is padding."""
SCAN, END_OF_IMAGE = 0xDA, 0xD9
SCANS = re.compile(rb"\xff\xda")
WITHOUT_LENGTH = (0x01, 0xD8)
EXIF, XMP, PROFILE = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
APP1, APP2 = 0xE1, 0xE2
NEEDED = {*range(0xC0, 0xD0), *range(0xDB, 0xE0), 0xE0, 0xEE} - {0xC8}
"""Frames and tables; APP0 (JFIF) and APP14 (Adobe) say what the colours are. Reserved segments are
not among these: Pillow looks for others within them."""


def read(body: bytes) -> Source:
    """The file without metadata, and its orientation.

    Raises:
        ImageRejectedError: it takes far more time than its pixels and bytes suggest.
    """
    _check_scans(body)
    kept = [SIGNATURE]
    exif, xmp = [EXIF], b""
    at, num_segments = len(SIGNATURE), 0
    while (found := _next_marker(body, at)) and found[0][1] not in (SCAN, END_OF_IMAGE):
        num_segments += 1
        if num_segments > MAX_SEGMENTS:
            raise _too_many()
        marker, data = found[0][1], found.end() + 2
        at = _end_of_segment(body, found)
        if marker == APP1 and body.startswith(EXIF, data):
            exif.append(body[data + len(EXIF) : at])  # a long block continues in the next segment
        elif marker == APP1 and body.startswith(XMP, data):
            xmp = body[data:at]
        elif marker in NEEDED or (marker == APP2 and body.startswith(PROFILE, data)):
            kept.append(body[found.start() : at])
    block = b"".join(exif) if len(exif) > 1 else b""
    rest = memoryview(body)[found.start() :] if found else b""
    return Source((b"".join(kept), rest), orientation=orientation.of(block, xmp))


def _next_marker(body: bytes, at: int) -> re.Match[bytes] | None:
    """The first marker from `at` on, before the pixels; None: the file has no more."""
    found = MARKER.search(body, at, at + MAX_FILLING)
    if found is None and at + MAX_FILLING < len(body):
        raise ImageRejectedError("the image file consists of too many tiny parts")
    return found


def _end_of_segment(body: bytes, found: re.Match[bytes]) -> int:
    """Where the segment ends whose marker was found."""
    if found[0][1] in WITHOUT_LENGTH:
        return found.end()
    return found.end() + max(2, int.from_bytes(body[found.end() : found.end() + 2]))


def _check_scans(body: bytes) -> None:
    """Refuse a JPEG of too many scans.

    Other formats need no such check: in a TIFF, libtiff itself stops at 100 scans.
    """
    # Counting is quick and never finds too few. It finds too many if a preview or a film follows
    # the picture.
    if sum(1 for _ in islice(SCANS.finditer(body), MAX_SCANS + 1)) <= MAX_SCANS:
        return
    num_scans = num_segments = 0
    at = len(SIGNATURE)
    while (found := MARKER.search(body, at)) and found[0][1] != END_OF_IMAGE:
        at = _end_of_segment(body, found)
        num_segments += 1
        num_scans += found[0][1] == SCAN
        if num_scans > MAX_SCANS or num_segments > MAX_SEGMENTS:
            raise _too_many()


def _too_many() -> ImageRejectedError:
    return ImageRejectedError(
        f"the JPEG file has too many scans or segments; allowed are {MAX_SCANS} scans and "
        f"{MAX_SEGMENTS} segments, save it as a baseline JPEG"
    )
