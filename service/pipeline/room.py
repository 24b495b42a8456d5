"""The room inside: how much of one thing may be there, and how much of it one API key may take."""

import time
from collections import Counter
from collections.abc import Callable

from service.pipeline.reserve import Reserve
from service.scheduling.jobs import Owner


class Room:
    """Counts images, or bytes. Used from the event loop only.

    Two rules make it fair. *Between sizes*: after a large request found no room, everybody needs as
    much room as it, so small requests do not take every place that becomes free. *Between keys*:
    where there are several, a key may hold at most as much as is free, so a lone key leaves half,
    two keys leave a third, and a key that comes anew finds as much as the others have.
    """

    def __init__(
        self,
        limit: int,
        *,
        is_shared: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing inside.

        Args:
            limit: most that may be inside.
            is_shared: whether there are several API keys.
            clock: seconds, monotonic.
        """
        self.limit = limit
        self.inside = 0
        self._is_shared = is_shared
        self._held: Counter[Owner] = Counter()
        self._reserve = Reserve(clock, limit // 2)

    def held(self, owner: Owner) -> int:
        """How much of what is inside belongs to one owner."""
        return self._held[owner]

    def is_full(self, wanted: int, owner: Owner, held: int = 0) -> bool:
        """Whether there is no room for a request.

        One request alone may be larger than the limit, because it would otherwise never be let in.

        Args:
            wanted: how much the request takes.
            owner: whose it is.
            held: how much of it is inside already.
        """
        others = self.inside - held
        if wanted <= 0 or others <= 0:
            return False
        if others + max(wanted, self._reserve.amount) > self.limit:
            return True
        ours = self._held[owner] - held
        return self._is_shared and ours > 0 and ours + wanted > self.limit - others - wanted

    def refused(self, wanted: int) -> None:
        """Note that a request found no room: from now on some is kept free for its like."""
        self._reserve.refused(wanted)

    def add(self, change: int, owner: Owner) -> None:
        """Something of an owner has come in, or has left where `change` is negative."""
        self.inside += change
        self._held[owner] += change
        if not self._held[owner]:
            del self._held[owner]
