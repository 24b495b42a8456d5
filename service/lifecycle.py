"""The phases of the process: loading -> ready -> draining, or failed."""

from enum import Enum

from service.errors import NotReadyError


class Phase(Enum):
    """What the service is doing as a whole."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Lifecycle:
    """The current phase. It only ever moves forward."""

    def __init__(self) -> None:
        """Start with loading."""
        self.phase = Phase.LOADING

    def loaded(self) -> None:
        """Models are warm: requests are welcome."""
        if self.phase is Phase.LOADING:
            self.phase = Phase.READY

    def drain(self) -> None:
        """Accepted work is finished, new work is refused."""
        if self.phase is not Phase.FAILED:
            self.phase = Phase.DRAINING

    def fail(self) -> None:
        """The service cannot answer any more and wants to be restarted."""
        self.phase = Phase.FAILED

    def require_ready(self) -> None:
        """Let a request pass.

        Raises:
            NotReadyError: it would not be answered.
        """
        if self.phase is not Phase.READY:
            raise NotReadyError(f"the service is {self.phase.value}; try again later")
