"""Several batches at the same time: who gets how much of the device, and what a failure ends."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.errors import DeviceStuckError, InferenceError, NotReadyError
from service.scheduling.batcher import Batcher
from service.scheduling.jobs import Answer, Terms
from service.scheduling.lanes import WORTH_WAITING
from service.scheduling.policy import BatchPolicy, Part
from service.scheduling.scheduler import LONGEST_SLEEP_S, TURNAROUND_S, Scheduler
from service.scheduling.stream import Finished
from tests.service.scheduling.virtual_time import in_virtual_time, now

IMAGE_S = 0.1
"""on the whole device"""
LONG_S = 100.0


class Device:
    """Takes `IMAGE_S` for each image, if it has all threads."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._zero = now()
        self.batches: list[tuple[float, int, int]] = []
        """when each started, its images and its threads"""
        self.finished: list[Finished[str]] = []

    async def forward(self, lane: str, images: Sequence[Tensor], num_threads: int) -> list[Tensor]:
        self.batches.append((round(now() - self._zero, 6), len(images), num_threads))
        long_s = LONG_S if lane == "long" else 0.0
        await asyncio.sleep(long_s + len(images) * IMAGE_S * self.num_threads / num_threads)
        if lane == "broken":
            raise RuntimeError("out of luck")
        if lane == "stuck":
            raise DeviceStuckError("an illegal memory access")
        return [2 * image for image in images]


@asynccontextmanager
async def streams(
    device: Device, num_streams: int, num_coming: int = 0
) -> AsyncIterator[Batcher[str]]:
    policy = BatchPolicy(8, num_streams=num_streams, num_threads=device.num_threads)
    batcher: Batcher[str] = Batcher(
        device.forward,
        Scheduler(policy, lambda _, n: n * IMAGE_S),
        on_batch=device.finished.append,
        clock=now,
    )
    batcher.coming(num_coming)
    loop = asyncio.create_task(batcher.run())
    try:
        yield batcher
    finally:
        loop.cancel()
        with suppress(asyncio.CancelledError, DeviceStuckError):
            await loop


def submit(
    batcher: Batcher[str], lane: str = "a", deadline_s: float = 99.0
) -> asyncio.Task[Answer]:
    deadline = now() + deadline_s
    return asyncio.create_task(batcher.submit(lane, torch.tensor(1.0), Terms(deadline, deadline)))


@pytest.mark.parametrize(
    ("taken", "num_waiting", "part"),
    [
        ([], 1, Part(4, 1.0, 1)),
        ([], 2, Part(2, 0.5, 1)),
        ([], 3, Part(1, 0.25, 1)),
        ([], 8, Part(1, 0.25, 2)),
        ([], 99, Part(1, 0.25, 8)),
        ([1], 1, Part(3, 0.75, 1)),
        ([1, 1], 4, Part(1, 0.25, 2)),
        ([2], 5, Part(1, 0.25, 3)),
        ([4], 9, None),
        ([1, 1, 1, 1], 9, None),
    ],
)
def test_what_the_next_batch_gets(taken: list[int], num_waiting: int, part: Part | None) -> None:
    assert BatchPolicy(8, num_streams=4, num_threads=4).part(taken, num_waiting) == part


@pytest.mark.parametrize(
    ("num_streams", "num_waiting", "num_coming", "part"),
    [
        (4, 1, 1, Part(2, 0.5, 1)),
        (4, 1, 9, Part(1, 0.25, 1)),
        (3, 2, 1, Part(1, 1 / 3, 1)),
    ],
)
def test_streams_are_left_free_for_images_that_come(
    num_streams: int, num_waiting: int, num_coming: int, part: Part
) -> None:
    policy = BatchPolicy(8, num_streams=num_streams, num_threads=num_streams)
    assert policy.part([], num_waiting, num_coming) == part


@given(
    num_threads=st.integers(1, 64),
    num_streams=st.integers(1, 64),
    num_waiting=st.integers(1, 200),
    max_batch_size=st.integers(1, 32),
)
def test_images_that_wait_take_all_of_the_device_and_never_more(
    num_threads: int, num_streams: int, num_waiting: int, max_batch_size: int
) -> None:
    policy = BatchPolicy(max_batch_size, num_streams=num_streams, num_threads=num_threads)
    taken: list[int] = []
    sizes: list[int] = []
    rest = num_waiting
    while rest and (part := policy.part(taken, rest)) is not None:
        assert part.share == part.num_threads / num_threads
        taken.append(part.num_threads)
        sizes.append(min(rest, part.max_images))
        rest -= sizes[-1]
    assert sum(taken) == num_threads or rest == 0
    assert sum(taken) <= num_threads
    assert len(taken) <= num_streams
    assert max(sizes) <= max_batch_size
    assert max(sizes) - min(sizes) <= 1


@in_virtual_time
async def test_one_image_alone_gets_the_whole_device() -> None:
    device = Device(4)
    async with streams(device, 4) as batcher:
        answer = await submit(batcher)
    assert device.batches == [(0.0, 1, 4)]
    assert answer.inference_s == pytest.approx(IMAGE_S)


@in_virtual_time
async def test_several_images_are_spread_and_end_together() -> None:
    device = Device(4)
    async with streams(device, 4) as batcher:
        answers = await asyncio.gather(*(submit(batcher) for _ in range(6)))
    assert sorted(device.batches) == [(0.0, 1, 1), (0.0, 1, 1), (0.0, 2, 1), (0.0, 2, 1)]
    assert max(answer.inference_s for answer in answers) == pytest.approx(2 * IMAGE_S * 4)
    assert sum(batch.device_s for batch in device.finished) == pytest.approx(6 * IMAGE_S)


@in_virtual_time
async def test_who_comes_while_all_is_taken_shares_what_is_free_next() -> None:
    device = Device(2)
    async with streams(device, 2) as batcher:
        first = submit(batcher)
        await asyncio.sleep(IMAGE_S / 2)
        others = [submit(batcher) for _ in range(4)]
        await asyncio.gather(first, *others)
    assert device.batches == [(0.0, 1, 2), (IMAGE_S, 2, 1), (IMAGE_S, 2, 1)]


@in_virtual_time
async def test_the_wait_is_forecast_for_what_is_free() -> None:
    device = Device(2)
    async with streams(device, 2) as batcher:
        assert batcher.expected_wait("a", 1, now() + 1).seconds == pytest.approx(IMAGE_S)
        pair = [submit(batcher), submit(batcher, "b")]
        await asyncio.sleep(IMAGE_S)
        # Both streams have half of their work left: one image on the device, then one on a stream.
        assert batcher.backlog_s == pytest.approx(IMAGE_S)
        expected_s = batcher.expected_wait("a", 1, now() + 1).seconds
        started = now()
        await asyncio.gather(*pair, submit(batcher))
        assert now() - started <= expected_s + 1e-6


@in_virtual_time
async def test_no_image_is_taken_along_that_would_make_another_late() -> None:
    device = Device(2)
    async with streams(device, 2) as batcher:
        jobs = [submit(batcher, deadline_s=5 * IMAGE_S) for _ in range(8)]
        await asyncio.gather(*jobs, return_exceptions=True)
    assert [size for _, size, _ in device.batches][:2] == [2, 2]


# A stream is free, another one computes, and more images are being decoded.

ALONE_S = 2 * IMAGE_S
"""one image on one of two threads"""


@asynccontextmanager
async def half_busy(device: Device, num_coming: int) -> AsyncIterator[Batcher[str]]:
    """One of two streams has a long batch, and the other one nothing to do."""
    async with streams(device, 2, num_coming) as batcher:
        long, short = submit(batcher, "long"), submit(batcher, "short")
        await short
        device.batches.clear()
        yield batcher
    with suppress(NotReadyError):
        await long


@in_virtual_time
async def test_an_image_waits_a_little_for_those_that_are_being_decoded() -> None:
    device = Device(2)
    async with half_busy(device, 1) as batcher:
        pair = [submit(batcher)]
        await asyncio.sleep(ALONE_S / 4)
        pair.append(submit(batcher))
        batcher.coming(-1)
        await asyncio.gather(*pair)
    assert [size for _, size, _ in device.batches] == [2]


@in_virtual_time
async def test_it_does_not_wait_longer_than_that_is_worth() -> None:
    device = Device(2)
    async with half_busy(device, 1) as batcher:
        answer = await submit(batcher)
    assert answer.queue_s == pytest.approx(WORTH_WAITING * ALONE_S, abs=0.006)


@in_virtual_time
async def test_it_does_not_wait_for_who_never_comes() -> None:
    device = Device(2)
    async with half_busy(device, 1) as batcher:
        waiting = submit(batcher)
        await asyncio.sleep(0.01)
        batcher.coming(-1)  # that picture could not be decoded
        assert (await waiting).queue_s == pytest.approx(0.01, abs=0.006)


@in_virtual_time
async def test_it_does_not_wait_if_that_would_make_it_late() -> None:
    device = Device(2)
    async with half_busy(device, 1) as batcher:
        answer = await submit(batcher, deadline_s=1.1 * ALONE_S)
    assert answer.queue_s <= 0.1 * ALONE_S + 1e-6


@pytest.mark.parametrize("comes_back", [True, False])
@in_virtual_time
async def test_who_is_left_over_waits_a_moment_for_those_who_were_answered(
    comes_back: bool,
) -> None:
    device = Device(2)
    async with streams(device, 2) as batcher:
        short, *long = submit(batcher, "short"), *(submit(batcher, "long") for _ in range(3))
        await asyncio.sleep(ALONE_S / 2)
        left_over = submit(batcher)
        await short
        await asyncio.sleep(TURNAROUND_S / 2)
        others = [submit(batcher)] if comes_back else []
        answer, *_ = await asyncio.gather(left_over, *others)
    await asyncio.gather(*long, return_exceptions=True)
    assert answer.batch_size == 1 + comes_back
    assert answer.queue_s - ALONE_S / 2 == pytest.approx(TURNAROUND_S, abs=LONGEST_SLEEP_S)


@in_virtual_time
async def test_a_stream_waits_for_its_share_only() -> None:
    device = Device(2)
    async with half_busy(device, 3) as batcher:
        # One is computed, four wait, three come: four for each stream.
        others = [submit(batcher) for _ in range(4)]
        answers = await asyncio.gather(*others)
    assert [size for _, size, _ in device.batches] == [4]
    assert max(answer.queue_s for answer in answers) == pytest.approx(0.0, abs=1e-6)


@in_virtual_time
async def test_a_device_with_nothing_to_do_waits_for_nobody() -> None:
    device = Device(2)
    async with streams(device, 2, 1) as batcher:
        assert (await submit(batcher)).queue_s == pytest.approx(0.0, abs=1e-6)


@in_virtual_time
async def test_spare_work_does_not_run_beside_a_client() -> None:
    device = Device(2)
    async with streams(device, 2) as batcher:
        client = submit(batcher)
        await asyncio.sleep(0)
        await batcher.submit_spare("spare", torch.tensor(1.0))
        assert client.done()


@in_virtual_time
async def test_a_batch_that_fails_leaves_the_one_beside_it_alone() -> None:
    device = Device(2)
    async with streams(device, 2) as batcher:
        broken, whole = submit(batcher, "broken"), submit(batcher)
        assert (await whole).result == 2.0
        with pytest.raises(InferenceError):
            await broken


@in_virtual_time
async def test_a_device_that_breaks_under_one_batch_ends_all() -> None:
    device = Device(2)
    async with streams(device, 2) as batcher:
        jobs = [submit(batcher, lane) for lane in ("stuck", "a", "a", "a")]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        with pytest.raises(NotReadyError):
            await submit(batcher)
    assert [type(result) for result in results].count(NotReadyError) >= 2
    assert type(results[0]) is NotReadyError
