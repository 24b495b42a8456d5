"""What a request is promised: when its answer is due, and whether it is refused instead of late."""

import time
from collections.abc import Callable

from service.pipeline.pressure import Pressure
from service.pipeline.request import Expected, Wanted
from service.pipeline.reserve import Reserve
from service.scheduling.jobs import Owner, Terms

PROMISED_SHARE = 0.7
"""share of a deadline. While there is work inside, a request whose first image is expected later is
refused: in a queue without any reserve, each disturbance makes answers late."""
LAST_SHARE = 0.9
"""the same for the last image of a request"""
REFUSED_SHARE = 1.0
"""the same for both where an answer is refused rather than late: the forecast is cautious, so most
come sooner, and who does not is refused then"""
LEAST_SHARE = 0.3
"""however large the other requests are, one whose first image is expected within this share of its
deadline is let in"""


def terms(wanted: Wanted, arrival: float, deadline: float, owner: Owner) -> Terms:
    """When the images of a request are due.

    Args:
        wanted: the choices of the client.
        arrival: of the request, like all times in seconds on one clock.
        deadline: when its client stops waiting.
        owner: name of its API key.
    """
    if wanted.max_latency_ms is None:
        return Terms(arrival if wanted.priority == 1 else deadline, deadline, owner)
    ends = arrival + wanted.max_latency_ms / 1000
    if wanted.late == "refuse" and ends < deadline:
        due = arrival if wanted.priority == 1 else ends
        return Terms(due, ends, owner, refuses_late=True)
    if wanted.priority == 1:
        return Terms(arrival, deadline, owner)
    return Terms(min(ends, deadline), deadline, owner, budget_ends=ends)


class Promises:
    """Decides who is let in, by forecast. Used from the event loop only.

    What counts is when the first image of a request would be answered, so that large requests have
    the same chance as small ones. Where the rest of a large request would be too late, time is kept
    free for its like from then on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with no request."""
        self._pressure = Pressure(clock)
        self._reserve = Reserve(clock)
        """of seconds"""

    def usual_share(self, wanted: Wanted, owner: Owner) -> float:
        """Share of their latency budgets that such requests have been spending on waiting."""
        if wanted.max_latency_ms is None:
            return 0.0
        return self._pressure.share(owner, wanted.max_latency_ms / 1000)

    def chosen(self, wanted: Wanted, owner: Owner, expected: Expected) -> None:
        """Take in what a request is expected to spend on waiting, whether it is let in or not."""
        if wanted.max_latency_ms is not None:
            budget_s = wanted.max_latency_ms / 1000
            self._pressure.found(owner, budget_s, expected.share_now(budget_s))

    @staticmethod
    def may_be_late(expected: Expected, terms: Terms, arrival: float) -> bool:
        """Whether `over_s` may be above 0, whatever else is inside."""
        return expected.seconds > LEAST_SHARE * (terms.deadline - arrival)

    def over_s(self, expected: Expected, terms: Terms, arrival: float) -> float:
        """By how many seconds a request is too late to be let in while there is work inside.

        Args:
            expected: its forecast.
            terms: when its images are due.
            arrival: when it arrived.

        Returns:
            Seconds, by forecast, until it could be let in; 0.0 or less if it may come in now.
        """
        within_s = terms.deadline - arrival
        share, last_share = PROMISED_SHARE, LAST_SHARE
        if terms.refuses_late:
            share = last_share = REFUSED_SHARE
        first_s = expected.seconds - expected.rest_s
        kept_free_s = max(self._reserve.amount, expected.rest_s)
        most_s = min(share * within_s, last_share * within_s - kept_free_s)
        most_s = max(most_s, LEAST_SHARE * within_s)
        over_s = max(first_s - most_s, expected.seconds - last_share * within_s)
        if over_s > 0:
            self._reserve.refused(expected.rest_s)
        return over_s
