"""WebP files: their size, and what of it the first frame covers, from the head of the file."""

import struct

from service.images.formats.source import Box, Source

HEAD = struct.Struct("<4sI")
FIRST_CHUNK = 12
MAX_CHUNKS = 100
"""most chunks before the first frame that are looked at"""


def is_webp(body: bytes) -> bool:
    """The bytes begin as a WebP file does."""
    return body.startswith(b"RIFF") and body[8:FIRST_CHUNK] == b"WEBP"


def read(body: bytes) -> Source:
    """The file as it is; Pillow takes memory for the whole canvas to find its size."""
    num_bytes = int.from_bytes(body[4:8], "little") + 8
    # Another length is that of a file that was cut off or changed: then its size means nothing.
    size = canvas(body) if len(body) in (num_bytes, num_bytes + 1) else None
    return Source((body,), size=size, frame=_first_frame(body) if size else None)


def canvas(body: bytes) -> tuple[int, int] | None:
    """Width and height of the canvas; None: the header is damaged. Container, and RFC 6386, 9.1."""
    kind, data = body[12:16], body[20:30]
    if kind == b"VP8X" and len(data) == 10:
        return _int24(data, 4) + 1, _int24(data, 7) + 1
    if kind == b"VP8 " and len(data) == 10:
        width, height = struct.unpack("<HH", data[6:10])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and len(data) >= 5:
        bits = int.from_bytes(data[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _first_frame(body: bytes) -> Box | None:
    """What the first frame of an animation covers; None: this is no animation."""
    at = FIRST_CHUNK
    for _ in range(MAX_CHUNKS):
        head = body[at : at + HEAD.size]
        if len(head) < HEAD.size:
            break
        kind, length = HEAD.unpack(head)
        data = body[at + HEAD.size : at + HEAD.size + 12]
        if kind == b"ANMF" and len(data) == 12:
            left, top = 2 * _int24(data, 0), 2 * _int24(data, 3)
            return left, top, left + _int24(data, 6) + 1, top + _int24(data, 9) + 1
        at += HEAD.size + length + length % 2
    return None


def _int24(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")
