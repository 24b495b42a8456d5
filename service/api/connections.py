"""The open connections and their limit: a process may have so many open files, and no more."""

import logging
import math
import sys
from typing import Protocol

if sys.platform != "win32":
    import resource

logger = logging.getLogger(__name__)

SPARE_FILES = 128
"""files that are left for all but connections: models, pictures, logs, the process's own pipes"""
FEWEST = 16
"""as many connections are let in even where the system allows hardly any files"""
WARN_EVERY_S = 60.0


class Connection(Protocol):
    """A connection that can be closed at any time."""

    def give_up(self) -> None:
        """Close it, because another one needs its place."""


class Connections:
    """Those to which the service owes no answer, the one that has been so for longest first."""

    def __init__(self, most: float = math.inf) -> None:
        """`most`: of all open connections."""
        self._most = most
        self._owed: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        self._warned_at = -math.inf

    def enter(self, connection: Connection, now: float) -> bool:
        """Add a connection. If there are too many, the one that was idle for longest is closed.

        Args:
            connection: the new one.
            now: seconds on any clock.

        Returns:
            Whether there is room: False if the service owes an answer to all others.
        """
        if len(self._idle) + len(self._owed) >= self._most:
            if now - self._warned_at >= WARN_EVERY_S:
                self._warned_at = now
                logger.warning("connection limit reached", extra={"max_connections": self._most})
            if not self._idle:
                return False
            longest = next(iter(self._idle))
            self.leave(longest)
            longest.give_up()
        self._idle[connection] = None
        return True

    def owe(self, connection: Connection) -> None:
        """A request has arrived whole on a connection."""
        if connection in self._idle:
            del self._idle[connection]
            self._owed.add(connection)

    def settle(self, connection: Connection) -> None:
        """All that is owed on a connection was sent, or its client does not take it."""
        if connection in self._owed:
            self._owed.remove(connection)
            self._idle[connection] = None

    def leave(self, connection: Connection) -> None:
        """A connection is closed."""
        self._owed.discard(connection)
        self._idle.pop(connection, None)


def most_connections(wanted: int) -> int:
    """How many connections the system allows, up to `wanted`.

    The limit of open files is raised as far as it is needed and the system lets the process.
    """
    if sys.platform == "win32":
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        soft = needed
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(FEWEST, min(wanted, soft - SPARE_FILES))
