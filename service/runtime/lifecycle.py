"""The phases of the process: loading -> ready -> leaving -> draining, or failed."""

import asyncio
from enum import Enum

from service.errors import NotReadyError


class Phase(Enum):
    """What the service is doing as a whole."""

    LOADING = "loading"
    READY = "ready"
    LEAVING = "leaving"
    """asked to stop: not ready for new traffic, but requests that still come are served"""
    DRAINING = "draining"
    """finishes accepted work, refuses new work"""
    FAILED = "failed"


class Lifecycle:
    """The current phase. It only ever moves forward."""

    def __init__(self) -> None:
        self._phase = Phase.LOADING
        self._has_loaded = asyncio.Event()
        self._reason = ""
        self.is_stopping = False
        """whether clients should take their next request elsewhere"""

    @property
    def phase(self) -> Phase:
        """What the service is doing now."""
        return self._phase

    def _move(self, phase: Phase) -> None:
        self._phase = phase
        self._has_loaded.set()
        self.is_stopping = phase in (Phase.LEAVING, Phase.DRAINING, Phase.FAILED)

    async def wait_until_loaded(self) -> None:
        """Wait until loading has ended, with success or not."""
        await self._has_loaded.wait()

    def loaded(self) -> None:
        """Become ready: the models are warm."""
        if self.phase is Phase.LOADING:
            self._move(Phase.READY)

    def leave(self) -> None:
        """Tell load balancers to send nothing more. A service that is still loading drains."""
        if self.phase is Phase.READY:
            self._move(Phase.LEAVING)
        elif self.phase is Phase.LOADING:
            self.drain()

    def drain(self) -> None:
        """Finish accepted work, and refuse new work."""
        if self.phase is not Phase.FAILED:
            self._move(Phase.DRAINING)

    def fail(self, reason: str = "the device loop has failed") -> None:
        """The service cannot answer any more and has to be restarted.

        Args:
            reason: what clients may know of it.
        """
        self._reason = reason
        self._move(Phase.FAILED)

    def require_alive(self) -> None:
        """Check that the service can answer at all.

        Raises:
            NotReadyError: the process should be restarted.
        """
        if self.phase is Phase.FAILED:
            raise NotReadyError(f"{self._reason}; restart the process")

    def require_ready(self) -> None:
        """Check that the service is ready for new traffic.

        Raises:
            NotReadyError: the traffic should go to another replica.
        """
        self.require_alive()
        if self.phase is not Phase.READY:
            raise NotReadyError(f"the service is {self.phase.value}; try again later")

    def require_serving(self) -> None:
        """Check that a request that comes now is answered.

        Raises:
            NotReadyError: it would not be answered.
        """
        if self.phase is not Phase.LEAVING:
            self.require_ready()
