"""The device's threads: how many batches run at a time, and with how many threads each."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import torch
from torch import Tensor, nn

from service.backends.contract import Variant
from service.backends.engine import MAX_STREAMS, NUM_MEASURED, Engine
from service.backends.placement import CPU
from service.errors import SettingsError
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


class Module(nn.Module):
    """Notes how many threads it has, and does something else first."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.before = before
        self.threads: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.before()
        self.threads.append(torch.get_num_threads())
        return x.flatten(1).sum(dim=1, keepdim=True)


def variant(module: nn.Module) -> Variant:
    return Variant("tiny", "rapid", 0, module, (0,), 5, 1)


@asynccontextmanager
async def engine(num_threads: int, num_streams: int) -> AsyncIterator[Engine]:
    made = Engine(CPU, num_threads=num_threads, num_streams=num_streams)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(("num_threads", "expected"), [(1, 1), (3, 3), (4, 4), (16, MAX_STREAMS)])
async def test_by_default_there_is_a_stream_for_every_thread_up_to_some(
    num_threads: int, expected: int
) -> None:
    async with engine(num_threads, 0) as made:
        assert (made.num_threads, made.num_streams) == (num_threads, expected)


async def test_more_streams_than_threads_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"RAPID_NUM_STREAMS = 3 .* 0 \.\.\. 2"):
        Engine(CPU, num_threads=2, num_streams=3)


async def test_streams_compute_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=PATIENCE_S)
    module = Module(both.wait)
    async with engine(2, 2) as made:
        images = [torch.ones(3, 2, 2)]
        rows = await asyncio.gather(*(made.forward(variant(module), images, 1) for _ in range(2)))
    assert [row.item() for (row,) in rows] == [12.0, 12.0]
    assert module.threads == [1, 1]


async def test_one_stream_computes_one_batch_after_the_other() -> None:
    inside = 0
    most = 0

    def count() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        threading.Event().wait(0.01)
        inside -= 1

    module = Module(count)
    async with engine(2, 1) as made:
        await asyncio.gather(
            *(made.forward(variant(module), [torch.ones(3, 2, 2)]) for _ in range(4))
        )
    assert most == 1


async def test_a_batch_has_the_threads_that_it_was_given() -> None:
    module = Module()
    async with engine(3, 1) as made:
        for wanted in (1, 3, 2, 0):
            await made.forward(variant(module), [torch.ones(3, 2, 2)], wanted)
    assert module.threads == [1, 3, 2, 3]


async def test_one_worker_alone_starts_batches_on_all_threads() -> None:
    """Whatever threads a worker starts stay with it, and too many of them slow each other."""
    started_by: dict[bool, set[int]] = {True: set(), False: set()}
    barrier = threading.Barrier(2)

    def note() -> None:
        if torch.get_num_threads() == 1:
            barrier.wait(PATIENCE_S)  # so that two streams are at work
        started_by[torch.get_num_threads() == 2].add(threading.get_ident())

    module = Module(note)
    async with engine(2, 2) as made:
        loader = await made.run(threading.get_ident)
        for threads in (2, 1, 2, 0, 1):
            both = 2 if threads == 1 else 1
            image = [torch.ones(3, 2, 2)]
            await asyncio.gather(
                *(made.forward(variant(module), image, threads) for _ in range(both))
            )
    assert started_by[True] == {loader}
    assert len(started_by[False]) == 2
    assert loader not in started_by[False]


async def test_the_warm_up_gives_one_image_the_device_or_a_stream_and_many_a_stream() -> None:
    module = Module()
    async with engine(4, 2) as made:
        warm = await made.warm_up(variant(module), (3, 2, 2), (1, 8))
    assert set(warm.seconds) == {1, 8}
    assert warm.seconds[1] == warm.image_s / 2
    assert module.threads == [4, *NUM_MEASURED * [4], *NUM_MEASURED * [2], 2]


async def test_with_one_stream_one_image_is_measured_only_once() -> None:
    module = Module()
    async with engine(2, 1) as made:
        warm = await made.warm_up(variant(module), (3, 2, 2), (1, 8))
    assert warm.seconds[1] == warm.image_s == warm.lone_image_s
    assert module.threads == [2, *NUM_MEASURED * [2], 2]
