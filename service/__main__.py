"""The command line: `rapid`, or `python -m service`."""

import sys
from collections.abc import Sequence

from service.cli.termination import exit_on_sigterm


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    exit_on_sigterm()
    from service.cli import commands  # after the handler: a signal must end these imports

    return commands.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
