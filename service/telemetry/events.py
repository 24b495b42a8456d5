"""What happened, in plain values: what the other rooms tell the record."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, get_args

Phase = Literal["reading", "queued", "batch"]
"""Receiving the request; decoding its images or waiting for a batch; an image is in a batch."""
PHASES: tuple[Phase, ...] = get_args(Phase)

UNKNOWN = "unknown"
"""model or tier of a request that was refused before they were known"""
CUSTOM_TIER = "custom"
"""the tier of requests that name r themselves"""


@dataclass
class Call:
    """One request on its way: what its answer, its log line and its metrics will say of it."""

    request_id: str
    arrival: float
    """on `time.monotonic`"""
    phase: Phase = "reading"
    """the furthest that any of its images got"""
    model: str = UNKNOWN
    tier: str = UNKNOWN
    api_key: str | None = None
    """name of the key, never the key"""
    num_images: int = 0
    num_failed: int = 0
    """of the images"""
    deadline_ms: float | None = None
    """that the client set, or the service's own"""
    code: str | None = None
    """of the error that the client was told"""
    reason: str | None = None
    """why its tier was chosen; None: it was refused before"""
    timings_s: dict[str, float] = field(default_factory=dict)
    """what took how long; of several images the longest"""

    def started(self) -> None:
        """One of its images is in a batch."""
        self.phase = "batch"

    def took(self, **seconds: float) -> None:
        """Note how long something took."""
        for name, value in seconds.items():
            self.timings_s[name] = max(value, self.timings_s.get(name, 0.0))


class ImageDone(NamedTuple):
    """An image of a request was answered."""

    macs: int
    """multiply-adds"""
    num_kept: int
    """tokens that came out of the last block"""
    num_removed: int
    decode_s: float
    queue_s: float
    inference_s: float


class Lane(Protocol):
    """What the images of a batch have in common."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def method(self) -> str:
        """Of the token reduction."""


class BatchDone(Protocol):
    """A batch was computed."""

    @property
    def lane(self) -> Lane:
        """Of all its images."""

    @property
    def reason(self) -> str:
        """Why it started, one of `DISPATCH_REASONS`."""

    @property
    def num_images(self) -> int:
        """In the batch."""

    @property
    def seconds(self) -> float:
        """Seconds that the batch took."""

    @property
    def device_s(self) -> float:
        """Seconds that the whole device would have needed."""


class ModelLoaded(NamedTuple):
    """A model is loaded and warm."""

    name: str
    architecture: str
    num_classes: int
    num_tokens: int


class TierMeasured(NamedTuple):
    """What one tier reached on the labelled pictures of a probe."""

    method: str
    tier: str
    top1: float
    """0 ... 1, as the others"""
    top5: float
    agreement: float = math.nan
    """with the unreduced model's best answer; not a number where it was not measured"""


class ProbeDone(NamedTuple):
    """All tiers of a model have classified all of its labelled pictures."""

    model: str
    num_pictures: int
    seconds: float
    tiers: Sequence[TierMeasured]


class Gauges(NamedTuple):
    """Functions that say how things are now; fields are named as in `Metrics`."""

    queue_images: Callable[[], float]
    """images that wait for a batch"""
    running_batch: Callable[[], float]
    """seconds for which the oldest batch has been running"""
    saturation: Callable[[], float]
    """0 ... 1"""
    brownout_level: Callable[[], float]
    ready: Callable[[], float]
    """1 or 0"""
    device_memory: Mapping[str, Callable[[], float]]
    """bytes, by kind"""


class Build(NamedTuple):
    """What is running."""

    version: str
    torch: str
    timm: str
    device: str
    backend: str
    precision: str
