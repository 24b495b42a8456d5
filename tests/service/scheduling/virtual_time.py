"""An event loop whose clock jumps to the next thing that happens, so that nothing ever sleeps.

What runs on it is the real code, deterministic, with hours in a second: the loop takes timers in
their order, and a turn without one takes `TURN_S`.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

TURN_S = 1e-9
"""so that whoever waits for less than the clock can count gets on as well"""


class VirtualSelector(selectors.SelectSelector):
    """Waits for nothing but the clock, which it moves."""

    def __init__(self) -> None:
        """Start in the middle of a day, as a monotonic clock may."""
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Be where the time is over; no timer at all means that everybody waits for ever."""
        if timeout is None:
            raise RuntimeError("deadlock: all wait, and no timer is set")
        self.now += max(timeout, TURN_S)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a virtual clock; no sockets, no threads."""

    def __init__(self) -> None:
        """Start the clock."""
        self._virtual = VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """The virtual seconds."""
        return self._virtual.now

    def stand_still(self, seconds: float) -> None:
        """Let the clock go on while nothing happens, as if the process was stopped."""
        self._virtual.now += seconds


def run(main: Coroutine[Any, Any, T]) -> T:
    """Like `asyncio.run`, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def now() -> float:
    """The clock of the running loop: what to hand in as `clock`."""
    return asyncio.get_running_loop().time()


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Decorate a test that is a coroutine: it runs on a loop of its own."""

    @functools.wraps(test)
    def run_test(*args: P.args, **kwargs: P.kwargs) -> T:
        return run(test(*args, **kwargs))

    return run_test
