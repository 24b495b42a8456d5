"""Few requests begin in each turn of the event loop, in their order; probes begin at once."""

import asyncio
from functools import partial

import pytest

from service.api.turns import PER_TURN, PROBES, Turns

pytestmark = pytest.mark.anyio


async def test_few_requests_begin_in_a_turn_and_all_in_their_order() -> None:
    turns, begun = Turns(), list[int]()
    for number in range(5 * PER_TURN + 1):
        turns.begin("/metrics", partial(begun.append, number))
    per_turn = []
    while len(begun) < 5 * PER_TURN + 1:
        per_turn.append(len(begun))
        await asyncio.sleep(0)
    assert per_turn == [PER_TURN * number for number in range(1, 6)]
    assert begun == sorted(begun)


@pytest.mark.parametrize("path", sorted(PROBES))
async def test_a_probe_does_not_wait_for_others(path: str) -> None:
    turns, begun = Turns(), list[str]()
    for _ in range(10 * PER_TURN):
        turns.begin("/metrics", partial(begun.append, "/metrics"))
    turns.begin(path, partial(begun.append, path))
    assert begun == ["/metrics"] * PER_TURN + [path]


async def test_a_request_alone_begins_at_once_in_each_turn() -> None:
    turns, begun = Turns(), list[int]()
    for number in range(3 * PER_TURN):
        turns.begin("/v1/classify", partial(begun.append, number))
        assert begun[-1] == number
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_none_overtakes_those_that_wait() -> None:
    turns, begun = Turns(), list[int]()
    for number in range(PER_TURN + 2):
        turns.begin("/v1/classify", partial(begun.append, number))
    await asyncio.sleep(0)
    turns.begin("/v1/classify", partial(begun.append, PER_TURN + 2))
    for _ in range(3):
        await asyncio.sleep(0)
    assert begun == list(range(PER_TURN + 3))
