"""What a decoding process and the service say to each other: JSON, and bytes that belong to it.

Nothing is unpickled: a picture that takes over a decoding process must not reach the service.
"""

import json
import socket
import struct
from collections.abc import Mapping
from time import monotonic
from typing import Any

LENGTHS = struct.Struct("<II")
"""bytes of the JSON, and bytes that follow it"""
MAX_JSON_BYTES = 2**16
SMALL_BYTES = 2**16
"""up to this length, one write of a copy is quicker than two writes"""

Message = Mapping[str, Any]


class SilenceError(Exception):
    """The other side has closed the connection."""


def send(
    to: socket.socket, message: Message, data: bytes = b"", until: float | None = None
) -> None:
    """Send a message, and the bytes that belong to it; `until` as in `receive`.

    Raises:
        OSError: the other side is gone. TimeoutError, one of its kinds: it does not listen in time.
    """
    _limit(to, until)
    text = json.dumps(message).encode()
    head = LENGTHS.pack(len(text), len(data)) + text
    if len(data) <= SMALL_BYTES:
        to.sendall(head + data)
    else:
        to.sendall(head)
        to.sendall(data)


def receive(
    source: socket.socket, max_bytes: int, until: float | None = None
) -> tuple[dict[str, Any], bytearray]:
    """Wait for a message, and the bytes that belong to it.

    Args:
        source: the connection.
        max_bytes: most bytes that may belong to the message.
        until: when to give up, on `time.monotonic`; None: never.

    Raises:
        SilenceError: the other side is gone, or talks nonsense.
        TimeoutError: no whole message came in time.
    """
    num_text, num_data = LENGTHS.unpack(_exactly(source, LENGTHS.size, until))
    if num_text > MAX_JSON_BYTES or num_data > max_bytes:
        raise SilenceError
    try:
        message = json.loads(_exactly(source, num_text, until))
    except ValueError as exc:
        raise SilenceError from exc
    return message, _exactly(source, num_data, until)


def _exactly(source: socket.socket, num_bytes: int, until: float | None) -> bytearray:
    data = bytearray(num_bytes)
    rest = memoryview(data)
    while rest:
        _limit(source, until)
        num_read = source.recv_into(rest)
        if num_read == 0:
            raise SilenceError
        rest = rest[num_read:]
    return data


def _limit(connection: socket.socket, until: float | None) -> None:
    """Let the next call wait until then, and no longer."""
    if until is None:
        return
    rest_s = until - monotonic()
    if rest_s <= 0:
        raise TimeoutError
    connection.settimeout(rest_s)
