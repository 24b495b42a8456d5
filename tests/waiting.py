"""Waiting for what must happen, on a machine of any speed.

A test waits for a condition and never for a time. `PATIENCE_S` is no threshold: only what hangs
reaches it, and then the test fails instead of waiting for ever.
"""

import random
import socket
import time
from collections.abc import Callable

import httpx

PATIENCE_S = 600
PAUSE_S = 0.01
"""between two looks, so that who is waited for has the processor"""
PORTS = range(10_000, 30_000)
"""below those that the operating system gives to clients, who may take a free one at any time"""


def eventually(holds: Callable[[], object], pause_s: float = PAUSE_S) -> None:
    """Return when something holds; it is looked at again and again."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(pause_s)


def get(url: str) -> httpx.Response:
    """Like `httpx.get`, whose own patience is five seconds."""
    return httpx.get(url, timeout=PATIENCE_S)


def free_port() -> int:
    """A port of this machine on which nobody listens, and which no client will be given."""
    while True:
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", random.choice(PORTS)))
            except OSError:
                continue
            port: int = free.getsockname()[1]
            return port
