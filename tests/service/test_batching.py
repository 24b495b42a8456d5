"""Every job is answered exactly once, with its own lane's company, and nobody waits for nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
import torch
from torch import Tensor

from service.batching import Batcher
from service.errors import InferenceError, NotReadyError

pytestmark = pytest.mark.anyio


class Device:
    """Doubles each image; a test opens the gate to let a batch finish."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[float]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()

    async def forward(self, lane: str, images: Sequence[Tensor]) -> list[Tensor]:
        self.batches.append((lane, [image.item() for image in images]))
        self.started.set()
        await self.gate.wait()
        if lane == "broken":
            raise RuntimeError("out of luck")
        if lane == "short":
            return []
        return [2 * image for image in images]


@asynccontextmanager
async def running(device: Device, max_batch_size: int = 4) -> AsyncIterator[Batcher[str]]:
    batcher: Batcher[str] = Batcher(
        device.forward, max_batch_size=max_batch_size, on_batch=lambda *_: None
    )
    loop = asyncio.create_task(batcher.run())
    try:
        yield batcher
    finally:
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop


def submit(
    batcher: Batcher[str], value: float, lane: str = "a", deadline: float = 0
) -> asyncio.Task[float]:
    async def one() -> float:
        return (await batcher.submit(lane, torch.tensor(value), deadline)).logits.item()

    return asyncio.create_task(one())


async def blocked(device: Device, batcher: Batcher[str]) -> asyncio.Task[float]:
    """Keep the device busy with one job, so that what is submitted next has to wait."""
    device.gate.clear()
    first = submit(batcher, 0.0, lane="first")
    await device.started.wait()
    device.started.clear()
    device.batches.clear()
    return first


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_idle_device_starts_at_once() -> None:
    device = Device()
    async with running(device) as batcher:
        assert await submit(batcher, 3.0) == 6.0
        assert device.batches == [("a", [3.0])]


async def test_what_waits_becomes_a_batch_of_one_lane() -> None:
    device = Device()
    async with running(device, max_batch_size=3) as batcher:
        first = await blocked(device, batcher)
        jobs = [submit(batcher, float(i), lane="ab"[i % 2]) for i in range(8)]
        await settle()
        assert batcher.num_waiting == 8
        device.gate.set()
        assert await asyncio.gather(*jobs) == [2.0 * i for i in range(8)]
        assert await first == 0.0
        assert device.batches == [
            ("a", [0.0, 2.0, 4.0]),
            ("b", [1.0, 3.0, 5.0]),
            ("a", [6.0]),
            ("b", [7.0]),
        ]
        assert batcher.num_waiting == 0


async def test_the_earliest_deadline_goes_first() -> None:
    device = Device()
    async with running(device, max_batch_size=2) as batcher:
        await blocked(device, batcher)
        late = [submit(batcher, float(i), "late", deadline=9) for i in range(3)]
        soon = [submit(batcher, float(i), "soon", deadline=9 - i) for i in range(3)]
        await settle()
        device.gate.set()
        await asyncio.gather(*late, *soon)
        assert device.batches[0] == ("soon", [2.0, 1.0])


async def test_a_cancelled_job_is_never_computed_and_does_not_count() -> None:
    device = Device()
    async with running(device) as batcher:
        await blocked(device, batcher)
        stay, leave = submit(batcher, 1.0), submit(batcher, 2.0)
        alone = submit(batcher, 3.0, lane="alone")
        await settle()
        leave.cancel()
        alone.cancel()
        await settle()
        assert batcher.num_waiting == 1
        device.gate.set()
        assert await stay == 2.0
        assert device.batches == [("a", [1.0])]


async def test_a_job_cancelled_inside_its_batch_leaves_the_others_alone() -> None:
    device = Device()
    async with running(device) as batcher:
        await blocked(device, batcher)
        jobs = [submit(batcher, float(i)) for i in range(3)]
        await settle()
        device.gate.set()
        await asyncio.sleep(0)
        device.gate.clear()
        await device.started.wait()
        jobs[1].cancel()
        device.gate.set()
        assert await jobs[0] == 0.0
        assert await jobs[2] == 4.0


@pytest.mark.parametrize("lane", ["broken", "short"])
async def test_a_failing_batch_fails_its_jobs_and_nobody_else(lane: str) -> None:
    device = Device()
    async with running(device) as batcher:
        await blocked(device, batcher)
        bad = [submit(batcher, float(i), lane) for i in range(2)]
        good = submit(batcher, 5.0)
        await settle()
        device.gate.set()
        for error in await asyncio.gather(*bad, return_exceptions=True):
            assert isinstance(error, InferenceError)
        assert await good == 10.0
        assert await submit(batcher, 6.0) == 12.0


async def test_closing_answers_everybody() -> None:
    device = Device()
    async with running(device) as batcher:
        computing = await blocked(device, batcher)
        waiting = submit(batcher, 1.0)
        await settle()
    for job in (computing, waiting, submit(batcher, 2.0)):
        with pytest.raises(NotReadyError):
            await job
    assert batcher.num_waiting == 0
