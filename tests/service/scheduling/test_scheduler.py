"""What the scheduler decides, as tables: no event loop, no clock, no device."""

import math
from typing import NamedTuple

import pytest

from service.scheduling.jobs import Job
from service.scheduling.policy import BatchPolicy, SpareTime
from service.scheduling.running import Batch
from service.scheduling.scheduler import (
    BATCHES_UNTIL_GROWTH,
    LONGEST_SLEEP_S,
    TURNAROUND_S,
    Scheduler,
)

IMAGE_S = 0.1
NEVER = math.inf


class Promise:
    """Stands for the future of a job: it is answered or not."""

    def __init__(self) -> None:
        self.is_done = False

    def done(self) -> bool:
        return self.is_done


class Waits(NamedTuple):
    """A job that waits, in short."""

    lane: str
    due: float = 100.0
    deadline: float = 100.0
    since: float = 0.0


PLAIN = BatchPolicy(4)


def scheduler_of(*waiting: Waits, policy: BatchPolicy = PLAIN) -> Scheduler[str]:
    scheduler: Scheduler[str] = Scheduler(policy, lambda _, n: n * IMAGE_S)
    for number, job in enumerate(waiting):
        scheduler.put(job.lane, job_of(number, job))
    return scheduler


def job_of(number: int, job: Waits) -> Job:
    promise: object = Promise()
    return Job(job.due, number, job.deadline, number, job.since, lambda: None, promise)  # type: ignore[arg-type]


def numbers(batch: Batch[str] | float) -> list[int]:
    assert isinstance(batch, Batch), batch
    return [job.number for job in batch.jobs]


@pytest.mark.parametrize(
    ("waiting", "lane", "images", "reason"),
    [
        ([Waits("a")], "a", [0], "idle"),
        ([Waits("a"), Waits("b", due=5), Waits("a")], "b", [1], "idle"),
        ([Waits("a", due=9), Waits("a", due=3), Waits("b", due=5)], "a", [1, 0], "idle"),
        ([Waits("a")] * 6, "a", [0, 1, 2, 3], "full"),
        # Four images take 0.4 s: only as many go along as leave the first one in time.
        ([Waits("a", due=0.25, deadline=0.25), *[Waits("a")] * 3], "a", [0, 1], "full"),
        # Nobody can answer the first one in time, so it goes last.
        ([Waits("a", due=0.05, deadline=0.05), Waits("b", due=50)], "b", [1], "idle"),
    ],
)
def test_which_batch_is_next(
    waiting: list[Waits], lane: str, images: list[int], reason: str
) -> None:
    batch = scheduler_of(*waiting).next(0.0, free_since=0.0)
    assert numbers(batch) == images
    assert isinstance(batch, Batch)
    assert (batch.lane, batch.reason, batch.started) == (lane, reason, 0.0)


@pytest.mark.parametrize(
    ("waiting", "now", "seconds"),
    [
        ([], 0.0, NEVER),
        ([Waits("a", since=7.0)], 7.0, LONGEST_SLEEP_S),  # half a second, looked at again sooner
        ([Waits("a", since=7.0)], 7.498, 0.002),
        ([Waits("a", since=7.0, due=8.0)], 7.897, 0.003),  # the age would allow more
    ],
)
def test_how_long_nothing_starts(waiting: list[Waits], now: float, seconds: float) -> None:
    scheduler = scheduler_of(*waiting, policy=BatchPolicy(4, max_wait_s=0.5 if now < 7.5 else 2.0))
    assert scheduler.next(now, free_since=0.0) == pytest.approx(seconds)


def test_a_busy_device_starts_nothing_and_an_ended_batch_frees_it() -> None:
    scheduler = scheduler_of(Waits("a"), Waits("b"))
    first = scheduler.next(0.0, free_since=0.0)
    assert isinstance(first, Batch)
    assert scheduler.next(0.01, free_since=0.0) == NEVER
    assert scheduler.running.longest_s(0.04) == pytest.approx(0.04)
    assert scheduler.outlook.backlog_s(0.04) == pytest.approx(0.06 + IMAGE_S)
    scheduler.ended(first, 0.1)
    assert numbers(scheduler.next(0.1, free_since=0.1)) == [1]
    assert scheduler.num_waiting == 0


def test_draining_ends_every_wait_and_starts_no_spare_work() -> None:
    scheduler = scheduler_of(Waits("a"), policy=BatchPolicy(4, max_wait_s=60.0))
    scheduler.put_spare("s", job_of(7, Waits("s")))
    assert scheduler.next(0.0, free_since=0.0) == LONGEST_SLEEP_S
    scheduler.drain()
    batch = scheduler.next(0.0, free_since=0.0)
    assert isinstance(batch, Batch)
    assert batch.reason == "drain"
    scheduler.ended(batch, 0.1)
    assert scheduler.next(99.0, free_since=0.1) == NEVER


def test_spare_work_waits_for_spare_time() -> None:
    scheduler: Scheduler[str] = Scheduler(BatchPolicy(4), lambda *_: IMAGE_S, SpareTime(0.5, 5.0))
    scheduler.put("a", job_of(0, Waits("a")))
    for number in (1, 2):
        scheduler.put_spare("s", job_of(number, Waits("s")))
    client = scheduler.next(0.0, free_since=0.0)
    assert numbers(client) == [0]
    assert isinstance(client, Batch)
    scheduler.ended(client, 0.1)
    first = scheduler.next(0.2, free_since=0.1)
    assert numbers(first) == [1]
    assert isinstance(first, Batch)
    assert first.is_spare
    assert scheduler.running.num_images == 0
    scheduler.ended(first, 0.3)
    # Half of the time while there is traffic: as long a rest as the work was.
    assert scheduler.next(0.3, free_since=0.3) == pytest.approx(0.1)
    assert numbers(scheduler.next(0.4, free_since=0.3)) == [2]


@pytest.mark.parametrize(
    ("coming", "answered_before_s", "waits"),
    [(0, None, False), (1, None, True), (0, TURNAROUND_S / 2, True), (0, 2 * TURNAROUND_S, False)],
)
def test_a_free_stream_waits_for_images_that_come(
    coming: int, answered_before_s: float | None, waits: bool
) -> None:
    policy = BatchPolicy(8, num_streams=2, num_threads=2)
    scheduler = scheduler_of(*[Waits("long")] * 3, policy=policy)
    long = scheduler.next(0.0, free_since=0.0)
    assert isinstance(long, Batch)
    other = scheduler.next(0.0, free_since=0.0)
    assert isinstance(other, Batch)
    now = 0.05
    if answered_before_s is not None:
        scheduler.computed(other, now - answered_before_s)
    scheduler.ended(other, now)
    scheduler.coming(coming)
    scheduler.put("a", job_of(9, Waits("a", since=now)))
    found = scheduler.next(now, free_since=now)
    assert isinstance(found, float) == waits


def test_a_batch_that_does_not_fit_is_halved_until_many_have_fitted() -> None:
    scheduler = scheduler_of(*[Waits("a")] * 4)
    batch = scheduler.next(0.0, free_since=0.0)
    assert isinstance(batch, Batch)
    assert scheduler.split(batch)
    scheduler.ended(batch, 0.0)
    halves = []
    for _ in range(2):
        half = scheduler.next(0.0, free_since=0.0)
        assert isinstance(half, Batch)
        halves.append(numbers(half))
        scheduler.computed(half, 0.0)
        scheduler.ended(half, 0.0)
    assert halves == [[0, 1], [2, 3]]
    for number in range(BATCHES_UNTIL_GROWTH - 2):
        scheduler.put("a", job_of(number, Waits("a")))
        fitting = scheduler.next(0.0, free_since=0.0)
        assert isinstance(fitting, Batch)
        scheduler.computed(fitting, 0.0)
        scheduler.ended(fitting, 0.0)
    for number in range(4):
        scheduler.put("a", job_of(number, Waits("a")))
    assert numbers(scheduler.next(0.0, free_since=0.0)) == [0, 1, 2, 3]


def test_one_image_that_does_not_fit_cannot_be_split() -> None:
    scheduler = scheduler_of(Waits("a"))
    batch = scheduler.next(0.0, free_since=0.0)
    assert isinstance(batch, Batch)
    assert not scheduler.split(batch)
    assert scheduler.num_waiting == 0


def test_what_is_expired_or_forgotten_is_never_started() -> None:
    scheduler = scheduler_of(Waits("a", deadline=1.0), Waits("a"), Waits("b"))
    assert [job.number for job in scheduler.take_expired(1.0)] == [0]
    gone = job_of(5, Waits("c"))
    scheduler.put("c", gone)
    scheduler.forget("c", gone)
    started = []
    while isinstance(batch := scheduler.next(2.0, free_since=2.0), Batch):
        started += numbers(batch)
        scheduler.ended(batch, 2.0)
    assert started == [1, 2]


def test_what_is_computed_is_observed_in_seconds_of_the_whole_device() -> None:
    seen: list[tuple[str, int, float]] = []
    policy = BatchPolicy(8, num_streams=2, num_threads=4)
    scheduler: Scheduler[str] = Scheduler(
        policy,
        lambda _, n: n * IMAGE_S,
        observe=lambda *facts: seen.append(facts),
        caution=lambda: 2.0,
    )
    for number in range(4):
        scheduler.put("a", job_of(number, Waits("a")))
    batch = scheduler.next(0.0, free_since=0.0)
    assert isinstance(batch, Batch)
    assert batch.part.num_threads == 2
    scheduler.computed(batch, 0.6)
    assert seen == [("a", 2, pytest.approx(0.3))]
    scheduler.ended(batch, 0.6)
    scheduler.clear()
    assert scheduler.outlook.wait_s("a", 1, NEVER, 0.6) == pytest.approx(2.0 * IMAGE_S)
    scheduler.coming(3)
    assert scheduler.outlook.wait_s("a", 1, NEVER, 0.6) == pytest.approx(2.0 * 4 * IMAGE_S)
