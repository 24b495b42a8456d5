"""A request's body, received within limits, before anybody understands it."""

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import Request

from service.errors import TooLargeError


def announced_length(headers: Headers, max_bytes: int) -> int:
    """How many bytes the header says that a body will have; 0 if it does not say.

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
    """Whether a body is what it is, not compressed."""
    return headers.get("content-encoding", "identity").lower() == "identity"


async def read_body(request: Request, max_bytes: int, arrived: Callable[[int], None]) -> bytes:
    """The whole body.

    Args:
        request: whose body it is.
        max_bytes: most bytes.
        arrived: told how many bytes have come, piece by piece; may raise.

    Raises:
        TooLargeError: it has more than `max_bytes`.
    """
    body = bytearray()  # not a list of pieces: of one byte each they would be many times larger
    async for chunk in request.stream():
        if len(body) + len(chunk) > max_bytes:
            raise _too_large(max_bytes)
        if chunk:
            arrived(len(chunk))
        body += chunk
    return bytes(body)


def _too_large(max_bytes: int) -> TooLargeError:
    return TooLargeError(f"the body is too large; allowed are {max_bytes} bytes")
