"""How much of their latency budgets requests have been spending on waiting.

The queue at one moment says little: after a refusal it is short, and one request at an accurate
tier fills it again. So the choice of a tier looks at what requests found on their arrival, too.
"""

import math
import time
from collections.abc import Callable

from service.scheduling.forecast import Mean
from service.scheduling.jobs import Owner

MOST_GROUPS = 4096
SHORTEST_S, LONGEST_S = 1e-6, 1e6
"""budgets beyond these count as these"""


class Pressure:
    """Recent shares of budgets spent on waiting, 0 ... 1. Used from the event loop only.

    Only requests of one API key whose budgets are alike count together, so that nobody is given a
    faster tier because somebody else cannot be satisfied.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without pressure."""
        self._clock = clock
        self._means: dict[tuple[Owner, int], Mean] = {}

    def share(self, owner: Owner, budget_s: float) -> float:
        """What the last requests with such a budget found, on average."""
        mean = self._means.get((owner, _size(budget_s)))
        return mean.value(self._clock()) if mean else 0.0

    def found(self, owner: Owner, budget_s: float, share: float) -> None:
        """A request found that it has to spend this share on waiting."""
        if len(self._means) > MOST_GROUPS:
            self._means.clear()
        mean = self._means.setdefault((owner, _size(budget_s)), Mean(0.0))
        mean.add(min(max(share, 0.0), 1.0), self._clock())


def _size(budget_s: float) -> int:
    """The same for budgets that are alike, within a factor of 1.4."""
    return round(math.log2(min(max(SHORTEST_S, budget_s), LONGEST_S)))
