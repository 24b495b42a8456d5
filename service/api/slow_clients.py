"""uvicorn's HTTP protocol, with limits to the time and size of a request that never completes.

uvicorn itself has three gaps. It waits for ever for a head that comes byte by byte, and for the
rest of a body after it has refused the request. It stores a head of any length. If a client offers
to upgrade to another protocol, it takes the body for the next request.
"""

import asyncio
from collections.abc import Callable

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SLICE_BYTES = 16 * 1024
MAX_SILENT_BYTES = 64 * 1024
"""most bytes of a head, of trailers, or between two pieces of a chunked body"""
OFFERS = (b"upgrade", b"http2-settings")


class LimitedProtocol(HttpToolsProtocol):
    """Closes the connection of a request that has not arrived whole within `max_receive_s`."""

    max_receive_s: float
    on_refused: Callable[[str], None]
    """called with the reason for which a request is refused that is no HTTP"""
    _timer: asyncio.TimerHandle | None = None
    _num_silent_bytes = 0
    """bytes since the last head, piece of a body or end of a request"""
    _has_head = False
    _is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; the time limit of its first request begins."""
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived. The parser gets slices, because it does not report its progress."""
        self._unset_keepalive_if_required()
        for start in range(0, len(data), SLICE_BYTES):
            if self._is_refused or self.transport.is_closing():
                return
            self._feed(data[start : start + SLICE_BYTES])

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._has_head = False
        self._start()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has arrived. Trailers are dropped."""
        if not self._has_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head has arrived."""
        self._num_silent_bytes = 0
        if not self.parser.should_upgrade():  # otherwise `_feed` has it parsed again
            self._has_head = True
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body has arrived."""
        self._num_silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has arrived."""
        self._num_silent_bytes = 0
        if not self.parser.should_upgrade():
            self._stop()
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop()
        super().connection_lost(exc)

    def _feed(self, data: bytes) -> None:
        self._num_silent_bytes += len(data)
        while data:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as exc:
                if self.parser.get_method() == b"CONNECT":
                    self._refuse("CONNECT is not supported.")
                    return
                # A server may ignore the offered upgrade (RFC 9110, 7.8). The parser cannot: it
                # takes the body for the other protocol. So it gets the head without the offer.
                (num_parsed,) = exc.args
                data = self._head_without_offer() + data[num_parsed:]
            except httptools.HttpParserError:
                self._refuse("Invalid HTTP request received.")
                return
        if self._num_silent_bytes > MAX_SILENT_BYTES:
            self._refuse(f"More than {MAX_SILENT_BYTES} bytes of head.")

    def _head_without_offer(self) -> bytes:
        """The head that has been read, for the parser to read again."""
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name not in OFFERS]
        return b"\r\n".join([*lines, b"", b""])

    def _refuse(self, message: str) -> None:
        """Close the connection, because it is unknown where its next request begins."""
        self._is_refused = True
        self.logger.warning(message)
        self.on_refused(message)
        if self._is_answering:
            self.cycle.keep_alive = False  # uvicorn closes the connection after that answer
        elif self.cycle is not None and self.cycle.more_body and self.cycle.response_started:
            self.transport.close()
        else:
            self.send_400_response(message)

    @property
    def _is_answering(self) -> bool:
        """Whether a request has arrived whole and waits for its answer."""
        cycle = self.cycle
        return cycle is not None and not (cycle.response_complete or cycle.more_body)

    def _start(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(self.max_receive_s, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self.pipeline or self._is_answering:
            self._start()  # the service is late: the request before is not answered yet
        elif not self.transport.is_closing():
            self.transport.close()


def limited_protocol(
    max_receive_s: float, on_refused: Callable[[str], None] = lambda _: None
) -> type[LimitedProtocol]:
    """The protocol class with this limit in seconds, and whom to tell what it refuses."""
    members = {"max_receive_s": max_receive_s, "on_refused": staticmethod(on_refused)}
    return type("Limited", (LimitedProtocol,), members)
