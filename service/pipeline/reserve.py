"""What is kept free for requests as large as one that was refused lately."""

import math
from collections.abc import Callable

RESERVED_S = 30.0
"""how long it is kept free"""


class Reserve:
    """Room or time that small requests must leave, so that large ones are let in as well."""

    def __init__(self, clock: Callable[[], float], most: float = math.inf) -> None:
        """Keep nothing free yet.

        Args:
            clock: seconds, monotonic.
            most: most that is kept free.
        """
        self._clock = clock
        self._most = most
        self._amount = 0.0
        self._until = -math.inf

    @property
    def amount(self) -> float:
        """What is kept free now, in the unit of `refused`."""
        return self._amount if self._clock() < self._until else 0.0

    def refused(self, wanted: float) -> None:
        """A request that takes so much was refused."""
        if wanted >= self.amount:
            self._amount, self._until = min(wanted, self._most), self._clock() + RESERVED_S
