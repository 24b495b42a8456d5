"""The protocol of a connection, with limits to its time, and to the number of connections.

uvicorn itself has these gaps. It waits for ever for a head that comes byte by byte, for the rest
of a body after it has refused the request, and for a client that does not take its answer. It lets
in as many connections as come. It closes the connection of a client that closes its own half behind
its request.
"""

import asyncio
import math
from collections.abc import Callable
from functools import partial

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.api.connections import Connections
from service.api.incoming import ReadingProtocol
from service.api.outgoing import Outgoing
from service.api.turns import Turns

MAX_SEND_S = 20.0
FULL = b"All connections are in use; come again later."
SERVICE_UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\nretry-after: 1\r\nconnection: close\r\n\r\n%s" % (len(FULL), FULL)
)


class LimitedProtocol(ReadingProtocol):
    """Closes the connections of clients that are too slow, and notices those that leave."""

    max_receive_s: float
    max_send_s: float
    open_connections: Connections
    turns: Turns
    transport: Outgoing
    _timer: asyncio.TimerHandle | None = None
    _current: RequestResponseCycle | None = None
    """the request that is being answered, or the last one that was"""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; the time limit of its first request begins."""
        super().connection_made(transport)
        self.transport = Outgoing(transport, self.max_send_s)
        if self.open_connections.enter(self, self.loop.time()):
            self._start()
        else:
            self._is_refused = True
            self.transport.write(SERVICE_UNAVAILABLE)
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. Its answer is given, if its request has arrived whole.

        Returns:
            Whether the connection stays open.
        """
        current = self._current
        if current is None or current.more_body or current.response_complete:
            return False
        self.cycle.keep_alive = False  # uvicorn closes the connection after that answer
        self.transport.seek_client(lambda: self._owes_answer)
        return True

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._start()

    def on_message_complete(self) -> None:
        """A request has arrived."""
        if not self.parser.should_upgrade():
            self._stop()
        super().on_message_complete()
        self._note_debt()

    def on_response_complete(self) -> None:
        """An answer is written."""
        self.open_connections.settle(self)
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client does not take its answers as fast as they come."""
        self.open_connections.settle(self)
        super().pause_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop()
        self.open_connections.leave(self)
        if self._current is not None and not self._current.response_complete:
            # uvicorn tells only the last one of several requests that were sent at once.
            self._current.disconnected = True
            self._current.message_event.set()
        super().connection_lost(exc)

    def give_up(self) -> None:
        """Close the connection, because another one needs its place."""
        if self.transport.has_unsent():
            self.transport.abort()
        else:
            self.transport.close()

    def _parse(self) -> None:
        super()._parse()
        if self._timer is None and not (self.pipeline or self._is_answering):
            self._start()  # bytes that begin no request, such as line ends, have a time limit, too

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._current = cycle
        self._note_debt()
        start = partial(super()._start_asgi_task, cycle, app)
        self.turns.begin(cycle.scope["path"], start)

    @property
    def _owes_answer(self) -> bool:
        """Whether a request has arrived whole, and its answer has not begun."""
        current = self._current
        return current is not None and not (current.more_body or current.response_started)

    def _note_debt(self) -> None:
        if self._owes_answer:
            self.open_connections.owe(self)

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
    max_receive_s: float,
    *,
    max_send_s: float = MAX_SEND_S,
    most_connections: float = math.inf,
    on_refused: Callable[[str], None] = lambda _: None,
) -> type[LimitedProtocol]:
    """The protocol class of one server.

    Args:
        max_receive_s: seconds for a request to arrive whole.
        max_send_s: see `Outgoing`.
        most_connections: of those that are open at the same time.
        on_refused: told why a request is refused that is no HTTP.
    """
    limits = {
        "max_receive_s": max_receive_s,
        "max_send_s": max_send_s,
        "open_connections": Connections(most_connections),
        "turns": Turns(),
        "on_refused": staticmethod(on_refused),
    }
    return type("Limited", (LimitedProtocol,), limits)
