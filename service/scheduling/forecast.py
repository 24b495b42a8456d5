"""How long work will take, learnt from work that was done.

Seconds for work of size n in one lane are taken as ``a * n + b``: n images in a batch of one model
and reduction, or n bytes of a picture to decode. The warm-up gives the first line, and later work
corrects it. Old values fade and extreme values are cut, so that a wrong forecast does not stay
wrong. Source: docs/decisions/0007.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

MEMORY_VALUES = 20.0
"""a value counts 1/e as much once this many others have followed it."""
MEMORY_S = 30.0
"""a value counts 1/e as much after this time."""
MAX_SURPRISE = 4.0
"""a value counts as at most this many times its forecast, and at least the inverse."""
SHORTEST_S = 1e-6
"""a forecast shorter than this counts as this long when it is compared"""


class Lane(Protocol):
    """What may be forecast, for example a model with one reduction."""

    @property
    def model(self) -> str:
        """Lanes of one model differ only in their work."""

    @property
    def macs(self) -> int:
        """Multiply-adds for size 1."""


class Line(NamedTuple):
    """Seconds for size n: `slope * n + intercept`, neither of them negative."""

    slope: float
    intercept: float

    def seconds(self, size: float) -> float:
        """The line's value at one size."""
        return self.slope * size + self.intercept

    def times(self, factor: float) -> "Line":
        """The line with slope and intercept times a factor."""
        return Line(factor * self.slope, factor * self.intercept)


class Mean:
    """A mean whose memory fades with every new value and with time; it starts at `rest`."""

    def __init__(self, rest: float) -> None:
        """Start at `rest`, which counts like one value that never fades."""
        self._rest = rest
        self._sum = self._weight = 0.0
        self._at = -math.inf

    def add(self, value: float, now: float) -> None:
        """Take in one more value."""
        keep = math.exp(-1 / MEMORY_VALUES) * _faded(now - self._at)
        self._sum, self._weight = keep * self._sum + value, keep * self._weight + 1
        self._at = now

    def value(self, now: float) -> float:
        """The mean at this time."""
        keep = _faded(now - self._at)
        return (keep * self._sum + self._rest) / (keep * self._weight + 1)


@dataclass
class _Learnt:
    """One lane: its first line, and faded sums over the sizes n and seconds t since."""

    first: Line
    weight: float = 0.0
    n: float = 0.0
    nn: float = 0.0
    t: float = 0.0
    nt: float = 0.0
    at: float = field(default=-math.inf)

    def fade(self, now: float, factor: float = 1.0) -> None:
        keep = factor * _faded(now - self.at)
        for name in ("weight", "n", "nn", "t", "nt"):
            setattr(self, name, keep * getattr(self, name))
        self.at = now

    def add(self, size: int, seconds: float, now: float) -> None:
        self.fade(now, math.exp(-1 / MEMORY_VALUES))
        self.weight += 1
        self.n += size
        self.nn += size**2
        self.t += seconds
        self.nt += size * seconds

    def fit(self, level: float, max_size: int) -> Line:
        """Least squares over what was seen and two points of the first line at today's level.

        The two points keep the fit defined while all observed work has one size. Once the observed
        work has faded, only they count.
        """
        n, nn, t, nt, weight = self.n, self.nn, self.t, self.nt, self.weight
        for size in (1, max(2, max_size)):
            seconds = level * self.first.seconds(size)
            weight, n, nn = weight + 1, n + size, nn + size**2
            t, nt = t + seconds, nt + size * seconds
        slope = (weight * nt - n * t) / (weight * nn - n * n)
        if slope < 0:
            return Line(0.0, t / weight)
        if (intercept := (t - slope * n) / weight) < 0:
            return Line(nt / nn, 0.0)
        return Line(slope, intercept)


class Forecast:
    """Learns from work that was done; used from the event loop only."""

    def __init__(
        self,
        *,
        max_size: int,
        guess: Line | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without any lane.

        Args:
            max_size: the usual largest size.
            guess: first line of lanes of which nothing is known.
            clock: seconds, monotonic.
        """
        self._guess = guess
        self._max_size = max_size
        self._clock = clock
        self._lanes: dict[Lane, _Learnt] = {}
        # By model: how many times slower its lanes are now than their first lines. One cause slows
        # all lanes of a model.
        self._levels: defaultdict[str, Mean] = defaultdict(lambda: Mean(1.0))
        self._error = Mean(0.0)

    def seed(self, lane: Lane, seconds: dict[int, float]) -> None:
        """Give a lane its first line: seconds by size, one or more of them."""
        low, high = min(seconds), max(seconds)
        slope = (seconds[high] - seconds[low]) / (high - low) if high > low else -1.0
        intercept = seconds[low] - slope * low
        if slope < 0 or intercept < 0:
            slope, intercept = seconds[high] / high, 0.0
        self._lanes[lane] = _Learnt(Line(slope, intercept))

    def observe(self, lane: Lane, size: int, seconds: float) -> None:
        """Learn from one piece of work."""
        learnt = self._learnt(lane)
        if learnt is None:
            self.seed(lane, {size: seconds})
            return
        self._lanes[lane] = learnt
        now = self._clock()
        expected = max(self.seconds(lane, size), SHORTEST_S)
        self._error.add(min(abs(seconds / expected - 1), 1.0), now)
        seconds = min(max(seconds, expected / MAX_SURPRISE), expected * MAX_SURPRISE)
        learnt.add(size, seconds, now)
        slower = seconds / max(learnt.first.seconds(size), SHORTEST_S)
        self._levels[lane.model].add(slower, now)

    def seconds(self, lane: Lane, size: int) -> float:
        """Expected seconds; 0 for a lane without any data."""
        learnt = self._learnt(lane)
        if learnt is None:
            return 0.0
        now = self._clock()
        learnt.fade(now)
        level = self._levels[lane.model].value(now)
        return learnt.fit(level, self._max_size).seconds(size)

    @property
    def relative_error(self) -> float:
        """Recent mean of |seconds / forecast - 1|, 0 ... 1."""
        return self._error.value(self._clock())

    def caution(self) -> float:
        """Factor, 1 ... 3, from a forecast to a time that most work keeps: 1 + twice the error."""
        return 1 + 2 * self.relative_error

    def _learnt(self, lane: Lane) -> _Learnt | None:
        """What is known of a lane. A new one gets a known lane's line, scaled by multiply-adds."""
        if lane in self._lanes:
            return self._lanes[lane]
        known = [other for other in self._lanes if other.model == lane.model]
        if not known:
            return _Learnt(self._guess) if self._guess else None
        nearest = min(known, key=lambda other: abs(other.macs - lane.macs))
        return _Learnt(self._lanes[nearest].first.times(lane.macs / nearest.macs))


def _faded(age_s: float) -> float:
    """How much something of this age still counts."""
    return math.exp(-age_s / MEMORY_S)
