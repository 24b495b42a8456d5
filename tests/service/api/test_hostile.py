"""What comes in on a connection, byte by byte: no client can make the server hold without end."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from service.api.incoming import MAX_SILENT_BYTES, TOO_LONG
from tests.conftest import AppClient
from tests.service.api.wire import MAX_RECEIVE_S, App, connected, post, statuses, talk
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
FILLER = b"x" * 100_000


@pytest.fixture
def app() -> App:
    return App()


def chunked(*pieces: bytes) -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(pieces)


# offers of another protocol


@pytest.mark.parametrize("cut", [None, 30, 60, -20, -len(SMUGGLED)])
@pytest.mark.parametrize("more", [UPGRADE, b"Connection: upgrade\r\nUpgrade: websocket\r\n"])
async def test_a_body_behind_an_offer_to_upgrade_is_a_body(
    app: App, cut: int | None, more: bytes
) -> None:
    whole = post(SMUGGLED, more) + post(b"next", path=b"/next")
    end = len(post(SMUGGLED, more))
    pieces = [whole] if cut is None else [whole[: end + cut if cut < 0 else cut]]
    pieces.append(whole[len(pieces[0]) :])
    received = await talk(app, *pieces)
    assert app.requests == [("/", SMUGGLED), ("/next", b"next")]
    assert statuses(received) == [b"200", b"200"]
    assert b"upgrade" not in app.headers[0]
    assert {b"host", b"connection", b"content-length"} <= set(app.headers[0])


async def test_a_chunked_body_behind_an_offer_to_upgrade_is_a_body(app: App) -> None:
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    start = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + UPGRADE + b"\r\n"
    assert statuses(await talk(app, start, body)) == [b"200"]
    assert app.requests == [("/", SMUGGLED)]


async def test_many_offers_in_one_piece_are_all_ignored(app: App) -> None:
    get = b"GET /%d HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"\r\n"
    received = await talk(app, b"".join(get % number for number in range(400)))
    assert statuses(received) == [b"200"] * 400
    assert [path for path, _ in app.requests] == [f"/{number}" for number in range(400)]


async def test_nobody_can_connect_through(app: App) -> None:
    received = await talk(app, b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED)
    assert statuses(received) == [b"400"]
    assert app.requests == []


# heads, trailers and chunks without end


async def test_a_long_head_is_read(app: App) -> None:
    value = b"y" * (MAX_SILENT_BYTES - 200)
    body = b"z" * 300_000
    requests = post(body, b"X-Long: " + value + b"\r\n") * 2
    assert statuses(await talk(app, requests)) == [b"200", b"200"]
    assert app.requests == [("/", body)] * 2


FLOODS = {
    "one header": b"GET / HTTP/1.1\r\nX: " + FILLER,
    "headers": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000,
    "path": b"GET /" + FILLER,
    "method": b"\r\n" * 50_000,
    "trailers": chunked(b"1\r\nx\r\n0\r\n", b"a: b\r\n" * 20_000),
    "one trailer": chunked(b"1\r\nx\r\n0\r\na: ", FILLER),
    "chunk extension": chunked(b"1\r\nx\r\n1;a=", FILLER),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
async def test_a_flood_is_cut_off(app: App, flood: bytes) -> None:
    received = await talk(app, flood[:60_000], flood[60_000:])
    assert statuses(received) == [b"400"]
    assert b"connection: close" in received
    assert b"More than 65536 bytes of head" in received
    assert app.refused == [TOO_LONG]
    assert app.requests in ([], [("/", b"gone")])


async def test_trailers_do_not_become_headers(app: App) -> None:
    received = await talk(app, chunked(b"1\r\nx\r\n0\r\nX-Api-Key: k\r\n\r\n"))
    assert statuses(received) == [b"200"]
    assert app.headers == [[b"host", b"transfer-encoding"]]


# what comes behind a request that is being answered


@pytest.mark.parametrize("behind", [b"GET /li", b"GET /" + FILLER, b"\x00nonsense\r\n\r\n"])
async def test_an_answer_in_work_is_given_whatever_comes_behind_it(app: App, behind: bytes) -> None:
    app.may_answer.clear()
    async with connected(app, MAX_RECEIVE_S) as (reader, writer):
        writer.write(post(b"first") + behind)
        await asyncio.sleep(3 * MAX_RECEIVE_S)
        app.may_answer.set()
        received = await reader.read(-1)
    assert statuses(received) == [b"200"]
    assert received.endswith(b"first")
    assert app.requests == [("/", b"first")]


async def test_a_slow_head_still_loses_its_connection(app: App) -> None:
    begun = b"GET /li"
    assert await talk(app, post(b"first") + begun, max_receive_s=MAX_RECEIVE_S) != b""
    assert await talk(app, begun, max_receive_s=MAX_RECEIVE_S) == b""
    assert app.requests == [("/", b"first")]


# bodies that are announced and never sent


async def test_who_announces_much_and_sends_nothing_keeps_nobody_out(
    app_client: AppClient, owl: bytes
) -> None:
    num_idle = 20
    may_end, arrived = asyncio.Event(), asyncio.Semaphore(0)

    async def idle() -> AsyncIterator[bytes]:
        arrived.release()
        await may_end.wait()
        yield b"x"

    async with app_client(max_queue_bytes=10 * len(owl)) as client:
        posts = [
            asyncio.create_task(client.post("/v1/classify", content=idle(), headers=headers))
            for headers in ({"content-length": str(9 * len(owl))}, {}) * (num_idle // 2)
        ]
        async with asyncio.timeout(PATIENCE_S):
            for _ in posts:
                await arrived.acquire()
        assert (await client.post("/v1/classify", content=owl)).status_code == 200
        may_end.set()
        assert {(await answer).status_code for answer in posts} == {400}


async def test_a_body_that_outgrows_the_room_is_refused_as_it_arrives(
    app_client: AppClient, owl: bytes
) -> None:
    may_end, half = asyncio.Event(), asyncio.Event()

    async def large() -> AsyncIterator[bytes]:
        yield owl
        half.set()
        await may_end.wait()
        yield owl

    async with app_client(max_queue_bytes=2 * len(owl)) as client:
        first = asyncio.create_task(client.post("/v1/classify", content=large()))
        async with asyncio.timeout(PATIENCE_S):
            await half.wait()
        answers = [await client.post("/v1/classify", content=body) for body in (owl, owl + b"x")]
        assert [answer.status_code for answer in answers] == [200, 429]
        chunks = [owl, b"x"]

        async def unannounced() -> AsyncIterator[bytes]:
            while chunks:
                yield chunks.pop(0)
            raise AssertionError("it is refused before its end")

        refused = await client.post("/v1/classify", content=unannounced())
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        may_end.set()
        assert (await first).status_code == 200
