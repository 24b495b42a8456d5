"""Picture files, made byte by byte from the definitions of their formats."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from PIL import Image

Pixels = list[list[tuple[int, ...]]]
"""rows of pixels, each a tuple of samples"""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encoded(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def rows_of(picture: Image.Image) -> Pixels:
    """All pixels of an RGB picture."""
    data = picture.tobytes()
    colors = [tuple(data[at : at + 3]) for at in range(0, len(data), 3)]
    return [colors[at : at + picture.width] for at in range(0, len(colors), picture.width)]


def packed(samples: Sequence[int], bits: int, order: str = ">") -> bytes:
    """One row: samples of these many bits, the first bit first, filled up to whole bytes."""
    if bits == 16:
        return struct.pack(f"{order}{len(samples)}H", *samples)
    text = "".join(f"{sample:0{bits}b}" for sample in samples)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8)


def flat(row: Sequence[tuple[int, ...]]) -> list[int]:
    return [sample for pixel in row for sample in pixel]


# PNG (third edition)


def chunk(kind: bytes, data: bytes, *, damaged: bool = False) -> bytes:
    """A chunk; a damaged one has a wrong checksum."""
    checksum = zlib.crc32(kind + data) ^ (0xFF if damaged else 0)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(pixels: Pixels, color_type: int, bits: int, *between: bytes) -> bytes:
    """A PNG file; `between`: chunks between its header and its pixels."""
    header = struct.pack(">IIBBBBB", len(pixels[0]), len(pixels), bits, color_type, 0, 0, 0)
    data = b"".join(b"\0" + packed(flat(row), bits) for row in pixels)
    chunks = [chunk(b"IHDR", header), *between, chunk(b"IDAT", zlib.compress(data))]
    return b"".join([PNG_SIGNATURE, *chunks, chunk(b"IEND", b"")])


def with_chunks(body: bytes, *chunks: bytes) -> bytes:
    """A PNG file with more chunks behind its header."""
    behind = len(PNG_SIGNATURE) + 25
    return body[:behind] + b"".join(chunks) + body[behind:]


# TIFF 6.0

Values = Sequence[int] | bytes


def tiff(
    pixels: Pixels, bits: int, order: str = "<", *, deflate: bool = False, **tags: Values
) -> bytes:
    """A TIFF file of one strip; `tags`: t262=[1] and the like, added or in place of its own."""
    width, height, samples = len(pixels[0]), len(pixels), len(pixels[0][0])
    strip = b"".join(packed(flat(row), bits, order) for row in pixels)
    return tiff_of(
        zlib.compress(strip) if deflate else strip,
        order,
        {256: [width], 257: [height], 258: [bits] * samples, 259: [8 if deflate else 1]}
        | {262: [2 if samples > 2 else 1], 277: [samples], 278: [height]}
        | {int(name[1:]): values for name, values in tags.items()},
    )


def tiff_of(strip: bytes, order: str, tags: dict[int, Values]) -> bytes:
    """A TIFF file of one strip and these tags. Integers are LONG, bytes are BYTE."""
    tags = {273: [8], 279: [len(strip)], **tags}
    at = 8 + len(strip) + len(strip) % 2
    behind = at + 2 + 12 * len(tags) + 4
    entries = outside = b""
    for tag, values in sorted(tags.items()):
        is_bytes = isinstance(values, bytes)
        data = bytes(values) if is_bytes else struct.pack(f"{order}{len(values)}I", *values)
        place = data.ljust(4, b"\0")
        if len(data) > 4:
            place = struct.pack(order + "I", behind + len(outside))
            outside += data
        entries += struct.pack(order + "HHI", tag, 1 if is_bytes else 4, len(values)) + place
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return (
        mark
        + struct.pack(order + "I", at)
        + strip
        + bytes(len(strip) % 2)
        + struct.pack(order + "H", len(tags))
        + entries
        + bytes(4)
        + outside
    )
