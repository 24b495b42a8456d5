"""Connections: what a head must have, clients that close their half, do not read, or are many."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.api.connections import Connections
from service.api.heads import MAX_HEADER_LINES
from service.api.incoming import MAX_PIPELINED
from tests.service.api.wire import App, connected, listening, post, statuses, talk

LOOPS = [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})]
pytestmark = pytest.mark.anyio

LARGE = bytes(4 * 1024 * 1024)
"""more than the system takes for a client that does not read"""


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
def app() -> App:
    return App()


async def happens(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - of the server, which reports nothing
        await asyncio.sleep(0.005)


# heads


def get(*lines: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"GET / HTTP/" + version, *lines, b"Connection: close", b"", b""])


HOSTS = [
    *(b"x", b"", b"rapid_vit:8000", b"127.0.0.1", b"[::1]:8000", b"a.b-c.d", b"x:", b" x\t"),
]


@pytest.mark.parametrize("host", HOSTS)
async def test_a_host_is_a_name_or_an_address(app: App, host: bytes) -> None:
    assert statuses(await talk(app, get(b"Host: " + host))) == [b"200"]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (get(), b"The request needs a Host header."),
        (get(b"Hosts: x"), b"needs a Host header"),
        (get(b"Host: x", b"host: x"), b"one Host header, not several"),
        (get(b"Host: x", b"Host: y", version=b"1.0"), b"one Host header, not several"),
        *(
            (get(b"Host: " + host), b"The Host header is no name or address")
            for host in (b"a b", b"x:y", b"x:1:2", b"http://x", b"x/y", b"[x]", b"u@x", b"x, y")
        ),
    ],
)
async def test_other_hosts_are_refused(app: App, head: bytes, message: bytes) -> None:
    received = await talk(app, head + post(b"smuggled"))
    assert statuses(received) == [b"400"]
    assert message in received
    assert b"connection: close" in received
    assert app.requests == []


async def test_http_1_0_needs_no_host(app: App) -> None:
    assert statuses(await talk(app, get(version=b"1.0"))) == [b"200"]


async def test_a_refused_head_does_not_take_the_answer_before_it(app: App) -> None:
    received = await talk(app, post(b"first") + get())
    assert statuses(received) in ([b"200"], [b"200", b"400"])
    assert app.requests == [("/", b"first")]


@pytest.mark.parametrize(("num_lines", "status"), [(0, b"200"), (1, b"400")])
async def test_the_lines_of_a_head_are_counted(app: App, num_lines: int, status: bytes) -> None:
    lines = [b"a: b"] * (MAX_HEADER_LINES - 2 + num_lines)
    received = await talk(app, get(b"Host: x", *lines))
    assert statuses(received) == [status]
    assert (b"128 header lines" in received) == (status == b"400")


# clients that close their half of the connection


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize("num_requests", [1, 3])
async def test_a_client_that_only_stops_sending_gets_its_answers(
    app: App, is_held: bool, num_requests: int
) -> None:
    bodies = [b"%d" % number for number in range(num_requests)]
    async with connected(app) as (reader, writer):
        if is_held:
            app.may_answer.clear()
        writer.write(b"".join(map(post, bodies)))
        writer.write_eof()
        if is_held:
            early = await reader.read(2)
            assert b"HTTP/1.1 ".startswith(early)  # the beginning of an answer comes before it
            app.may_answer.set()
        else:
            early = b""
        received = early + await reader.read(-1)
    assert statuses(received) == [b"200"] * num_requests
    assert received.count(b"HTTP/1.1 200 OK\r\n") == num_requests
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")  # what came early does not come again
    assert received.endswith(bodies[-1])
    assert received.count(b"connection: close") <= 1  # none if the answer was faster
    assert [body for _, body in app.requests] == bodies


async def test_a_client_that_sends_slowly_and_stops_gets_its_answer(app: App) -> None:
    async with connected(app) as (reader, writer):
        whole = post(bytes(100_000))
        for start in (0, 50, 70_000):
            writer.write(whole[start : {0: 50, 50: 70_000}.get(start)])
            await writer.drain()
        writer.write_eof()
        assert (await reader.read(-1)).endswith(bytes(100_000))


@pytest.mark.parametrize("sent", [b"", b"GE", post(b"12345678")[:-1], post(b"1") + b"GET"])
async def test_who_stops_sending_amid_a_request_gets_no_answer_to_it(app: App, sent: bytes) -> None:
    async with connected(app) as (reader, writer):
        writer.write(sent)
        writer.write_eof()
        assert statuses(await reader.read(-1)) == [b"200"] * sent.startswith(post(b"1"))


def leave_politely(client: socket.socket) -> None:
    client.close()


def leave_abruptly(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def leave_later(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)
    client.recv(1)  # the beginning of an answer: it was taken for a client that waits
    client.close()


@pytest.mark.parametrize("leave", [leave_politely, leave_abruptly, leave_later])
@pytest.mark.parametrize("num_requests", [1, 2])
async def test_a_client_that_leaves_is_noticed(
    leave: Callable[[socket.socket], None], num_requests: int
) -> None:
    """The answers never come, so only the look for the client can find out."""
    gone: list[str] = []

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            pass
        gone.append(message["type"])

    async with listening(app) as (address, state):
        client = socket.create_connection(address)
        client.sendall(post(b"x") * num_requests)
        await happens(lambda: state.tasks)
        await asyncio.to_thread(leave, client)
        await happens(lambda: not state.connections)
        await happens(lambda: gone)
        assert len(gone) == 1  # the second request was not begun


# clients that do not read


@asynccontextmanager
async def reading_nothing(
    address: tuple[str, int], sent: bytes, buffer_bytes: int = 4096
) -> AsyncIterator[socket.socket]:
    """A client that has sent something, and whose system takes few bytes of the answers."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        client.connect(address)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        sending = asyncio.ensure_future(loop.sock_sendall(client, sent))
        try:
            yield client
        finally:
            sending.cancel()
            await asyncio.wait([sending])


@pytest.mark.parametrize("requests", [post(LARGE), post(bytes(60_000)) * 70, post(LARGE) + b"GET"])
async def test_who_takes_no_answer_loses_the_connection(app: App, requests: bytes) -> None:
    async with (
        listening(app, max_send_s=0.3) as (address, state),
        reading_nothing(address, requests),
    ):
        await happens(lambda: app.requests)
        await happens(lambda: not state.connections)


async def test_who_reads_slowly_gets_all(app: App) -> None:
    async with listening(app, max_send_s=0.2) as (address, _):
        loop = asyncio.get_running_loop()
        async with reading_nothing(address, post(LARGE), 128 * 1024) as client:
            received = bytearray()
            started = loop.time()
            while len(received) < len(LARGE):
                received += await loop.sock_recv(client, 64 * 1024)
                await asyncio.sleep(0.02)
            assert loop.time() - started > 0.2  # otherwise this shows nothing
            assert received.endswith(bytes(1000))


async def test_requests_that_wait_for_the_one_before_are_not_all_parsed(app: App) -> None:
    """Otherwise each small request of a client that does not read would take some KiB."""
    app.may_answer.clear()
    many = 2000
    async with listening(app) as (address, state):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(get(b"Host: x").replace(b"Connection: close\r\n", b"") * many)
        await happens(lambda: app.requests)
        (connection,) = state.connections
        assert len(connection.pipeline) >= MAX_PIPELINED  # type: ignore[union-attr]
        assert len(connection.pipeline) < MAX_PIPELINED + 100  # type: ignore[union-attr]
        app.may_answer.set()
        received = b""
        while received.count(b"HTTP/1.1 200") < many:
            received += await reader.read(65536)
        assert len(app.requests) == many
        writer.close()


@pytest.mark.parametrize("line_ends", [b"\r\n", b"\r\n\r\n"])
async def test_bytes_that_begin_no_request_do_not_keep_a_connection(
    app: App, line_ends: bytes
) -> None:
    async with connected(app) as (reader, writer):
        writer.write(post(b"x"))
        await reader.readuntil(b"\r\n\r\nx")
        writer.write(line_ends)
        assert await reader.read(-1) == b""


# many connections


def test_the_one_that_was_idle_for_longest_makes_room() -> None:
    closed: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self._name = name

        def give_up(self) -> None:
            closed.append(self._name)

    a, b, c, d = map(Named, "abcd")
    connections = Connections(2)
    assert connections.enter(a, 0)
    assert connections.enter(b, 0)
    connections.owe(a)
    assert connections.enter(c, 0)
    assert closed == ["b"]
    connections.owe(c)
    assert not connections.enter(d, 0)
    connections.settle(c)
    connections.settle(a)
    connections.settle(a)
    assert connections.enter(d, 0)
    assert closed == ["b", "c"]
    connections.leave(a)
    connections.leave(b)
    connections.owe(b)
    assert connections.enter(b, 0)
    assert closed == ["b", "c"]


@asynccontextmanager
async def clients(address: tuple[str, int], number: int) -> AsyncIterator[list[socket.socket]]:
    """Some clients that are connected."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.socket()) for _ in range(number)]
        for client in opened:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, address)
        yield opened


async def answer_to(client: socket.socket, request: bytes = b"") -> bytes:
    """All that a client gets until its connection is closed."""
    loop, received = asyncio.get_running_loop(), b""
    if request:
        await loop.sock_sendall(client, request)
    while piece := await loop.sock_recv(client, 65536):
        received += piece
    return received


async def test_idle_connections_keep_nobody_out(app: App) -> None:
    async with (
        listening(app, keep_alive_s=60, most_connections=8) as (address, state),
        clients(address, 30) as idle,
        clients(address, 1) as (good,),
    ):
        for client in idle[-5:]:
            client.send(b"GET / HT")
        assert statuses(await answer_to(good, get(b"Host: x"))) == [b"200"]
        await happens(lambda: len(state.connections) <= 7)
        assert await answer_to(idle[0]) == b""


async def test_a_connection_is_refused_while_all_others_wait_for_an_answer(app: App) -> None:
    app.may_answer.clear()
    async with listening(app, most_connections=3) as (address, _), clients(address, 3) as waiting:
        for number, client in enumerate(waiting):
            client.send(post(b"%d" % number, b"Connection: close\r\n"))
        await happens(lambda: len(app.requests) == 3)
        async with clients(address, 1) as (further,):
            refused = await answer_to(further)
        assert statuses(refused) == [b"503"]
        assert b"retry-after: 1" in refused
        app.may_answer.set()
        for number, client in enumerate(waiting):
            received = await answer_to(client)
            assert (statuses(received), received[-1:]) == ([b"200"], b"%d" % number)
        async with clients(address, 1) as (further,):
            assert statuses(await answer_to(further, get(b"Host: x"))) == [b"200"]
