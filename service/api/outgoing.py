"""What a connection sends: its client has to take it, and has to be there still.

A client that reads nothing would hold its connection and the answers for ever. And a client may
close its half of the connection behind its request, and wait for the answer. This looks like one
that has left for good; only sending something tells them apart.
"""

import asyncio
import sys
from collections.abc import Callable

if sys.platform == "linux":
    import fcntl
    import termios

MIN_BYTES_PER_S = 1024
"""slower clients are as good as gone"""
BEGINNING = b"HTTP/1.1 "
"""of each answer, whatever it will say"""
FIRST_WAIT_S = 0.05
"""until the second byte of the beginning is sent; from byte to byte the waits double"""
LONGEST_WAIT_S = 5.0


class Outgoing(asyncio.Transport):
    """A transport that closes the connection of a client that takes no answer, or has left."""

    def __init__(self, transport: asyncio.Transport, max_send_s: float) -> None:
        """Wrap a transport.

        Args:
            transport: the connection's own.
            max_send_s: in such a time, a client takes `MIN_BYTES_PER_S` or all that is left.
        """
        super().__init__()
        self._transport = transport
        self._max_send_s = max_send_s
        self._loop = asyncio.get_running_loop()
        self._num_written = 0
        self._num_early = 0
        self._timer: asyncio.TimerHandle | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, without those of `BEGINNING` that have been sent already."""
        self._send(data[self._num_early :])
        self._num_early = 0

    def close(self) -> None:
        """Close the connection when all is sent."""
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether the connection is closed or being closed."""
        return self._transport.is_closing()

    def has_unsent(self) -> bool:
        """Whether bytes wait in this process because the client does not take them."""
        return self._transport.get_write_buffer_size() > 0

    def seek_client(self, is_awaited: Callable[[], bool], wait_s: float = FIRST_WAIT_S) -> None:
        """Find out again and again whether a client that will send no more still reads.

        A byte of `BEGINNING` is sent now, and another one after each wait. The system of a client
        that has left answers a byte with a reset. Then the next one fails, and the connection is
        lost.

        Args:
            is_awaited: whether an answer has to come that has not begun.
            wait_s: seconds until the next byte.
        """
        if self.is_closing():
            return
        if is_awaited() and self._num_early < len(BEGINNING):
            self._send(BEGINNING[self._num_early : self._num_early + 1])
            self._num_early += 1
        next_s = min(2 * wait_s, LONGEST_WAIT_S)
        self._loop.call_later(wait_s, self.seek_client, is_awaited, next_s)

    def _send(self, data: bytes | bytearray | memoryview) -> None:
        self._num_written += len(data)
        self._transport.write(data)
        if self._timer is None and self.has_unsent():
            self._look(0, 0)

    def _look(self, num_taken_before: int, num_left_before: int) -> None:
        """Close the connection if too little was taken since the last look.

        Args:
            num_taken_before: bytes that the client had taken at the last look.
            num_left_before: bytes that it had not.
        """
        self._timer = None
        if not self.has_unsent():
            return
        num_left = self._transport.get_write_buffer_size() + self._num_in_system()
        num_taken = self._num_written - num_left
        needed = min(num_left_before, int(MIN_BYTES_PER_S * self._max_send_s))
        if num_taken - num_taken_before < needed:
            self.abort()
            return
        self._timer = self._loop.call_later(self._max_send_s, self._look, num_taken, num_left)

    def _num_in_system(self) -> int:
        """Bytes that the system holds, because the client has not confirmed them; 0 if unknown."""
        if sys.platform != "linux":
            return 0
        connection = self._transport.get_extra_info("socket")
        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(answer, sys.byteorder)
