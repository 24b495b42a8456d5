"""The outcome of a request, and the content of an answer."""

import json
from typing import NamedTuple

OK = "ok"
SHED = "shed"
NOT_SENT = "not sent"
KINDS = {200: OK, 429: SHED, 503: "unready", 504: "deadline"}
"""HTTP status -> kind of outcome; any other is `status N`, and a broken exchange `error NAME`."""
UNREADABLE = "error UnreadableAnswer"
SAMPLE_BYTES = 300


class Answer(NamedTuple):
    """The content of a 200."""

    tier: str | None
    """None where the request named r itself."""
    batch_size: int
    queue_ms: float
    inference_ms: float
    reason: str | None
    """why the service chose this tier; None where the answer has no reason."""
    decode_ms: float | None = None
    """None where nothing was decoded."""


class Outcome(NamedTuple):
    """The outcome of one request; times are seconds since the start of the load."""

    entry: str
    """its entry in the mix: `balanced`, `r:14`, `budget:150`."""
    due_s: float
    """open loop: when it was scheduled, however late it was sent; closed loop: when it was sent."""
    done_s: float
    kind: str
    answer: Answer | None = None

    @property
    def latency_ms(self) -> float:
        """Milliseconds from the moment it was due to its end."""
        return 1000 * (self.done_s - self.due_s)


def read_answer(body: bytes) -> Answer:
    """The answer in the JSON of a 200; LookupError, TypeError or ValueError if there is none."""
    said = json.loads(body)
    timing, choice = said["timing_ms"], said.get("choice")
    return Answer(
        tier=said["tier"],
        batch_size=int(said["batch_size"]),
        queue_ms=float(timing["queue"]),
        inference_ms=float(timing["inference"]),
        reason=choice["reason"] if choice else None,
        decode_ms=float(timing["decode"]) if "decode" in timing else None,
    )


def explain(body: bytes) -> str:
    """The text of a problem document; the beginning of any other body."""
    try:
        return str(json.loads(body)["detail"])
    except (LookupError, TypeError, ValueError):
        return body[:SAMPLE_BYTES].decode(errors="replace")
