"""A job: one image that waits for its batch, and the answer that it will get."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Owner = str | None
"""who gets a share of the device: the name of an API key; None for work without a key"""


class Answer(NamedTuple):
    """The result of a job, and how long it took."""

    result: Any
    """what `forward` gave for the image."""
    queue_s: float
    """seconds from its submission to the start of its batch."""
    inference_s: float
    """seconds that the whole batch took to compute."""
    batch_size: int


class Terms(NamedTuple):
    """What was agreed on for an image. Times are seconds on the batcher's clock."""

    due: float
    """when it should be answered: of one owner's images, the earliest goes first."""
    deadline: float
    """when its client stops waiting."""
    owner: Owner = None
    budget_ends: float = math.inf
    """when it loses its turn to those that can still be in time; it is then due at its deadline"""
    refuses_late: bool = False
    """whether its client wants no answer at all rather than a late one"""


PATIENT = Terms(math.inf, math.inf)
"""the terms of work that may take any time"""


@dataclass(order=True, slots=True)
class Job:
    """One image that waits for its batch."""

    due: float
    """when it should be answered, on the batcher's clock: the earliest goes first."""
    number: int
    """order of arrival; decides between jobs that are due at the same time."""
    deadline: float = field(compare=False)
    """when its client stops waiting."""
    image: Any = field(compare=False)
    submitted: float = field(compare=False)
    on_start: Callable[[], None] = field(compare=False)
    answer: asyncio.Future[Answer] = field(compare=False)
    owner: Owner = field(default=None, compare=False)
    budget_ends: float = field(default=math.inf, compare=False)
    """when it loses its turn to those that can still be in time"""
    refuses_late: bool = field(default=False, compare=False)
    """whether its client wants no answer at all rather than a late one"""
    allowance_s: float = field(default=math.inf, compare=False)
    """what was left of its latency budget when it began to wait"""
