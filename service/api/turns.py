"""When requests begin: few of them in each turn of the event loop, and probes before all others.

Otherwise hundreds of requests that come together would all begin in one turn, and a probe that
comes behind them would be answered after the last one.
"""

import asyncio
from collections import deque
from collections.abc import Callable

PER_TURN = 8
"""requests that begin in one turn; each takes about 0.2 ms until it waits for something"""
PROBES = frozenset({"/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"})
"""paths that are always answered at once"""


class Turns:
    """The requests of all connections that have not begun."""

    def __init__(self) -> None:
        """No request waits."""
        self._waiting: deque[Callable[[], None]] = deque()
        self._num_begun = 0
        self._is_counting = False

    def begin(self, path: str, begin: Callable[[], None]) -> None:
        """Call `begin` now, or in one of the next turns."""
        if path in PROBES:
            begin()
            return
        if self._num_begun < PER_TURN and not self._waiting:
            self._num_begun += 1
            begin()
        else:
            self._waiting.append(begin)
        self._count()

    def _count(self) -> None:
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """A turn begins."""
        self._is_counting = False
        self._num_begun = min(PER_TURN, len(self._waiting))
        for _ in range(self._num_begun):
            self._waiting.popleft()()
        if self._num_begun:
            self._count()
