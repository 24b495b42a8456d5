"""One request for work on its way: what its answer, its log line and its metrics will say of it."""

from dataclasses import dataclass, field
from typing import Literal, get_args

Phase = Literal["reading", "queued", "batch"]
"""Receiving the request; decoding its images or waiting for a batch; an image is in a batch."""
PHASES: tuple[Phase, ...] = get_args(Phase)

UNKNOWN = "unknown"
"""model or tier of a request that was refused before they were known"""


@dataclass
class Call:
    """What is known of a request so far."""

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
    timings_s: dict[str, float] = field(default_factory=dict)
    """what took how long; of several images the longest"""

    def queued(self) -> None:
        """Its body is read."""
        self.phase = "queued"

    def started(self) -> None:
        """One of its images is in a batch."""
        self.phase = "batch"

    def took(self, **seconds: float) -> None:
        """Note how long something took."""
        for name, value in seconds.items():
            self.timings_s[name] = max(value, self.timings_s.get(name, 0.0))
