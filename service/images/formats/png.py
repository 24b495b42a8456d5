"""PNG files: only the chunks that matter for pixels reach Pillow.

Texts are never inflated, and a wrong checksum matters only where browsers mind it: in the chunks
that the pixels need. A damaged chunk of another kind counts as absent.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from service.errors import ImageRejectedError
from service.images.formats import orientation
from service.images.formats.source import Source

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 100_000
"""most chunks; an encoder may write one for each 8 KB of pixels"""
MAX_PROFILE = 1 << 20
"""most bytes of an ICC profile, inflated; Pillow refuses larger ones"""
HEAD = struct.Struct(">I4s")
HEADER = struct.Struct(">IIBBBBB")
END = b"\0\0\0\0IEND\xaeB`\x82"
GREY, RGB, PALETTE = 0, 2, 3
SAMPLES = {GREY: 1, RGB: 3}
LENGTHS = {b"gAMA": (4, 4), b"cHRM": (32, 32), b"sRGB": (1, 1), b"cICP": (4, 4)}
LENGTHS |= {b"tRNS": (1, 256), b"eXIf": (1, 1 << 31)}
"""optional chunks that matter, and the fewest and most bytes that each may have"""
BEHIND_PIXELS = (b"eXIf", b"iTXt")
"""chunks that count behind the pixels, too"""
XMP_KEYWORD = b"XML:com.adobe.xmp\0\0"
"""of a text that is not compressed"""
DAMAGED = "the image is damaged and cannot be decoded: the PNG file "


class Chunk(NamedTuple):
    """One chunk of a PNG file."""

    kind: bytes
    start: int
    """where it begins in the file"""
    end: int
    """behind its checksum"""
    view: memoryview
    """all of it"""

    @property
    def data(self) -> memoryview:
        """What it holds."""
        return self.view[8:-4]

    @property
    def intact(self) -> bool:
        """Its checksum is right."""
        return zlib.crc32(self.view[4:-4]) == int.from_bytes(self.view[-4:])


class _Pixels(NamedTuple):
    """What a file holds apart from metadata."""

    chunks: dict[bytes, Chunk]
    """the first one of each kind, if it is intact and may matter"""
    start: int
    end: int
    """where the compressed pixels begin and end"""
    complete: bool
    """The last chunk of pixels is there to its end."""


def read(body: bytes) -> Source:
    """The file without metadata, its orientation, and its transparent colour.

    Raises:
        ImageRejectedError: it is damaged where pixels need it, or has too many chunks.
    """
    found = _pixels(body)
    chunks = dict(found.chunks)
    exif, xmp = chunks.pop(b"eXIf", None), chunks.pop(b"iTXt", None)
    *_, depth, colour, _, _, _ = HEADER.unpack(chunks[b"IHDR"].data)
    if colour == PALETTE and b"PLTE" not in chunks:
        raise ImageRejectedError(f"{DAMAGED}has no palette")
    key: tuple[int, ...] = ()
    if b"tRNS" in chunks and colour in SAMPLES:
        # Pillow compares with 8 bits, whatever the file has.
        key = _key(chunks.pop(b"tRNS").data, depth, SAMPLES[colour])
    head = b"".join([SIGNATURE, *(chunk.view for chunk in chunks.values())])
    pixels = memoryview(body)[found.start : found.end]
    return Source(
        (head, pixels, END) if found.complete else (head, pixels),
        refusal=f"{DAMAGED}has a header of no known kind",
        orientation=orientation.of(
            bytes(exif.data) if exif else None, bytes(xmp.data) if xmp else None
        ),
        bits=depth,
        key=key,
    )


def _pixels(body: bytes) -> _Pixels:
    """Walk through all chunks once; no chunk that does not matter is looked into.

    Raises:
        ImageRejectedError: see `read`.
    """
    kept: dict[bytes, Chunk] = {}
    tried: set[bytes] = set()
    start = end = 0
    complete = True
    for chunk in _chunks(body):
        if chunk.kind == b"IDAT":
            if not start:
                start = end = chunk.start
            if chunk.start == end:  # chunks of pixels stand together, or do not count
                end = min(chunk.end, len(body))
                complete = chunk.end <= len(body)
                if complete and not chunk.intact:
                    raise ImageRejectedError(f"{DAMAGED}has a wrong checksum in its pixels")
        elif (
            chunk.kind not in tried
            and chunk.end <= len(body)
            and (not start or chunk.kind in BEHIND_PIXELS)
        ):
            if chunk.kind != b"iTXt" or _is_xmp(chunk):
                tried.add(chunk.kind)  # only the first: a profile takes time to inflate
            if _matters(chunk):
                kept[chunk.kind] = chunk
    if not start:
        raise ImageRejectedError(f"{DAMAGED}ends before its pixels")
    return _Pixels(kept, start, end, complete)


def _chunks(body: bytes) -> Iterator[Chunk]:
    """The chunks of a file before its last one; if it is cut off, the last one reaches too far."""
    view = memoryview(body)
    at, number = len(SIGNATURE), 0
    while at + HEAD.size <= len(body):
        length, kind = HEAD.unpack_from(body, at)
        end = at + HEAD.size + length + 4
        if number == 0 and kind != b"IHDR":
            raise ImageRejectedError(f"{DAMAGED}does not begin with its header")
        if kind == b"IEND":
            return
        yield Chunk(kind, at, end, view[at:end])
        at = end
        number += 1
        if number > MAX_CHUNKS:
            raise ImageRejectedError(
                f"the PNG file consists of too many tiny parts; allowed are {MAX_CHUNKS} chunks"
            )


def _matters(chunk: Chunk) -> bool:
    """The chunk may change pixels or the orientation, and it is intact.

    Raises:
        ImageRejectedError: it is damaged, and there is no picture without it.
    """
    if chunk.kind in (b"IHDR", b"PLTE"):
        if not chunk.intact or (chunk.kind == b"IHDR" and len(chunk.data) != HEADER.size):
            raise ImageRejectedError(f"{DAMAGED}has a damaged {chunk.kind.decode()} chunk")
        return True
    if chunk.kind == b"iCCP":
        return chunk.intact and _is_profile(bytes(chunk.data))
    if chunk.kind == b"iTXt":
        return _is_xmp(chunk)
    low, high = LENGTHS.get(chunk.kind, (1, 0))
    return low <= len(chunk.data) <= high and chunk.intact


def _is_xmp(chunk: Chunk) -> bool:
    return chunk.data[: len(XMP_KEYWORD)] == XMP_KEYWORD


def _is_profile(data: bytes) -> bool:
    """The data are a name and a deflated profile of a size that profiles have."""
    name, nul, deflated = data.partition(b"\0")
    if not name or not nul or deflated[:1] != b"\0":
        return False
    inflator = zlib.decompressobj()
    try:
        inflator.decompress(deflated[1:], MAX_PROFILE)
    except zlib.error:
        return False
    return not inflator.unconsumed_tail


def _key(data: memoryview, depth: int, samples: int) -> tuple[int, ...]:
    """The transparent colour; none if the chunk has another length than it must have."""
    if len(data) != 2 * samples:
        return ()
    mask = (1 << depth) - 1
    return tuple(value & mask for value in struct.unpack(f">{samples}H", data))
