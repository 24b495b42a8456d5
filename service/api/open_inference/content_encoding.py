"""Decompresses a body in pieces, within limits. No HTTP."""

import zlib
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from reprlib import repr as short

from service.errors import InvalidRequestError, TooLargeError, UnsupportedMediaError

WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""window bits for zlib, which also name the container: + 16 for gzip, else a zlib stream."""
PIECE_BYTES = 1024 * 1024
"""most bytes of a decompressed piece. They are counted when the piece is there, so a thread is
ahead of the count by one piece."""
INPUT_BYTES = 64 * 1024
"""bytes that zlib gets at a time. It copies the rest of them with each piece."""
FREE_BYTES = 4 * 1024 * 1024
"""a body may become so large however well it is compressed: six pictures of 3 x 224 x 224 zeros"""
MAX_RATIO = 100
"""a larger body may have so many times its compressed bytes. Pixels of photos have 1 to 6 times,
their numbers in JSON up to 10 times, zeros 1000 times."""


async def inflate(
    body: bytes,
    encoding: str,
    max_bytes: int,
    *,
    in_a_thread: Callable[[Callable[[], bytes]], Awaitable[bytes]],
    arrived: Callable[[int], None],
) -> bytes:
    """Undo a Content-Encoding off the event loop, and count the bytes as they come.

    Args:
        body: the whole body, as it was sent.
        encoding: see `pieces`.
        max_bytes: most bytes of the result.
        in_a_thread: runs a function off the event loop.
        arrived: called on the event loop with the number of bytes of each piece; may raise.

    Raises:
        ServiceError: see `pieces`.
    """
    if encoding.strip().lower() == "identity":
        return body
    coming = pieces(body, encoding, max_bytes)
    inflated: list[bytes] = []
    while piece := await in_a_thread(partial(next, coming, b"")):
        arrived(len(piece))
        inflated.append(piece)
    if len(inflated) == 1:
        return inflated[0]
    return await in_a_thread(partial(b"".join, inflated))


def pieces(body: bytes, encoding: str, max_bytes: int) -> Iterator[bytes]:
    """The decompressed body in pieces, none of them empty.

    Args:
        body: the whole body, as it was sent.
        encoding: identity, gzip (one member) or deflate (the zlib format), in any case.
        max_bytes: most bytes of the result; decompression stops one byte later.

    Raises:
        TooLargeError: the result has more than `max_bytes`, or is too large for so few
            compressed bytes.
        InvalidRequestError: the data are damaged or truncated, or bytes follow them.
        UnsupportedMediaError: the encoding is another one.
    """
    name = encoding.strip().lower()
    if name == "identity":
        coming = iter((body,) if body else ())
    elif name in WINDOW_BITS:
        coming = _inflated(body, name, max_bytes)
    else:
        raise UnsupportedMediaError(
            f"content encoding {short(encoding)} is not supported; allowed: identity, "
            f"{', '.join(WINDOW_BITS)}"
        )
    num_bytes = 0
    for piece in coming:
        num_bytes += len(piece)
        _check_size(num_bytes, len(body), max_bytes)
        yield piece


def _check_size(num_bytes: int, num_compressed: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise TooLargeError(f"the body is too large; allowed are {max_bytes} bytes, inflated")
    if num_bytes > max(FREE_BYTES, MAX_RATIO * num_compressed):
        raise TooLargeError(
            f"the body inflates to more than {FREE_BYTES} bytes and more than {MAX_RATIO} times "
            f"its {num_compressed} compressed bytes; send it uncompressed, or in smaller requests"
        )


def _inflated(body: bytes, name: str, max_bytes: int) -> Iterator[bytes]:
    """The decompressed body in pieces; the last one may end one byte after `max_bytes`."""
    stream = zlib.decompressobj(WINDOW_BITS[name])
    num_read = num_bytes = 0
    try:
        for part in _parts(body):
            num_read += len(part)
            rest: bytes | memoryview = part
            while not stream.eof:
                piece = stream.decompress(rest, min(PIECE_BYTES, max_bytes + 1 - num_bytes))
                rest = stream.unconsumed_tail
                num_bytes += len(piece)
                if piece:
                    yield piece
                if not rest and (part or not piece):
                    break
            if stream.eof:
                break
    except zlib.error as exc:
        raise InvalidRequestError(f"the body is no valid {name} data: {exc}") from exc
    if not stream.eof:
        raise InvalidRequestError(f"the body is no valid {name} data: was it cut off?")
    if num_behind := len(stream.unused_data) + len(body) - num_read:
        raise InvalidRequestError(f"the body has {num_behind} bytes after its {name}")


def _parts(body: bytes) -> Iterator[bytes | memoryview]:
    """The body as zlib gets it. With the empty part at the end, zlib gives what it still holds."""
    view = memoryview(body)
    for start in range(0, len(view), INPUT_BYTES):
        yield view[start : start + INPUT_BYTES]
    yield b""
