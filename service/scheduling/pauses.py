"""The times in which the whole process stood still, as seen by a task that sleeps and looks.

A machine that is moved to another host, a debugger or SIGSTOP stops the process, while the clock
goes on. The device is not to blame for that time.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple


class Pause(NamedTuple):
    """One of the times."""

    end: float
    """seconds on the clock"""
    seconds: float


class Pauses:
    """Finds pauses that are longer than a sleep. Used from the event loop only."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin without any pause; `clock` gives monotonic seconds."""
        self._clock = clock
        self._pauses: list[Pause] = []

    async def sleep(self, seconds: float) -> None:
        """Sleep, and note a pause if that took more than twice as long as it should."""
        before = self._clock()
        await asyncio.sleep(seconds)
        now = self._clock()
        if now - before > 2 * seconds:
            self._pauses.append(Pause(now, now - before - seconds))

    def since(self, started: float) -> float:
        """Seconds of all pauses after that time. Earlier ones are forgotten."""
        self._pauses = [pause for pause in self._pauses if pause.end > started]
        return sum(min(pause.seconds, pause.end - started) for pause in self._pauses)
