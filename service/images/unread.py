"""Kinds of JPEG and TIFF that no decoder here reads, found in their headers.

Source: ITU-T T.81, table B.1; TIFF 6.0, sections 2 and 8; DNG 1.7
"""

import struct

from service.images.formats import tiff_tags
from service.images.formats.tiff_layout import BITS, COMPRESSION, PHOTOMETRIC, SAMPLE_FORMAT
from service.images.signatures import DEVELOPED

What = tuple[str, str]
"""what came, with its article, and what to send instead"""

MAX_SEGMENTS = 300
NO_FRAMES = (0xC4, 0xC8, 0xCC)
"""markers among those of frames that begin none: tables, an extension, arithmetic coding"""
LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
HIERARCHICAL = (0xC5, 0xC6, 0xCD, 0xCE)
JPEG_LS = 0xF7
EIGHT_BITS = "save it as a baseline JPEG with 8 bits a channel"

DNG_VERSION = 50706
WANTED = (BITS, COMPRESSION, PHOTOMETRIC, SAMPLE_FORMAT, DNG_VERSION)
RAW_PHOTOMETRICS = (32803, 34892)
"""a sensor's colour filters, and its linear values"""
NOT_WHOLE = (3, 5, 6)
"""sample formats of floating-point and complex numbers: the reader of TIFF names them"""
COMPRESSIONS = {
    6: "JPEG of the old kind",
    7: "JPEG",
    34676: "SGI Log",
    34677: "SGI Log",
    34712: "JPEG 2000",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34887: "LERC",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
RAW_COMPRESSIONS = (32767, 34713)
SAVE_TIFF = "save it with 8 or 16 bits a channel, LZW-compressed or not at all"


def jpeg_kind(body: bytes) -> What | None:
    """What kind of JPEG this is, if it is one that is not read."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        at = _after_padding(body, at)
        head = body[at : at + 4]
        if len(head) < 4 or head[0] in (0xD8, 0xD9, 0xDA):
            return None
        marker, length, bits = head[0], int.from_bytes(head[1:3]), head[3]
        if marker == JPEG_LS:
            return "a JPEG-LS picture", EIGHT_BITS
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAMES:
            return _frame(marker, bits)
        at += 1 + length
    return None


def _after_padding(body: bytes, at: int) -> int:
    """Where the byte behind FF stands; a marker may have a few FF in front of it."""
    if body[at : at + 1] != b"\xff":
        return len(body)
    for _ in range(16):
        if body[at : at + 1] != b"\xff":
            break
        at += 1
    return at


def _frame(marker: int, bits: int) -> What | None:
    if marker in LOSSLESS:
        return "a lossless JPEG", EIGHT_BITS
    if marker in HIERARCHICAL:
        return "a hierarchical JPEG", EIGHT_BITS
    if bits != 8:
        return f"a {bits}-bit JPEG", EIGHT_BITS
    return None


def tiff_kind(body: bytes) -> What | None:
    """The name of a raw photo, or of a compression that is not read; None: it is neither."""
    try:
        tags = tiff_tags.read(body, WANTED)
        first = {tag: numbers[0] for tag in WANTED if (numbers := tags.numbers(tag, 1))}
    except (SyntaxError, struct.error):  # it is cut off, or points beyond its end
        return None
    compression = first.get(COMPRESSION, 1)
    is_raw = first.get(PHOTOMETRIC, 0) in RAW_PHOTOMETRICS or compression in RAW_COMPRESSIONS
    if body[8:10] == b"CR" or DNG_VERSION in tags or is_raw:
        return "a raw photo (CR2, NEF, ARW, DNG: they look like TIFF)", DEVELOPED
    if first.get(SAMPLE_FORMAT, 1) in NOT_WHOLE or first.get(BITS, 1) > 16:
        return None
    if compression in COMPRESSIONS:
        return f"a TIFF compressed by {COMPRESSIONS[compression]}", SAVE_TIFF
    return None
