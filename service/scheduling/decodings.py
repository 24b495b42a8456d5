"""The pictures that are being decoded: how many, and how long decoding will take."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from service.scheduling.forecast import Forecast, Line

BYTES_OF_A_PHOTO = 2**20
FIRST_GUESS = Line(slope=2e-8, intercept=2e-3)
"""seconds by bytes; only slope / intercept matters: the first pictures correct the level"""


class Decoding(NamedTuple):
    """One picture that waits for a thread or is being decoded."""

    lane: "_DecodingLane"
    num_bytes: int
    expected_s: float


class _DecodingLane(NamedTuple):
    """The lane of a model's pictures in the forecast; work is counted in bytes."""

    model: str
    macs: int = 1


class Decodings:
    """Counts pictures and forecasts seconds. Used from the event loop only."""

    def __init__(
        self, num_threads: int, *, on_change: Callable[[int], None] = lambda _: None
    ) -> None:
        """Start with no picture.

        Args:
            num_threads: that decode.
            on_change: called with the change in the number of pictures inside.
        """
        self.num_inside = 0
        """pictures that wait for a thread or are being decoded"""
        self._num_threads = num_threads
        self._on_change = on_change
        self._forecast = Forecast(max_size=BYTES_OF_A_PHOTO, guess=FIRST_GUESS)
        self._inside_s = 0.0

    def begin(self, model: str, num_bytes: int) -> Decoding:
        """Count a picture of a model in; `end` has to follow."""
        lane = _DecodingLane(model)
        decoding = Decoding(lane, num_bytes, self._forecast.seconds(lane, num_bytes))
        self._change(1, decoding.expected_s)
        return decoding

    def end(self, decoding: Decoding, seconds: float | None) -> None:
        """Count a picture out. `seconds` is the time of decoding; None: decoding failed."""
        self._change(-1, -decoding.expected_s)
        if seconds is not None:
            self._forecast.observe(decoding.lane, decoding.num_bytes, seconds)

    def expected_s(self, sizes: Sequence[int], model: str) -> float:
        """Seconds, by forecast, until pictures that come now are decoded; `sizes` in bytes."""
        return self._expected_s(sizes, model, self._inside_s if self.num_inside else 0.0)

    def alone_s(self, sizes: Sequence[int], model: str) -> float:
        """The same, if no other picture was inside."""
        return self._expected_s(sizes, model, 0.0)

    def _expected_s(self, sizes: Sequence[int], model: str, inside_s: float) -> float:
        if not sizes:
            return 0.0
        each_s = [self._forecast.seconds(_DecodingLane(model), size) for size in sizes]
        return max(max(each_s), (inside_s + sum(each_s)) / self._num_threads)

    def _change(self, num_pictures: int, expected_s: float) -> None:
        self.num_inside += num_pictures
        self._inside_s += expected_s
        self._on_change(num_pictures)
