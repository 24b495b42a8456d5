"""The phases of the process: loading -> ready -> leaving -> draining, or failed."""

import asyncio
from enum import Enum

from service.errors import NotReadyError


class Phase(Enum):
    """What the service is doing as a whole."""

    LOADING = "loading"
    READY = "ready"
    LEAVING = "leaving"
    """asked to stop: not ready for new traffic, but what still comes is served"""
    DRAINING = "draining"
    """accepted work is finished, new work refused"""
    FAILED = "failed"


class Lifecycle:
    """The current phase. It only ever moves forward."""

    def __init__(self) -> None:
        self._phase = Phase.LOADING
        self._has_loaded = asyncio.Event()
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
        """Wait until the phase is not loading any more, whether loading succeeded or not."""
        await self._has_loaded.wait()

    def loaded(self) -> None:
        """Models are warm: requests are welcome."""
        if self.phase is Phase.LOADING:
            self._move(Phase.READY)

    def leave(self) -> None:
        """Tell load balancers to send nothing more; a service that never was ready just drains."""
        if self.phase is Phase.READY:
            self._move(Phase.LEAVING)
        elif self.phase is Phase.LOADING:
            self.drain()

    def drain(self) -> None:
        """Accepted work is finished, new work is refused."""
        if self.phase is not Phase.FAILED:
            self._move(Phase.DRAINING)

    def fail(self) -> None:
        """The service cannot answer any more and wants to be restarted."""
        self._move(Phase.FAILED)

    def require_alive(self) -> None:
        """Be able to answer at all.

        Raises:
            NotReadyError: the process should be restarted.
        """
        if self.phase is Phase.FAILED:
            raise NotReadyError("the device loop has failed; restart the process")

    def require_ready(self) -> None:
        """Be ready for new traffic.

        Raises:
            NotReadyError: it should go to another replica.
        """
        if self.phase is not Phase.READY:
            raise NotReadyError(f"the service is {self.phase.value}; try again later")

    def require_serving(self) -> None:
        """Let a request pass.

        Raises:
            NotReadyError: it would not be answered.
        """
        if self.phase is not Phase.LEAVING:
            self.require_ready()
