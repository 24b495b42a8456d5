"""Limits of the load. This module imports no library, so that a command starts quickly."""

import math
from typing import NamedTuple


class Bounds(NamedTuple):
    """The lowest and the highest number that is allowed."""

    low: float
    high: float

    def check(self, value: float, text: str | None = None) -> None:
        """Refuse a value that is out of bounds.

        Raises:
            ValueError: the value is out of bounds, or NaN. The message says what is allowed.
        """
        if not self.low <= value <= self.high:
            shown = repr(str(value) if text is None else text)
            raise ValueError(f"{shown} is not within {self.low:g} ... {self.high:g}")

    def number(self, text: str) -> float:
        """The number that a text holds, or ValueError."""
        return self._read(float, text)

    def whole(self, text: str) -> int:
        """The whole number that a text holds, or ValueError."""
        return int(self._read(int, text))

    def _read(self, kind: type[float], text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        self.check(value, str(text))
        return value


CONCURRENCY = Bounds(1, 1024)
RATE = Bounds(0.01, 10_000)
"""requests per second"""
OUTSTANDING = Bounds(1, 16_384)
DURATION_S = Bounds(0.1, 600)
WARMUP_S = Bounds(0, 60)
REQUESTS = Bounds(1, 1_000_000)
DEADLINE_MS = Bounds(1e-3, 600_000)
