"""An app behind the server's protocol on a socket of this machine, and how tests talk to it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from service.api.slow_clients import limited_protocol
from tests.waiting import PATIENCE_S

MAX_RECEIVE_S = 0.5
KEEP_ALIVE_S = 0.1


class App:
    """Answers with what it was sent, and remembers it."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self.requests: list[tuple[str, bytes]] = []
        self.headers: list[list[bytes]] = []
        self.refused: list[str] = []
        """why requests were refused that are no HTTP"""
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Read a request whole and answer it."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.requests.append((scope["path"], b"gone"))
                return
            body, more = body + message["body"], message["more_body"]
        self.requests.append((scope["path"], body))
        self.headers.append([name for name, _ in scope["headers"]])
        await self.may_answer.wait()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


AnyApp = Callable[[Any, Any, Any], Awaitable[None]]


@asynccontextmanager
async def listening(
    app: AnyApp,
    max_receive_s: float = MAX_RECEIVE_S,
    *,
    keep_alive_s: float = KEEP_ALIVE_S,
    **limits: float,
) -> AsyncIterator[tuple[tuple[str, int], ServerState]]:
    """The address at which the app answers, and what the server knows of its connections."""
    config = uvicorn.Config(app, log_config=None, ws="none", timeout_keep_alive=keep_alive_s)  # type: ignore[arg-type] # call_later takes it
    config.load()
    on_refused = getattr(app, "refused", []).append
    protocol = limited_protocol(max_receive_s, on_refused=on_refused, **limits)
    loop, state = asyncio.get_running_loop(), ServerState()
    server = await loop.create_server(lambda: protocol(config, state, {}), "127.0.0.1", 0)
    async with asyncio.timeout(PATIENCE_S):
        yield server.sockets[0].getsockname(), state
    server.close()
    for task in state.tasks:
        task.cancel()


@asynccontextmanager
async def connected(
    app: App, max_receive_s: float = MAX_RECEIVE_S, **limits: float
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """One connection to the app."""
    async with listening(app, max_receive_s, **limits) as (address, _):
        reader, writer = await asyncio.open_connection(*address)
        yield reader, writer
        writer.close()


async def talk(app: App, *pieces: bytes, max_receive_s: float = PATIENCE_S) -> bytes:
    """All that comes back on one connection until the server closes it."""
    async with connected(app, max_receive_s) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.02)
        received = b""
        try:
            while chunk := await reader.read(65536):
                received += chunk
        except ConnectionResetError:
            pass
        return received


def post(body: bytes, more: bytes = b"", path: bytes = b"/") -> bytes:
    """A request."""
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + more
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def statuses(received: bytes) -> list[bytes]:
    """The statuses of some answers."""
    return [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]]
