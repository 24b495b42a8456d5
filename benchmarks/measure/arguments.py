"""Arguments that several benchmarks have."""

import argparse
from collections.abc import Callable

from service.load.bounds import Bounds


def number(low: float, high: float) -> Callable[[str], float]:
    """Reads a number of these bounds."""
    return _saying_why(Bounds(low, high).number)


def whole(low: int, high: int) -> Callable[[str], float]:
    """Reads a whole number of these bounds."""
    return _saying_why(Bounds(low, high).whole)


def _saying_why(read: Callable[[str], float]) -> Callable[[str], float]:
    """Argparse shows the message of its own kind of error only."""

    def convert(text: str) -> float:
        try:
            return read(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from exc

    return convert
