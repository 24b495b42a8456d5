"""Every job is answered exactly once, with its own lane's company, and nobody waits for nothing."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.errors import DeviceStuckError, InferenceError, NotReadyError, OutOfDeviceMemoryError
from service.scheduling.batcher import Batcher
from service.scheduling.jobs import Answer, Terms
from service.scheduling.policy import DISPATCH_REASONS, BatchPolicy
from service.scheduling.scheduler import BATCHES_UNTIL_GROWTH, Scheduler
from service.scheduling.stream import Finished
from tests.service.scheduling.virtual_time import VirtualLoop, in_virtual_time, now

pytestmark = pytest.mark.anyio

FOR_EVER = math.inf


class Device:
    """Doubles each image; a test opens the gate to let a batch finish."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[float]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()

    async def forward(self, lane: str, images: Sequence[Tensor], _: int = 1) -> list[Tensor]:
        self.batches.append((lane, [image.item() for image in images]))
        self.started.set()
        await self.gate.wait()
        if lane == "broken":
            raise RuntimeError("out of luck")
        if lane == "short":
            return []
        return [2 * image for image in images]


class SlowDevice:
    """Doubles each image in `seconds(n)` of virtual time; more than `num_fitting` do not fit."""

    def __init__(
        self, seconds: Callable[[int], float] = lambda n: 0.1 * n, num_fitting: int = 99
    ) -> None:
        self.seconds = seconds
        self.num_fitting = num_fitting
        self.batches: list[tuple[float, str, list[float]]] = []
        """when each started, its lane and images"""
        self.finished: list[Finished[str]] = []

    async def forward(self, lane: str, images: Sequence[Tensor], _: int = 1) -> list[Tensor]:
        self.batches.append((now(), lane, [image.item() for image in images]))
        await asyncio.sleep(self.seconds(len(images)))
        if len(images) > self.num_fitting or lane == "huge":
            raise OutOfDeviceMemoryError("5 GiB")
        return [2 * image for image in images]

    @property
    def sizes(self) -> list[int]:
        return [len(images) for _, _, images in self.batches]


@asynccontextmanager
async def running(device: Device, max_batch_size: int = 4) -> AsyncIterator[Batcher[str]]:
    batcher: Batcher[str] = Batcher(
        device.forward, Scheduler(BatchPolicy(max_batch_size), lambda *_: 0.0)
    )
    async with serving(batcher):
        yield batcher


@asynccontextmanager
async def slowly(
    device: SlowDevice,
    max_batch_size: int = 8,
    max_wait_s: float = 0.0,
) -> AsyncIterator[Batcher[str]]:
    """On the virtual clock, with a forecast that is always right."""
    batcher: Batcher[str] = Batcher(
        device.forward,
        Scheduler(BatchPolicy(max_batch_size, max_wait_s), lambda _, n: device.seconds(n)),
        on_batch=device.finished.append,
        clock=now,
    )
    async with serving(batcher):
        yield batcher


@asynccontextmanager
async def serving(batcher: Batcher[str]) -> AsyncIterator[None]:
    loop = asyncio.create_task(batcher.run())
    try:
        yield
    finally:
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop


def submit(
    batcher: Batcher[str],
    value: float,
    lane: str = "a",
    **wanted: Any,
) -> asyncio.Task[float]:
    """Hand in one image, without `due` or `deadline` unless they are given."""
    terms = Terms(wanted.pop("due", FOR_EVER), wanted.pop("deadline", FOR_EVER))

    async def one() -> float:
        return (await batcher.submit(lane, torch.tensor(value), terms, **wanted)).result.item()

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
        assert sorted(device.batches) == [
            ("a", [0.0, 2.0, 4.0]),
            ("a", [6.0]),
            ("b", [1.0, 3.0, 5.0]),
            ("b", [7.0]),
        ]
        assert batcher.num_waiting == 0


async def test_the_earliest_due_goes_first_whatever_the_deadline() -> None:
    device = Device()
    async with running(device, max_batch_size=2) as batcher:
        await blocked(device, batcher)
        jobs = [submit(batcher, float(i), "late", due=9) for i in range(3)]
        jobs += [submit(batcher, float(i), "soon", due=8 - i, deadline=1e9) for i in range(3)]
        jobs += [submit(batcher, float(i), "last", due=10, deadline=1e8) for i in range(2)]
        await settle()
        device.gate.set()
        await asyncio.gather(*jobs)
        assert device.batches == [
            ("soon", [2.0, 1.0]),
            ("soon", [0.0]),
            ("late", [0.0, 1.0]),
            ("late", [2.0]),
            ("last", [0.0, 1.0]),
        ]


async def test_between_equals_first_come_is_first_served() -> None:
    device = Device()
    async with running(device, max_batch_size=2) as batcher:
        await blocked(device, batcher)
        jobs = [submit(batcher, float(i), due=7.0) for i in range(5)]
        await settle()
        device.gate.set()
        await asyncio.gather(*jobs)
        assert device.batches == [("a", [0.0, 1.0]), ("a", [2.0, 3.0]), ("a", [4.0])]


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


async def test_a_job_cancelled_just_before_its_batch_is_not_computed() -> None:
    device = Device()
    async with running(device) as batcher:
        await blocked(device, batcher)
        stay, leave = submit(batcher, 1.0), submit(batcher, 2.0)
        alone = submit(batcher, 3.0, lane="alone")
        await settle()
        device.gate.set()  # the device is free before the cancelled tasks have run
        leave.cancel()
        alone.cancel()
        assert await stay == 2.0
        await settle()
        assert device.batches == [("a", [1.0])]
        assert batcher.num_waiting == 0


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
        errors = await asyncio.gather(*bad, return_exceptions=True)
        assert [type(error) for error in errors] == [InferenceError, InferenceError]
        assert errors[0] is not errors[1]
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


@in_virtual_time
async def test_an_answer_says_how_long_it_took() -> None:
    device = SlowDevice()
    async with slowly(device) as batcher:
        first = submit(batcher, 0.0)
        await asyncio.sleep(0.04)
        image = torch.tensor(1.0)
        later = [
            asyncio.create_task(batcher.submit("a", image, Terms(FOR_EVER, FOR_EVER)))
            for _ in range(3)
        ]
        await first
        for answer in await asyncio.gather(*later):
            assert answer == Answer(torch.tensor(2.0), pytest.approx(0.06), pytest.approx(0.3), 3)


# When a batch starts.


@pytest.mark.parametrize(
    ("max_wait_s", "num_waiting", "times_s", "is_draining", "expected"),
    [
        (0.0, 1, (0.0, 9.0), False, (0.0, "idle")),
        (0.0, 3, (5.0, -1.0), False, (0.0, "idle")),
        (0.0, 4, (0.0, 9.0), False, (0.0, "full")),
        (0.5, 4, (0.0, 9.0), False, (0.0, "full")),
        (0.5, 9, (0.0, 9.0), True, (0.0, "full")),
        (0.5, 1, (0.0, 9.0), True, (0.0, "drain")),
        (0.0, 1, (0.0, 9.0), True, (0.0, "drain")),
        (0.5, 1, (0.0, 9.0), False, (0.5, "wait")),
        (0.5, 3, (0.25, 9.0), False, (0.25, "wait")),
        (0.5, 3, (0.5, 9.0), False, (0.0, "wait")),
        (0.5, 3, (2.0, 9.0), False, (0.0, "wait")),
        (0.5, 3, (0.25, 0.25), False, (0.25, "wait")),
        (0.5, 3, (0.0, 0.125), False, (0.125, "deadline")),
        (0.5, 3, (0.25, 0.125), False, (0.125, "deadline")),
        (0.5, 3, (0.25, -7.0), False, (0.0, "deadline")),
        (0.5, 3, (0.0, math.inf), False, (0.5, "wait")),
    ],
)
def test_when_a_batch_is_due_and_why(
    max_wait_s: float,
    num_waiting: int,
    times_s: tuple[float, float],
    is_draining: bool,
    expected: tuple[float, str],
) -> None:
    age_s, slack_s = times_s
    due = BatchPolicy(4, max_wait_s).due(
        num_waiting, age_s=age_s, slack_s=slack_s, is_draining=is_draining
    )
    assert due == expected
    assert due[1] in DISPATCH_REASONS


@in_virtual_time
async def test_waiting_collects_company() -> None:
    device = SlowDevice()
    async with slowly(device, max_wait_s=0.5) as batcher:
        start = now()
        jobs = []
        for value in (1.0, 2.0, 3.0):
            jobs.append(submit(batcher, value))
            await asyncio.sleep(0.15)
        assert device.batches == []
        assert await asyncio.gather(*jobs) == [2.0, 4.0, 6.0]
        assert device.batches == [(pytest.approx(start + 0.5), "a", [1.0, 2.0, 3.0])]
        assert [batch.reason for batch in device.finished] == ["wait"]


@in_virtual_time
async def test_a_full_lane_does_not_wait_and_leaves_the_rest_waiting() -> None:
    device = SlowDevice()
    async with slowly(device, max_batch_size=4, max_wait_s=5.0) as batcher:
        start = now()
        jobs = [submit(batcher, float(i)) for i in range(6)]
        await asyncio.gather(*jobs)
        starts = [(started - start, images) for started, _, images in device.batches]
        assert starts == [
            (pytest.approx(0.0, abs=1e-6), [0.0, 1.0, 2.0, 3.0]),
            (pytest.approx(5.0), [4.0, 5.0]),
        ]
        assert [batch.reason for batch in device.finished] == ["full", "wait"]


@in_virtual_time
async def test_an_urgent_job_cuts_the_wait() -> None:
    device = SlowDevice()
    async with slowly(device, max_wait_s=5.0) as batcher:
        start = now()
        patient = submit(batcher, 1.0)
        await asyncio.sleep(0.5)
        urgent = submit(batcher, 2.0, due=start + 2.0)
        await asyncio.gather(patient, urgent)
        assert device.batches == [(pytest.approx(start + 1.8), "a", [2.0, 1.0])]
        assert [batch.reason for batch in device.finished] == ["deadline"]


@in_virtual_time
async def test_a_lane_that_may_start_does_not_wait_for_one_that_is_more_urgent() -> None:
    device = SlowDevice()
    async with slowly(device, max_batch_size=2, max_wait_s=5.0) as batcher:
        start = now()
        urgent = submit(batcher, 1.0, "urgent", due=start + 4.0)
        full = [submit(batcher, float(i), "full", due=start + 9.0) for i in range(2)]
        await asyncio.gather(urgent, *full)
        assert device.batches == [
            (pytest.approx(start), "full", [0.0, 1.0]),
            (pytest.approx(start + 3.9), "urgent", [1.0]),
        ]


@in_virtual_time
async def test_who_would_be_late_after_the_next_batch_goes_before_it() -> None:
    device = SlowDevice(lambda n: 0.05 * n)
    async with slowly(device, max_wait_s=1.0) as batcher:
        urgent = submit(batcher, 1.0, "urgent", due=now() + 0.3)
        full = [submit(batcher, 2.0, "full", due=now() + 0.9) for _ in range(8)]
        await asyncio.gather(urgent, *full)
        assert [lane for _, lane, _ in device.batches] == ["urgent", "full"]
        assert [batch.reason for batch in device.finished] == ["deadline", "full"]


@in_virtual_time
async def test_draining_cuts_a_wait_that_has_begun() -> None:
    device = SlowDevice()
    async with slowly(device, max_wait_s=60.0) as batcher:
        start = now()
        job = submit(batcher, 1.0, due=now() + 600)
        await asyncio.sleep(5)
        batcher.drain()
        await job
        assert now() - start < 5.5


@in_virtual_time
async def test_who_drains_does_not_wait() -> None:
    device = SlowDevice()
    async with slowly(device, max_wait_s=5.0) as batcher:
        batcher.drain()
        start = now()
        await submit(batcher, 1.0)
        assert device.batches == [(pytest.approx(start), "a", [1.0])]
        assert [batch.reason for batch in device.finished] == ["drain"]


# Deadlines.


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1), st.sampled_from("ab")), max_size=20),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.3]),
)
@in_virtual_time
async def test_nobody_is_computed_after_the_deadline_and_everybody_is_answered(
    arrivals: list[tuple[float, float, str]], max_batch_size: int, max_wait_s: float
) -> None:
    device = SlowDevice()
    start = now()
    deadlines = [start + arrival + rest for arrival, rest, _ in arrivals]

    async def client(index: int) -> float:
        arrival, _, lane = arrivals[index]
        await asyncio.sleep(arrival)
        deadline = deadlines[index]
        return await submit(batcher, float(index), lane, due=deadline, deadline=deadline)

    async with slowly(device, max_batch_size, max_wait_s) as batcher:
        answers = await asyncio.gather(*map(client, range(len(arrivals))), return_exceptions=True)
        assert batcher.num_waiting == 0
    computed = [int(image) for _, _, images in device.batches for image in images]
    for index, answer in enumerate(answers):
        assert computed.count(index) == (answer == 2.0 * index)
        assert answer == 2.0 * index or isinstance(answer, TimeoutError)
    for started, lane, images in device.batches:
        assert 1 <= len(images) <= max_batch_size
        assert all(deadlines[int(image)] > started for image in images)
        assert {arrivals[int(image)][2] for image in images} == {lane}


@in_virtual_time
async def test_a_batch_is_not_so_large_that_its_first_image_comes_too_late() -> None:
    device = SlowDevice()
    async with slowly(device) as batcher:
        first = submit(batcher, 0.0)
        await asyncio.sleep(0.05)
        end = now() + 0.05
        jobs = [submit(batcher, 1.0, due=end, deadline=end + 0.25)]
        jobs += [submit(batcher, float(i), due=end + 9) for i in (2, 3)]
        await asyncio.gather(first, *jobs)
        assert [images for _, _, images in device.batches] == [[0.0], [1.0, 2.0], [3.0]]


@in_virtual_time
async def test_a_deadline_that_has_passed_is_told_at_once() -> None:
    device = SlowDevice()
    async with slowly(device, max_wait_s=9.0) as batcher:
        start = now()
        with pytest.raises(TimeoutError):
            await submit(batcher, 1.0, deadline=start)
        assert now() == pytest.approx(start)
        assert device.batches == []


@in_virtual_time
async def test_a_job_hears_that_its_batch_starts_and_only_then() -> None:
    device = SlowDevice()
    heard: list[tuple[str, float]] = []

    def hear(name: str) -> Callable[[], None]:
        return lambda: heard.append((name, now() - start))

    async with slowly(device) as batcher:
        start = now()
        first = submit(batcher, 1.0, on_start=hear("first"))
        await asyncio.sleep(0.01)
        assert heard == [("first", pytest.approx(0, abs=1e-6))]
        second = submit(batcher, 2.0, on_start=hear("second"))
        expired = submit(batcher, 3.0, deadline=start + 0.05, on_start=hear("expired"))
        cancelled = submit(batcher, 4.0, on_start=hear("cancelled"))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        await asyncio.gather(first, second, expired, cancelled, return_exceptions=True)
        assert heard[1:] == [("second", pytest.approx(0.1, abs=1e-6))]


@in_virtual_time
async def test_whoever_counts_is_told_of_every_finished_batch() -> None:
    device = SlowDevice()
    async with slowly(device, max_batch_size=2) as batcher:
        await asyncio.gather(*(submit(batcher, 1.0, lane) for lane in "aaab"))
    assert device.finished == [
        Finished("a", 2, pytest.approx(0.2), "full", pytest.approx(0.2)),
        Finished("a", 1, pytest.approx(0.1), "idle", pytest.approx(0.1)),
        Finished("b", 1, pytest.approx(0.1), "idle", pytest.approx(0.1)),
    ]


# Devices that fail.


@pytest.mark.parametrize(
    ("num_fitting", "sizes"),
    [
        (8, [8, 8]),
        (4, [8, 4, 4, 4, 4]),
        (3, [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]),
        (1, [8, 4, 2] + 16 * [1]),
    ],
)
@in_virtual_time
async def test_a_batch_that_does_not_fit_is_split_and_all_are_answered(
    num_fitting: int, sizes: list[int]
) -> None:
    device = SlowDevice(num_fitting=num_fitting)
    async with slowly(device, max_batch_size=8) as batcher:
        jobs = [submit(batcher, float(i), due=1e6 + i) for i in range(16)]
        assert await asyncio.gather(*jobs) == [2.0 * i for i in range(16)]
        assert device.sizes == sizes
        assert batcher.num_waiting == 0
        assert sum(batch.num_images for batch in device.finished) == 16
    order = [image for _, _, images in device.batches for image in images]
    assert order[-8:] == [float(i) for i in range(8, 16)]


@pytest.mark.parametrize(("num_images", "half"), [(2, 1), (3, 2), (5, 3), (7, 4)])
@in_virtual_time
async def test_no_batch_is_larger_than_half_of_one_that_did_not_fit(
    num_images: int, half: int
) -> None:
    device = SlowDevice(num_fitting=half)
    async with slowly(device, max_batch_size=8) as batcher:
        await asyncio.gather(*(submit(batcher, 1.0) for _ in range(num_images)))
        await asyncio.gather(*(submit(batcher, 1.0, "other") for _ in range(8)))
        assert device.sizes[0] == num_images
        assert max(device.sizes[1:]) == half


@in_virtual_time
async def test_after_a_while_larger_batches_are_tried_again() -> None:
    device = SlowDevice(num_fitting=3)
    async with slowly(device, max_batch_size=8) as batcher:
        await asyncio.gather(*(submit(batcher, 1.0) for _ in range(8)))
        assert max(device.sizes[-4:]) == 2
        device.num_fitting = 99
        for _ in range(2 * BATCHES_UNTIL_GROWTH):
            await submit(batcher, 1.0)
        await asyncio.gather(*(submit(batcher, 1.0) for _ in range(8)))
        assert device.sizes[-1] == 8


@pytest.mark.parametrize("lane", ["a", "b"])
async def test_a_broken_device_ends_the_loop_and_everybody_is_told(lane: str) -> None:
    device = Device()

    async def forward(key: str, images: Sequence[Tensor], _: int) -> list[Tensor]:
        await device.forward(key, images)
        raise DeviceStuckError("an illegal memory access")

    batcher: Batcher[str] = Batcher(forward, Scheduler(BatchPolicy(2), lambda *_: 0.0))
    loop = asyncio.create_task(batcher.run())
    jobs = [submit(batcher, 1.0, lane) for _ in range(3)]
    with pytest.raises(DeviceStuckError):
        await loop
    results = await asyncio.gather(*jobs, submit(batcher, 1.0), return_exceptions=True)
    assert [type(result) for result in results] == [NotReadyError] * 4
    assert len(device.batches) == 1


@in_virtual_time
async def test_one_image_that_does_not_fit_leaves_the_others_alone() -> None:
    device = SlowDevice()
    async with slowly(device) as batcher:
        huge = [submit(batcher, float(i), "huge", due=1.0) for i in range(3)]
        good = [submit(batcher, float(i), due=2.0) for i in range(3)]
        errors = await asyncio.gather(*huge, return_exceptions=True)
        assert [type(error) for error in errors] == 3 * [OutOfDeviceMemoryError]
        assert len({id(error) for error in errors}) == 3
        assert [str(error) for error in errors] == 3 * ["5 GiB"]
        assert await asyncio.gather(*good) == [0.0, 2.0, 4.0]


@in_virtual_time
async def test_who_left_a_batch_that_does_not_fit_is_not_computed_again() -> None:
    device = SlowDevice(num_fitting=2)
    async with slowly(device) as batcher:
        jobs = [submit(batcher, float(i), due=1e6 + i) for i in range(4)]
        await asyncio.sleep(0.01)
        jobs[1].cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        assert [images for _, _, images in device.batches] == [
            [0.0, 1.0, 2.0, 3.0],
            [0.0, 2.0],
            [3.0],
        ]
        assert batcher.num_waiting == 0


@in_virtual_time
async def test_a_device_that_hangs_is_noticed_and_everybody_is_told() -> None:
    device = SlowDevice(seconds=lambda n: 1000.0 if n == 3 else 1.0)
    async with slowly(device) as batcher:
        watch = asyncio.create_task(batcher.watch(max_batch_s=10.0))
        await submit(batcher, 1.0)
        await asyncio.sleep(100)
        assert not watch.done()
        start = now()
        inside = [submit(batcher, float(i)) for i in range(3)]
        await asyncio.sleep(0.5)
        waiting = [submit(batcher, float(i), "b") for i in range(2)]
        errors = await asyncio.gather(*inside, *waiting, return_exceptions=True)
        assert [type(error) for error in errors] == 5 * [NotReadyError]
        assert len({id(error) for error in errors}) == 5
        assert 10.0 <= now() - start <= 11.1
        with pytest.raises(DeviceStuckError, match="3 images has not ended within 10 s"):
            await watch
        with pytest.raises(NotReadyError):
            await submit(batcher, 1.0)
        assert batcher.num_waiting == 0
        await asyncio.sleep(2000)  # the hung batch ends after all, and nobody is answered twice
        assert len(device.batches) == 2
        with pytest.raises(NotReadyError):
            await submit(batcher, 1.0)


def stop_the_process(seconds: float) -> None:
    """The clock goes on, and nothing else."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.stand_still(seconds)


@in_virtual_time
async def test_a_process_that_was_stopped_blames_no_device() -> None:
    device = SlowDevice(seconds=lambda n: 30.0 if n == 3 else 9.0)
    async with slowly(device) as batcher:
        watch = asyncio.create_task(batcher.watch(max_batch_s=10.0))
        for _ in range(3):
            job = submit(batcher, 1.0)
            await asyncio.sleep(4)
            stop_the_process(3600)
            await asyncio.sleep(1)  # the watcher has seen it
            assert batcher.running_s < 10
            assert await job == 2.0
        assert not watch.done()
        stuck = [submit(batcher, float(i)) for i in range(3)]
        await asyncio.sleep(3)
        start = now()
        stop_the_process(15)
        errors = await asyncio.gather(*stuck, return_exceptions=True)
        assert [type(error) for error in errors] == 3 * [NotReadyError]
        assert 15 + 6 <= now() - start <= 15 + 9.1  # 10 s without the pause
        with pytest.raises(DeviceStuckError):
            await watch


# Forecasts.

waiting_jobs = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=0, max_size=14
)


def lane_s(lane: str, num_images: int) -> float:
    """A device on which each lane has its own line."""
    slope, intercept = {"a": (0.1, 0.3), "b": (0.05, 0.1), "c": (0.2, 0.0)}[lane]
    return slope * num_images + intercept


class LaneDevice:
    """Takes `lane_s`."""

    async def forward(self, lane: str, images: Sequence[Tensor], _: int = 1) -> Sequence[Tensor]:
        await asyncio.sleep(lane_s(lane, len(images)))
        return images


@asynccontextmanager
async def filled(
    waiting: list[tuple[str, int]], max_batch_size: int, running_s: float
) -> AsyncIterator[Batcher[str]]:
    """A batcher with one image of lane `a` on the device since `running_s`, and these waiting."""
    batcher: Batcher[str] = Batcher(
        LaneDevice().forward, Scheduler(BatchPolicy(max_batch_size), lane_s), clock=now
    )
    async with serving(batcher):
        first = submit(batcher, 0.0, due=0.0)
        await asyncio.sleep(running_s)
        jobs = [submit(batcher, 0.0, lane, due=1e6 + due) for lane, due in waiting]
        await asyncio.sleep(0)
        try:
            yield batcher
        finally:
            await asyncio.gather(first, *jobs)


def one_by_one_s(counts: dict[str, int], max_batch_size: int) -> float:
    """Take a batch out of each lane until nothing is left."""
    seconds = 0.0
    for lane, count in counts.items():
        left = count
        while left > 0:
            seconds += lane_s(lane, min(left, max_batch_size))
            left -= max_batch_size
    return seconds


@settings(max_examples=60)
@given(waiting_jobs, st.integers(1, 5), st.sampled_from([0.1, 0.3]))
@in_virtual_time
async def test_the_backlog_is_the_time_until_all_is_computed(
    waiting: list[tuple[str, int]], max_batch_size: int, running_s: float
) -> None:
    start = now()
    async with filled(waiting, max_batch_size, running_s) as batcher:
        asked, backlog_s = now(), batcher.backlog_s
        counts = {lane: sum(other == lane for other, _ in waiting) for lane in "abc"}
        rest_s = lane_s("a", 1) - (asked - start)
        assert backlog_s == pytest.approx(rest_s + one_by_one_s(counts, max_batch_size), abs=1e-6)
    assert now() - asked == pytest.approx(backlog_s, abs=1e-6)
    assert batcher.backlog_s == 0.0


@settings(max_examples=60)
@given(st.integers(0, 12), st.integers(1, 5), st.integers(1, 5))
@in_virtual_time
async def test_in_one_lane_the_expected_wait_is_what_it_takes(
    num_waiting: int, max_batch_size: int, num_images: int
) -> None:
    async with filled(num_waiting * [("b", 0)], max_batch_size, 0.1) as batcher:
        asked = now()
        expected_s = batcher.expected_wait("b", num_images, 1e6 + 1).seconds
        await asyncio.gather(*(submit(batcher, 0.0, "b", due=1e6 + 1) for _ in range(num_images)))
        company_s = lane_s("b", max_batch_size) if num_waiting + num_images > max_batch_size else 0
        assert -1e-6 <= expected_s - (now() - asked) <= company_s + 1e-6


@settings(max_examples=200)
@given(
    waiting_jobs,
    st.integers(1, 5),
    st.sampled_from("abc"),
    st.integers(1, 3),
    st.integers(0, 9),
)
@in_virtual_time
async def test_if_nobody_else_comes_nobody_waits_longer_than_expected(
    waiting: list[tuple[str, int]], max_batch_size: int, lane: str, num_images: int, due: int
) -> None:
    async with filled(waiting, max_batch_size, 0.1) as batcher:
        asked = now()
        expected_s = batcher.expected_wait(lane, num_images, 1e6 + due).seconds
        alone_s = num_images * lane_s(lane, 1) + lane_s(lane, max_batch_size)
        everything_s = batcher.backlog_s + alone_s
        jobs = [submit(batcher, 0.0, lane, due=1e6 + due) for _ in range(num_images)]
        await asyncio.gather(*jobs)
        assert now() - asked <= expected_s + 1e-6
        assert expected_s <= everything_s + 1e-6


@in_virtual_time
async def test_what_goes_later_is_not_waited_for() -> None:
    async with filled([("a", 9), ("a", 9), ("c", 1)], 4, 0.1) as batcher:
        rest_s = lane_s("a", 1) - 0.1
        for due, ahead_s in ((0, 0.0), (1, lane_s("c", 1)), (9, lane_s("c", 1) + lane_s("a", 2))):
            expected_s = rest_s + ahead_s + lane_s("b", 1)
            assert batcher.expected_wait("b", 1, 1e6 + due).seconds == pytest.approx(expected_s)


@in_virtual_time
async def test_a_batch_that_takes_longer_than_expected_is_expected_to_end_now() -> None:
    device = SlowDevice()
    batcher: Batcher[str] = Batcher(
        device.forward, Scheduler(BatchPolicy(4), lambda *_: 0.01), clock=now
    )
    async with serving(batcher):
        job = submit(batcher, 1.0)
        await asyncio.sleep(0.05)
        assert batcher.backlog_s == 0.0
        assert batcher.expected_wait("b", 1, FOR_EVER).seconds == pytest.approx(0.01)
        await job
