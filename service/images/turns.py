"""Who decodes next: owners go in turn; of one owner, those that can be in time, as they came."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from service.scheduling.jobs import Owner


class _Turn(NamedTuple):
    """One that waits."""

    comes: asyncio.Future[None]
    budget_ends: float
    """when it goes behind those that can still be in time"""


class Turns:
    """Some places, and owners that wait for one. Used from the event loop only."""

    def __init__(self, num_places: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with all places free."""
        self._num_free = num_places
        self._clock = clock
        self._waiting: OrderedDict[Owner, list[_Turn]] = OrderedDict()

    async def take(self, owner: Owner, budget_ends: float = math.inf) -> None:
        """Wait for a place; `leave` has to follow.

        Args:
            owner: who waits.
            budget_ends: when it loses its turn to those of its owner that can still be in time,
                in seconds on the clock.
        """
        if self._num_free > 0:
            self._num_free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, []).append(_Turn(turn, budget_ends))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # it was this owner's turn, but the client has left
            raise

    def leave(self) -> None:
        """Give a place to the owner whose turn it is, or free it."""
        while self._waiting:
            owner, turns = self._waiting.popitem(last=False)
            now = self._clock()
            in_time = (at for at, turn in enumerate(turns) if turn.budget_ends > now)
            comes = turns.pop(next(in_time, 0)).comes
            if turns:
                self._waiting[owner] = turns  # behind all others that wait
            if not comes.done():
                comes.set_result(None)
                return
        self._num_free += 1
