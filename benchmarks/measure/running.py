"""The real service as a process of its own, for benchmarks that compare its settings."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import httpx

READY_WITHIN_S = 300


class Running(NamedTuple):
    """A service that is ready."""

    url: str
    pid: int


@contextmanager
def running(**settings: str) -> Iterator[Running]:
    """Start the service, without a probe unless one is asked for; end it afterwards.

    Raises:
        TimeoutError: it was not ready in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = {"RAPID_PORT": str(port), "RAPID_DRAIN_DELAY_S": "0", "RAPID_PROBE_INTERVAL_S": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "service"],
        env={**os.environ, **ours, **settings},
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url)
        yield Running(url, process.pid)
    finally:
        process.terminate()
        process.wait(60)


def _wait_until_ready(url: str) -> None:
    end = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(0.1)
    raise TimeoutError(f"not ready within {READY_WITHIN_S} s")
