"""Finds a batch that does not end, on a machine that may stop the whole process for a while.

A machine that is moved to another host, a debugger or SIGSTOP stops the process, while the clock
goes on. The device is not to blame for that time.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from service.errors import DeviceStuckError
from service.scheduling.running import RunningBatches

K = TypeVar("K")


class Pause(NamedTuple):
    """A time in which the whole process stood still."""

    end: float
    """seconds on the clock"""
    seconds: float


class Watchdog(Generic[K]):
    """Watches the running batches. Used from the event loop only."""

    def __init__(self, running: RunningBatches[K], clock: Callable[[], float]) -> None:
        """Watch nothing yet; `watch` does.

        Args:
            running: the batches.
            clock: seconds, monotonic; the batches' starts are on it.
        """
        self._running = running
        self._clock = clock
        self._pauses: list[Pause] = []

    @property
    def running_s(self) -> float:
        """Seconds for which the oldest batch has been running, without pauses; 0.0: none runs."""
        oldest = self._running.oldest
        if oldest is None:
            return 0.0
        self._pauses = [pause for pause in self._pauses if pause.end > oldest.started]
        paused_s = sum(min(pause.seconds, pause.end - oldest.started) for pause in self._pauses)
        return self._running.longest_s(self._clock()) - paused_s

    async def watch(self, max_batch_s: float) -> None:
        """Until cancelled, check that no batch takes longer than `max_batch_s` seconds.

        Raises:
            DeviceStuckError: one did.
        """
        while True:
            await self._sleep(max_batch_s / 10)
            oldest = self._running.oldest
            if oldest is not None and self.running_s > max_batch_s:
                raise DeviceStuckError(
                    f"a batch of {len(oldest.jobs)} images has not ended within {max_batch_s:g} s"
                )

    async def _sleep(self, seconds: float) -> None:
        """Sleep, and note a pause if that took more than twice as long as it should."""
        before = self._clock()
        await asyncio.sleep(seconds)
        now = self._clock()
        if now - before > 2 * seconds:
            self._pauses.append(Pause(now, now - before - seconds))
