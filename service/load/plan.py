"""The plan of a load: what to send, when, and for how long. Nothing is sent here."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from yarl import URL

from service.load import bounds
from service.load.mix import Entry
from service.load.request import Image, Request


@dataclass(frozen=True, kw_only=True)
class Loop:
    """When requests are sent, and how many at most.

    A closed loop has `concurrency` clients. Each sends its next request when the one before is
    answered. An open loop has Poisson arrivals at `rate`, which do not wait for any answer.

    Raises:
        ValueError: the loop is both or neither, or a number is out of bounds.
    """

    concurrency: int | None = None
    rate: float | None = None
    """open loop: requests per second"""
    max_outstanding: int = 1024
    """open loop: arrivals beyond this limit are counted but not sent"""
    warmup_s: float = 0.0
    """first seconds, in which requests are sent but not counted"""
    duration_s: float = bounds.DURATION_S.high
    """measured time, after the warm-up"""
    max_requests: int = 100_000
    """most requests after the warm-up"""
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.concurrency is None) == (self.rate is None):
            raise ValueError("a loop is either closed, with a concurrency, or open, with a rate")
        if self.concurrency is not None:
            bounds.CONCURRENCY.check(self.concurrency)
        if self.rate is not None:
            bounds.RATE.check(self.rate)
        bounds.OUTSTANDING.check(self.max_outstanding)
        bounds.WARMUP_S.check(self.warmup_s)
        bounds.DURATION_S.check(self.duration_s)
        bounds.REQUESTS.check(self.max_requests)

    @property
    def end_s(self) -> float:
        """Seconds since the start after which no request is due."""
        return self.warmup_s + self.duration_s

    @property
    def most_outstanding(self) -> int:
        """Requests that may be on their way at the same time."""
        return self.concurrency or self.max_outstanding


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A load on a service of this project."""

    url: URL
    """root URL of the service"""
    loop: Loop
    mix: list[Entry]
    images: list[Image]
    deadline_ms: float
    """deadline that is sent with each request and counts for goodput"""

    def requests(self) -> Iterator[Request]:
        """Endless requests: entries are drawn by their weights, images with equal chances."""
        random = Random(self.loop.seed)
        weights = list(itertools.accumulate(entry.weight for entry in self.mix))
        while True:
            entry = random.choices(self.mix, cum_weights=weights)[0]
            image = random.choice(self.images)
            yield Request(
                entry.name,
                {**entry.query, "deadline_ms": str(self.deadline_ms)},
                image.content,
                {"Content-Type": image.media_type},
            )

    def settings(self) -> dict[str, Any]:
        """The whole plan, for JSON."""
        return {
            "loop": "open" if self.loop.rate else "closed",
            **vars(self.loop),
            "max_outstanding": self.loop.most_outstanding,
            "url": str(self.url),
            "mix": [entry._asdict() for entry in self.mix],
            "images": [image.name for image in self.images],
            "deadline_ms": self.deadline_ms,
        }
