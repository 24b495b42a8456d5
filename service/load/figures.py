"""Outcomes -> figures.

Shares and percentiles are over the requests that were due in the measured time, whenever they
ended. Rates count what happened inside the measured time, whenever the requests were due: answers
after its end would make a service look faster than it is.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from service.load.outcomes import OK, SHED, Outcome

PERMILLES = {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999}


class Window(NamedTuple):
    """The measured time; seconds since the start of the load."""

    start_s: float
    end_s: float

    def holds(self, moment_s: float) -> bool:
        """Whether a moment lies inside."""
        return self.start_s <= moment_s <= self.end_s


def percentile(ordered: Sequence[float], permille: int) -> float:
    """Nearest rank: the smallest value that at least this share of all values does not exceed."""
    return ordered[max(0, -(-permille * len(ordered) // 1000) - 1)]


def spread(values: Iterable[float]) -> dict[str, float | None]:
    """The percentiles and the maximum.

    A percentile is None unless a value lies above its rank (p99.9 needs 1000 values). Otherwise it
    would equal the maximum.
    """
    ordered = sorted(values)
    known: dict[str, float | None] = {
        name: round(percentile(ordered, permille), 3)
        if len(ordered) * (1000 - permille) >= 1000
        else None
        for name, permille in PERMILLES.items()
    }
    return {**known, "max": round(ordered[-1], 3) if ordered else None}


def figures(outcomes: Sequence[Outcome], window: Window, deadline_ms: float) -> dict[str, Any]:
    """All figures of these requests. Those due outside the window count in the rates only.

    `goodput` is the share of the offered requests that were answered 200 within the deadline.
    """
    seconds = max(window.end_s - window.start_s, 1e-9)
    offered = [outcome for outcome in outcomes if window.holds(outcome.due_s)]
    answered = [outcome for outcome in offered if outcome.kind == OK]
    shed = [outcome for outcome in offered if outcome.kind == SHED]
    arrived = [item for item in outcomes if item.kind == OK and window.holds(item.done_s)]
    num_good = sum(outcome.latency_ms <= deadline_ms for outcome in answered)
    num_good_arrived = sum(outcome.latency_ms <= deadline_ms for outcome in arrived)
    answers = [outcome.answer for outcome in answered if outcome.answer]
    return {
        "offered": len(offered),
        "offered_per_s": round(len(offered) / seconds, 3),
        "outcomes": tally(outcome.kind for outcome in offered),
        "ok_per_s": round(len(arrived) / seconds, 3),
        "good": num_good,
        "goodput": share(num_good, len(offered)),
        "goodput_per_s": round(num_good_arrived / seconds, 3),
        "shed_ratio": share(len(shed), len(offered)),
        "latency_ms": spread(outcome.latency_ms for outcome in answered),
        "shed_latency_ms": spread(outcome.latency_ms for outcome in shed),
        "mean_batch_size": mean([answer.batch_size for answer in answers]),
        "mean_queue_ms": mean([answer.queue_ms for answer in answers]),
        "mean_inference_ms": mean([answer.inference_ms for answer in answers]),
        "answered_by": tally(answer.tier or "custom" for answer in answers),
        "reasons": tally(answer.reason for answer in answers if answer.reason),
    }


def by_entry(
    outcomes: Sequence[Outcome], names: Iterable[str], window: Window, deadline_ms: float
) -> dict[str, dict[str, Any]]:
    """The figures of each entry of the mix."""
    return {
        name: figures([item for item in outcomes if item.entry == name], window, deadline_ms)
        for name in names
    }


def tally(words: Iterable[str]) -> dict[str, int]:
    """Number of occurrences of each word, the most frequent first."""
    return dict(Counter(words).most_common())


def share(part: int, whole: int) -> float | None:
    """The ratio; None if `whole` is 0."""
    return round(part / whole, 5) if whole else None


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean; None without values. A mean batch size is over images, not batches."""
    return round(sum(values) / len(values), 3) if values else None
