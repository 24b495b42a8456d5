"""uvicorn's HTTP protocol, with a limit to how long a request may take to arrive.

uvicorn itself waits for ever for a head that comes byte by byte, and for the rest of a body whose
request has been refused already.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class ImpatientProtocol(HttpToolsProtocol):
    """Closes the connection of a request that has not arrived whole within `max_receive_s`."""

    max_receive_s: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there: it may begin."""
        super().connection_made(transport)
        self._start()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._start()

    def on_message_complete(self) -> None:
        """A request has arrived."""
        self._stop()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop()
        super().connection_lost(exc)

    def _start(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(self.max_receive_s, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self.pipeline:
            self._start()  # it is we who have stopped reading, until the former is answered
        elif not self.transport.is_closing():
            self.transport.close()


def impatient(max_receive_s: float) -> type[ImpatientProtocol]:
    """The protocol with this limit."""
    return type("Impatient", (ImpatientProtocol,), {"max_receive_s": max_receive_s})
