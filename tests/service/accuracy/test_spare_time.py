"""Work that no client waits for: it never goes before a client's, and takes a bounded share."""

import asyncio
import math
import random

import pytest
import torch

from service.errors import InferenceError, NotReadyError, OutOfDeviceMemoryError
from service.scheduling.batcher import Batcher
from service.scheduling.policy import BatchPolicy, SpareTime
from service.scheduling.scheduler import Scheduler
from tests.service.scheduling.test_batcher import (
    Device,
    SlowDevice,
    running,
    serving,
    slowly,
    submit,
)
from tests.service.scheduling.virtual_time import in_virtual_time, now

QUIET_S = SpareTime().quiet_s


def spare(batcher: Batcher[str], value: float, lane: str = "spare") -> asyncio.Task[float]:
    async def one() -> float:
        return (await batcher.submit_spare(lane, torch.tensor(value))).result.item()

    return asyncio.create_task(one())


def busy_since(device: SlowDevice, start: float, lane: str) -> float:
    """Seconds that a lane's batches have taken."""
    return sum(
        device.seconds(len(images))
        for started, name, images in device.batches
        if name == lane and started >= start
    )


@in_virtual_time
async def test_a_device_without_traffic_does_it_one_after_the_other() -> None:
    device = SlowDevice()
    async with slowly(device) as batcher:
        start = now()
        results = await asyncio.gather(*(spare(batcher, float(i)) for i in range(5)))
        assert results == [0.0, 2.0, 4.0, 6.0, 8.0]
        assert now() - start == pytest.approx(0.5)
    assert device.sizes == [1] * 5
    assert {batch.reason for batch in device.finished} == {"spare"}
    assert all(batch.is_spare for batch in device.finished)


@in_virtual_time
async def test_a_clients_image_always_goes_first() -> None:
    device = SlowDevice()
    async with slowly(device, max_batch_size=1) as batcher:
        works = [spare(batcher, -float(i)) for i in range(1, 4)]
        await asyncio.sleep(0.05)
        clients = [submit(batcher, float(i), due=math.inf) for i in range(10, 14)]
        await asyncio.gather(*clients)
        images = [images[0] for _, _, images in device.batches]
        assert images[:5] == [-1.0, 10.0, 11.0, 12.0, 13.0]
        await asyncio.gather(*works)


@in_virtual_time
async def test_while_a_client_waits_for_company_it_does_not_start() -> None:
    device = SlowDevice()
    async with slowly(device, max_wait_s=2.0) as batcher:
        client = submit(batcher, 1.0, due=now() + 9)
        await asyncio.sleep(0.5)
        work = spare(batcher, 2.0)
        await asyncio.gather(client, work)
    assert [lane for _, lane, _ in device.batches] == ["a", "spare"]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@in_virtual_time
async def test_among_traffic_it_takes_its_share_of_the_time_and_no_more(share: float) -> None:
    device = SlowDevice(lambda n: 0.03 * n)
    batcher: Batcher[str] = Batcher(
        device.forward,
        Scheduler(BatchPolicy(8), lambda _, n: device.seconds(n), SpareTime(share)),
        clock=now,
    )
    chance = random.Random(0)
    async with serving(batcher):
        await submit(batcher, 0.0)
        start = now()
        works = [spare(batcher, 1.0) for _ in range(2000)]
        clients = []
        while now() < start + 300:
            clients.append(submit(batcher, 1.0, due=now()))
            await asyncio.sleep(chance.expovariate(4))
        taken = busy_since(device, start, "spare") / (now() - start)
        for work in works:
            work.cancel()
        await asyncio.gather(*works, *clients, return_exceptions=True)
    assert taken <= share + 0.001
    assert taken > share / 3


@in_virtual_time
async def test_a_while_after_the_last_client_the_share_ends() -> None:
    device = SlowDevice()
    async with slowly(device) as batcher:
        await submit(batcher, 0.0)
        quiet_from = now() + QUIET_S
        await asyncio.gather(*(spare(batcher, 1.0) for _ in range(12)))
        started = [at for at, lane, _ in device.batches if lane == "spare"]
    assert sum(at < quiet_from - 1e-6 for at in started) == 1
    assert started[-1] == pytest.approx(quiet_from + 1.0, abs=0.01)


@in_virtual_time
async def test_it_counts_for_nobodys_forecast() -> None:
    device = SlowDevice()
    async with slowly(device) as batcher:
        works = [spare(batcher, 1.0) for _ in range(50)]
        await asyncio.sleep(0.05)
        assert not batcher.is_busy
        assert batcher.num_waiting == 0
        assert batcher.backlog_s == pytest.approx(0.05)  # only what is running now
        assert batcher.expected_wait("a", 1, now()).seconds == pytest.approx(0.15)
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)


@pytest.mark.anyio
async def test_cancelled_it_is_never_computed() -> None:
    device = Device()
    async with running(device) as batcher:
        device.gate.clear()
        first = submit(batcher, 0.0)
        await device.started.wait()
        work = spare(batcher, 1.0)
        await asyncio.sleep(0)
        work.cancel()
        device.gate.set()
        await first
        with pytest.raises(asyncio.CancelledError):
            await work
    assert device.batches == [("a", [0.0])]


@pytest.mark.parametrize(
    ("lane", "error"), [("huge", OutOfDeviceMemoryError), ("short", InferenceError)]
)
@in_virtual_time
async def test_what_fails_says_so_and_lowers_no_limit(lane: str, error: type[Exception]) -> None:
    device = SlowDevice()

    async def forward(key: str, images: list[torch.Tensor], _: int) -> list[torch.Tensor]:
        rows = await device.forward(key, images)
        return [] if key == "short" else rows

    batcher: Batcher[str] = Batcher(forward, Scheduler(BatchPolicy(8), lambda *_: 0.1), clock=now)
    async with serving(batcher):
        with pytest.raises(error):
            await spare(batcher, 1.0, lane)
        await asyncio.gather(*(submit(batcher, 1.0) for _ in range(8)))
    assert device.sizes[-1] == 8


@pytest.mark.anyio
async def test_closing_tells_it_too_and_draining_starts_none() -> None:
    device = Device()
    batcher: Batcher[str] = Batcher(device.forward, Scheduler(BatchPolicy(4), lambda *_: 0.0))
    batcher.drain()
    async with serving(batcher):
        work = spare(batcher, 1.0)
        await submit(batcher, 2.0)
        assert not work.done()
    with pytest.raises(NotReadyError):
        await work
    assert device.batches == [("a", [2.0])]
