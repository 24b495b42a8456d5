"""Events as plain values, which the other rooms report to the record."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, get_args

Phase = Literal["reading", "queued", "batch"]
"""The request is being received; its images are decoded or wait; an image is in a batch."""
PHASES: tuple[Phase, ...] = get_args(Phase)

Result = Literal["answered", "refused", "failed", "left"]
"""What became of a request: it was answered; it was refused for what it asked, or as there was too
much; the service could not answer it; its client left."""
RESULTS: tuple[Result, ...] = get_args(Result)

CLIENT_GONE = 499
"""status in the metrics for a request whose client left; no client ever gets it"""

UNKNOWN = "unknown"
"""model or tier of a request that was refused before they were known"""
CUSTOM_TIER = "custom"
"""the tier of requests that name r themselves"""


@dataclass
class Call:
    """One request: the facts for its answer, its log line and its metrics."""

    request_id: str
    arrival: float
    """seconds on `time.monotonic`"""
    phase: Phase = "reading"
    """the furthest phase that one of its images has reached"""
    model: str = UNKNOWN
    tier: str = UNKNOWN
    api_key: str | None = None
    """name of the key, never the key"""
    num_images: int = 0
    num_failed: int = 0
    """images without an answer"""
    deadline_ms: float | None = None
    """the client's deadline, or the service's own"""
    is_too_tight: bool = False
    """whether even an idle service would have been too slow for the client's own deadline"""
    code: str | None = None
    """code of the error that the client got"""
    reason: str | None = None
    """why its tier was chosen; None: it was refused before a tier was chosen"""
    timings_s: dict[str, float] = field(default_factory=dict)
    """seconds by name of the step; of several images the longest"""

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


class BatchLane(Protocol):
    """What the images of a batch have in common."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def method(self) -> str:
        """Name of the token reduction."""


class BatchDone(Protocol):
    """A batch was computed."""

    @property
    def lane(self) -> BatchLane:
        """The lane of all its images."""

    @property
    def reason(self) -> str:
        """Why it started, one of `DISPATCH_REASONS`."""

    @property
    def num_images(self) -> int:
        """Number of its images."""

    @property
    def seconds(self) -> float:
        """Seconds that the batch took."""

    @property
    def device_s(self) -> float:
        """Seconds that the whole device would have needed."""

    @property
    def is_spare(self) -> bool:
        """Whether no client waited for it."""


class ModelLoaded(NamedTuple):
    """A model is loaded and warm."""

    name: str
    architecture: str
    num_classes: int
    num_tokens: int


@dataclass(frozen=True)
class WayTried:
    """One way to compute that was tried when a model was loaded, and what it gave."""

    backend: str
    precision: str
    verdict: str = ""
    """`chosen`, or why not: `slower`, `agreement`, `top1`, `failed`"""
    images_per_s: Mapping[str, float] = field(default_factory=dict)
    """of the whole device, by tier; empty where it was not timed"""
    speed_up: float | None = None
    """over float32, geometric mean of the tiers; None where it was not timed"""
    num_pictures: int = 0
    """pictures on which it was compared with float32; 0: it was not compared"""
    num_agreeing: int = 0
    """of them, those that `exact` answers as float32 does"""
    kept: Mapping[str, float] = field(default_factory=dict)
    """share of the pictures that a tier answers as float32 answers them at `exact`, by tier"""
    top1: Mapping[str, float] = field(default_factory=dict)
    """share of the pictures whose best answer is the label, by tier; empty without labels"""
    seconds: float = 0.0
    """that the trial took"""


@dataclass(frozen=True)
class WayChosen:
    """How a model computes, and why."""

    model: str
    backend: str
    precision: str
    reason: str
    """`setting`: a setting names it; `only`: this processor has no other; `fastest`: of those that
    answer alike; `agreement`: faster ones answer otherwise; `device`: a GPU computes in 16 bits,
    and answers alike; `failed`: float32 itself could not be tried"""
    is_remembered: bool = False
    """whether an earlier start has tried"""
    tried: Sequence[WayTried] = ()


class TierMeasured(NamedTuple):
    """The accuracy of one tier on the labelled pictures of a probe."""

    method: str
    tier: str
    top1: float
    """0 ... 1, like the other shares"""
    top5: float
    agreement: float = math.nan
    """share with the unreduced model's best answer; NaN where it was not measured"""


class ProbeDone(NamedTuple):
    """All tiers of a model have classified its labelled pictures."""

    model: str
    num_pictures: int
    seconds: float
    finished: float
    """Unix time"""
    tiers: Sequence[TierMeasured]


class Gauges(NamedTuple):
    """Functions that return present values."""

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
    """Versions and configuration of the running service."""

    version: str
    torch: str
    timm: str
    device: str
    backend: str
    precision: str
