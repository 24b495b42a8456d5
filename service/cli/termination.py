"""What SIGTERM does until the server handles it."""

import signal
import sys


def exit_on_sigterm() -> None:
    """Let SIGTERM end the process with status 0.

    Call it before the imports that take seconds. The process with number 1 in a container ignores
    SIGTERM as long as it has no handler of its own, and whoever stops the container then waits
    until the process is killed.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
