"""Who decodes next: pictures of different owners go in turn, those of one owner as they came."""

import asyncio
from collections import OrderedDict, deque

from service.scheduling.jobs import Owner


class Turns:
    """Some places, and owners that wait for one. Used from the event loop only."""

    def __init__(self, num_places: int) -> None:
        """Begin with all places free."""
        self._num_free = num_places
        self._waiting: OrderedDict[Owner, deque[asyncio.Future[None]]] = OrderedDict()

    async def take(self, owner: Owner) -> None:
        """Wait for a place; `leave` has to follow."""
        if self._num_free > 0:
            self._num_free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
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
            turn = turns.popleft()
            if turns:
                self._waiting[owner] = turns  # behind all others that wait
            if not turn.done():
                turn.set_result(None)
                return
        self._num_free += 1
