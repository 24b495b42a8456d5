"""Decompresses a body, within a limit. No HTTP."""

import zlib
from reprlib import repr as short

from service.errors import InvalidRequestError, TooLargeError, UnsupportedMediaError

WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""window bits for zlib, which also name the container: + 16 for gzip, else a zlib stream."""


def inflate(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo a Content-Encoding.

    Args:
        body: the whole body, as it was sent.
        encoding: identity, gzip (one member) or deflate (the zlib format), in any case.
        max_bytes: most bytes of the result; decompression stops one byte later.

    Raises:
        TooLargeError: the result has more than `max_bytes`.
        InvalidRequestError: the data are damaged or truncated, or bytes follow them.
        UnsupportedMediaError: the encoding is another one.
    """
    name = encoding.strip().lower()
    if name == "identity":
        inflated = body
    elif name in WINDOW_BITS:
        inflated = _inflate(body, name, max_bytes)
    else:
        raise UnsupportedMediaError(
            f"content encoding {short(encoding)} is not supported; allowed: identity, "
            f"{', '.join(WINDOW_BITS)}"
        )
    if len(inflated) > max_bytes:
        raise TooLargeError(f"the body is too large; allowed are {max_bytes} bytes, inflated")
    return inflated


def _inflate(body: bytes, name: str, max_bytes: int) -> bytes:
    """The decompressed body, or its first `max_bytes` + 1 bytes."""
    stream = zlib.decompressobj(WINDOW_BITS[name])
    try:
        inflated = stream.decompress(body, max_bytes + 1)
    except zlib.error as exc:
        raise InvalidRequestError(f"the body is no valid {name} data: {exc}") from exc
    if len(inflated) <= max_bytes and not stream.eof:
        raise InvalidRequestError(f"the body is no valid {name} data: was it cut off?")
    if stream.unused_data:
        raise InvalidRequestError(f"the body has {len(stream.unused_data)} bytes after its {name}")
    return inflated
