"""Receives the body of a request within limits, without parsing it."""

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import Request

from service.errors import TooLargeError


def announced_length(headers: Headers, max_bytes: int) -> int:
    """The length of the body that the header announces, in bytes; 0 if it announces none.

    Raises:
        TooLargeError: the header announces more than `max_bytes`.
    """
    announced = headers.get("content-length", "")
    if not announced.isdecimal():
        return 0
    if len(announced) > len(str(max_bytes)) or int(announced) > max_bytes:
        raise _too_large(max_bytes)
    return int(announced)


def is_plain(headers: Headers) -> bool:
    """Whether a body is not compressed."""
    return headers.get("content-encoding", "").strip().lower() in ("", "identity")


async def read_body(request: Request, max_bytes: int, arrived: Callable[[int], None]) -> bytes:
    """The whole body of a request.

    Args:
        request: the request.
        max_bytes: most bytes of the body.
        arrived: called with the number of bytes of each piece; may raise.

    Raises:
        TooLargeError: the body has more than `max_bytes`.
    """
    body = bytearray()  # not a list: pieces of one byte each would take many times the memory
    async for chunk in request.stream():
        if len(body) + len(chunk) > max_bytes:
            raise _too_large(max_bytes)
        if chunk:
            arrived(len(chunk))
        body += chunk
    return bytes(body)


def _too_large(max_bytes: int) -> TooLargeError:
    return TooLargeError(f"the body is too large; allowed are {max_bytes} bytes")
