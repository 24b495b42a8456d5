"""Answers to scrapes. Computing one holds the event loop, so scrapes share them."""

import asyncio
from collections.abc import Callable

PER_S = 4
"""most answers a second that are computed, on average"""
BURST = 8
"""most that are computed without a wait"""


class Scrapes:
    """Computes few answers. None is older than the request for it; some wait for 1 / `PER_S` s."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        """`render` computes an answer."""
        self._render = render
        self._credit_from = float("-inf")
        self._coming: asyncio.Task[bytes] | None = None
        self._turn = asyncio.Lock()

    async def text(self) -> bytes:
        """An answer, computed now or a little later."""
        if self._coming is None:
            if self._wait_s() == 0:
                return self._compute()
            self._coming = asyncio.create_task(self._compute_later())
        text = await asyncio.shield(self._coming)
        async with self._turn:
            # One goes on with each turn of the event loop. Otherwise all who waited for this
            # answer would be served in the same turn, and everybody else after the last of them.
            await asyncio.sleep(0)
        return text

    async def _compute_later(self) -> bytes:
        await asyncio.sleep(self._wait_s())
        self._coming = None
        return self._compute()

    def _wait_s(self) -> float:
        """Seconds until the next answer may be computed."""
        return max(0.0, self._credit_from + 1 / PER_S - asyncio.get_running_loop().time())

    def _compute(self) -> bytes:
        now = asyncio.get_running_loop().time()
        self._credit_from = max(self._credit_from, now - BURST / PER_S) + 1 / PER_S
        return self._render()
