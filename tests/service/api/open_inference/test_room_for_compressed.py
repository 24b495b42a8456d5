"""Compressed bodies take the room of what has arrived, not of what they might become."""

import asyncio
import gzip
import random
from collections.abc import AsyncIterator

import pytest

from tests.conftest import AppClient

pytestmark = pytest.mark.anyio

INFER = "/v2/models/tiny/infer"
BARE = {"inference-header-content-length": "0", "content-encoding": "gzip"}
PATIENCE_S = 30


async def test_small_compressed_bodies_keep_nobody_out(app_client: AppClient, owl: bytes) -> None:
    """Each of them was counted as one of the largest size that is allowed."""
    small = gzip.compress(owl)
    room = 20 * (len(small) + len(owl))
    async with app_client(max_queue_bytes=room, max_body_bytes=room) as client:
        posts = [client.post(INFER, content=small, headers=BARE) for _ in range(16)]
        posts += [client.post("/v1/classify", content=owl)]
        assert {answer.status_code for answer in await asyncio.gather(*posts)} == {200}


async def test_bytes_are_counted_as_they_are_inflated(app_client: AppClient) -> None:
    """A body that outgrows the room while another one is inside is refused, not inflated whole."""
    mebibyte = 1024 * 1024
    noise = random.Random(0).randbytes(20_000)
    bomb = gzip.compress((noise + bytes(100_000)) * 80)  # from 1.6 to 9.6 MB
    may_end, arrived = asyncio.Event(), asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        yield b"x"
        arrived.set()
        await may_end.wait()

    async with app_client(max_queue_bytes=4 * mebibyte) as client:
        first = asyncio.create_task(client.post("/v1/classify", content=waiting()))
        async with asyncio.timeout(PATIENCE_S):
            await arrived.wait()
        assert len(bomb) < 2 * mebibyte
        answer = await client.post(INFER, content=bomb, headers=BARE)
        assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
        inside = int(answer.json()["error"].split(" bytes inside")[0].split()[-1])
        assert 3 * mebibyte < inside <= 4 * mebibyte
        may_end.set()
        await first
        answer = await client.post(INFER, content=bomb, headers=BARE)  # alone, it has all the room
        assert answer.json()["code"] == "invalid_image"
