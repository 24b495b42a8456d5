"""What became of a request, and what an answer of the service says."""

import json
from typing import NamedTuple

OK = "ok"
SHED = "shed"
NOT_SENT = "not sent"
KINDS = {200: OK, 429: SHED, 503: "unready", 504: "deadline"}
"""What a status is called; any other is `status N`, a broken exchange `error NAME`."""
UNREADABLE = "error UnreadableAnswer"
SAMPLE_BYTES = 300


class Answer(NamedTuple):
    """What a 200 said."""

    tier: str | None
    """None where the request named r itself."""
    batch_size: int
    queue_ms: float
    inference_ms: float
    reason: str | None
    """why the service chose this tier; None where it does not say."""
    decode_ms: float | None = None
    """None where nothing was decoded."""


class Outcome(NamedTuple):
    """What became of one request; seconds since the start of the load."""

    entry: str
    """as it stands in the mix: `balanced`, `r:14`, `budget:150`."""
    due_s: float
    """open loop: when it was scheduled, however late it was sent; closed loop: when it was sent."""
    done_s: float
    kind: str
    answer: Answer | None = None

    @property
    def latency_ms(self) -> float:
        """From the moment it was due."""
        return 1000 * (self.done_s - self.due_s)


def read_answer(body: bytes) -> Answer:
    """What the JSON of a 200 says; LookupError, TypeError or ValueError if it is another."""
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
    """What a problem document says; of any other body, how it begins."""
    try:
        return str(json.loads(body)["detail"])
    except (LookupError, TypeError, ValueError):
        return body[:SAMPLE_BYTES].decode(errors="replace")
