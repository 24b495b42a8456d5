"""Brownout: under pressure, do less work for each image before any request is refused.

It affects only requests that name the least accurate tier they accept. The level is the number of
tiers by which such a request is lowered. It moves one step at a time and never twice within the
dwell time. It rises and falls at different pressures, so that it does not swing with every batch.
Source: docs/decisions/0007.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from service.tiers import TIERS

MAX_LEVEL = len(TIERS) - 1


class Thresholds(NamedTuple):
    """When the level moves; pressure is 0 ... 1, where 1 means that requests are refused."""

    rise: float = 0.5
    fall: float = 0.2
    dwell_s: float = 0.5
    """shortest time between two steps"""


CAREFUL = Thresholds()


class Brownout:
    """The level, from the pressure over time. Used from the event loop only."""

    def __init__(
        self,
        pressure: Callable[[], float],
        thresholds: Thresholds = CAREFUL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start at level 0; `pressure` returns 0 ... 1, where 1 means that requests are refused."""
        self._pressure = pressure
        self._thresholds = thresholds
        self._clock = clock
        self._level = 0
        self._moved = self._asked = clock()

    def level(self) -> int:
        """The level now, 0 ... MAX_LEVEL.

        The level moves by one step at most. After a time without requests it falls by one step for
        each dwell time that has passed.
        """
        now, pressure = self._clock(), self._pressure()
        silent_s, self._asked = now - self._asked, now
        if now - self._moved < self._thresholds.dwell_s:
            return self._level
        if pressure >= self._thresholds.rise and self._level < MAX_LEVEL:
            self._level, self._moved = self._level + 1, now
        elif pressure <= self._thresholds.fall and self._level > 0:
            steps = max(1, int(silent_s / self._thresholds.dwell_s))
            self._level, self._moved = max(0, self._level - steps), now
        return self._level
