"""uvicorn's HTTP protocol, with limits to what it reads and stores.

uvicorn itself has these gaps. It stores a head of any length, and any number of requests that wait
for the one before. It does not ask for a Host header. If a client offers to upgrade to another
protocol, it takes the body for the next request.
"""

import asyncio
from collections.abc import Callable

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.heads import MAX_HEADER_LINES, fault_of

BODY_SLICE_BYTES = 16 * 1024
HEAD_SLICE_BYTES = 2 * 1024
MAX_SILENT_BYTES = 64 * 1024
"""most bytes of a head, of trailers, or between two pieces of a chunked body"""
MAX_PIPELINED = 16
"""while so many requests of a connection wait for the one before, no further ones are parsed"""
OFFERS = (b"upgrade", b"http2-settings")
TOO_LONG = f"More than {MAX_SILENT_BYTES} bytes of head, or {MAX_HEADER_LINES} header lines."


class Flow(FlowControl):
    """Reads nothing more while requests wait to be parsed, even if uvicorn asks for it."""

    is_held = False

    def resume_reading(self) -> None:
        """Read on, unless this is held."""
        if not self.is_held:
            super().resume_reading()


class ReadingProtocol(HttpToolsProtocol):
    """Parses what a connection sends, within limits."""

    flow: Flow
    on_refused: Callable[[str], None]
    """told why a request is refused that is no HTTP"""
    _num_silent_bytes = 0
    """bytes since the last head, piece of a body or end of a request"""
    _has_head = False
    _fault: str | None = None
    """what is wrong with the head that is being parsed"""
    _is_refused = False
    _unparsed = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.flow = Flow(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""
        self._unset_keepalive_if_required()
        self._unparsed += data
        self._parse()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._has_head = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has arrived. Trailers are dropped."""
        if self._has_head:
            return
        if len(self.headers) == MAX_HEADER_LINES:
            self._stop_parsing(TOO_LONG)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head has arrived."""
        self._num_silent_bytes = 0
        if self.parser.should_upgrade():
            return  # `_feed` has it parsed again
        if fault := fault_of(self.parser.get_http_version(), self.headers):
            self._stop_parsing(fault)
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
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is written; the next request on the connection begins."""
        super().on_response_complete()
        if self._unparsed:
            self._unset_keepalive_if_required()
            self._parse()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._unparsed = b""
        super().connection_lost(exc)

    def _parse(self) -> None:
        """Parse what has arrived, in slices, because the parser does not report its progress."""
        data, start = self._unparsed, 0
        while start < len(data) and len(self.pipeline) < MAX_PIPELINED:
            if self._is_refused or self.transport.is_closing():
                start = len(data)
                break
            in_body = self.cycle is not None and self.cycle.more_body
            end = start + (BODY_SLICE_BYTES if in_body else HEAD_SLICE_BYTES)
            self._feed(data[start:end])
            start = end
        self._unparsed = data[start:]
        self.flow.is_held = bool(self._unparsed)
        if self.flow.is_held:
            self.flow.pause_reading()
        elif not self.pipeline:
            self.flow.resume_reading()

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
                self._refuse(self._fault or "Invalid HTTP request received.")
                return
        if self._num_silent_bytes > MAX_SILENT_BYTES:
            self._refuse(TOO_LONG)

    def _head_without_offer(self) -> bytes:
        """The head that has been read, for the parser to read again."""
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name not in OFFERS]
        return b"\r\n".join([*lines, b"", b""])

    def _stop_parsing(self, fault: str) -> None:
        """Leave the parser, which makes an error of its own of any exception."""
        self._fault = fault
        raise ValueError(fault)

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
