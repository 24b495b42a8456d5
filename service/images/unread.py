"""Kinds of JPEG and TIFF that no decoder here reads, found in their headers.

Source: ITU-T T.81, table B.1; TIFF 6.0, sections 2 and 8; DNG 1.7
"""

import struct

What = tuple[str, str]
"""what came, with its article, and what to send instead"""

MAX_SEGMENTS = 300
MAX_ENTRIES = 200
NO_FRAMES = (0xC4, 0xC8, 0xCC)
"""markers among those of frames that begin none: tables, an extension, arithmetic coding"""
LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
HIERARCHICAL = (0xC5, 0xC6, 0xCD, 0xCE)
JPEG_LS = 0xF7
EIGHT_BITS = "save it as a baseline JPEG with 8 bits a channel"

BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, SAMPLE_FORMAT = 258, 259, 262, 277, 339
DNG_VERSION = 50706
RAW_PHOTOMETRICS = (32803, 34892)
"""a sensor's colour filters, and its linear values"""
FLOATS, COMPLEX = 3, (5, 6)
COMPRESSIONS = {
    6: "JPEG of the old kind",
    7: "JPEG",
    32767: "a camera's own method",
    34676: "SGI Log",
    34677: "SGI Log",
    34712: "JPEG 2000",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34713: "a camera's own method",
    34887: "LERC",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
RAW_COMPRESSIONS = (32767, 34713)
SAVE_TIFF = "save it with 8 or 16 bits a channel, LZW-compressed or not at all"
DEVELOPED = "develop it, and send that as JPEG or PNG"


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
    """What kind of TIFF this is, as far as its first directory says so."""
    tags = tiff_tags(body)
    if not tags:
        return None
    bits, compression = tags.get(BITS, 1), tags.get(COMPRESSION, 1)
    photometric, sample_format = tags.get(PHOTOMETRIC, 0), tags.get(SAMPLE_FORMAT, 1)
    is_raw = photometric in RAW_PHOTOMETRICS or compression in RAW_COMPRESSIONS
    if body[8:10] == b"CR" or DNG_VERSION in tags or is_raw:
        return "a raw photo (CR2, NEF, ARW, DNG: they look like TIFF)", DEVELOPED
    if sample_format == FLOATS:
        return f"a TIFF of {bits}-bit floats", SAVE_TIFF
    if sample_format in COMPLEX:
        return "a TIFF of complex numbers", SAVE_TIFF
    if bits > 16:
        return f"a TIFF of {bits} bits a channel", SAVE_TIFF
    if compression in COMPRESSIONS:
        return f"a TIFF compressed by {COMPRESSIONS[compression]}", SAVE_TIFF
    numbers = f"{tags.get(SAMPLES, 1)} x {bits} bits, photometric {photometric}"
    what = f"a TIFF that is damaged or of a kind that is not known ({numbers}, compression"
    return f"{what} {compression})", SAVE_TIFF


def tiff_tags(body: bytes) -> dict[int, int]:
    """The first value of each tag of whole numbers in the first directory.

    Args:
        body: a TIFF; of a BigTIFF nothing is found.
    """
    order = "<" if body.startswith(b"II") else ">"
    try:
        start = struct.unpack_from(f"{order}I", body, 4)[0]
        number = struct.unpack_from(f"{order}H", body, start)[0]
        entries = [
            struct.unpack_from(f"{order}HHI4s", body, start + 2 + 12 * entry)
            for entry in range(min(number, MAX_ENTRIES))
        ]
        return {tag: _value(body, order, kind, num, raw) for tag, kind, num, raw in entries}
    except struct.error:  # it is cut off, or points beyond its end
        return {}


def _value(body: bytes, order: str, kind: int, number: int, raw: bytes) -> int:
    """The first of a tag's values, which stand elsewhere if they need more than four bytes."""
    code, size = {1: ("B", 1), 3: ("H", 2), 4: ("I", 4)}.get(kind, ("I", 4))
    if kind in (1, 3, 4) and number * size > 4:
        at = struct.unpack(f"{order}I", raw)[0]
        return int(struct.unpack_from(f"{order}{code}", body, at)[0])
    return int(struct.unpack_from(f"{order}{code}", raw)[0])
