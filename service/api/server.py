"""The server process: it listens, shuts down in steps, and ends with an exit status."""

import errno
import gc
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp

from service.api.connections import most_connections
from service.api.slow_clients import limited_protocol
from service.errors import InvalidRequestError, SettingsError
from service.runtime.lifecycle import Phase

if TYPE_CHECKING:  # at run time this would import PyTorch before the port is checked
    from service.runtime.runtime import Runtime

BUSY_THREADS_S = 0.5
"""seconds for which the process waits at its end for the threads that decode and compute"""
SWITCH_S = 0.001
RECEIVE_GRACE_S = 2.0
"""seconds after the 408 of `receive_timeout_s` until the connection is closed"""


class Server(uvicorn.Server):
    """A uvicorn server that shuts down in steps: not ready, then draining, then exit with 0."""

    def __init__(
        self, config: uvicorn.Config, runtime: "Runtime", on_ready: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._on_ready = on_ready
        self._drain_delay_s = runtime.settings.drain_delay_s
        self._leaves_at = math.inf
        self._was_ready = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """On SIGTERM, serve on for the drain delay. On SIGINT or a second signal, drain at once.

        A further signal ends the draining as well.
        """
        if self.should_exit:
            self.force_exit = True
        elif sig == signal.SIGTERM and self._leaves_at == math.inf and self._drain_delay_s > 0:
            self._runtime.leave()
            self._leaves_at = time.monotonic() + self._drain_delay_s
        else:
            self._leave()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: shut down once the delay is over or the service has failed.

        Once the models are loaded, Python's garbage collector no longer looks at what is there: a
        look at all of it holds the event loop for 0.2 s, whenever many requests come together.
        """
        if not self._was_ready and self._runtime.lifecycle.phase is Phase.READY:
            self._was_ready = True
            gc.freeze()
            self._on_ready(self._url())
        must_leave = self._runtime.lifecycle.phase in (Phase.DRAINING, Phase.FAILED)
        if must_leave or time.monotonic() >= self._leaves_at:
            self._leave()
        return await super().on_tick(counter)

    def _url(self) -> str:
        """Where a client on this machine reaches the server."""
        port = self.servers[0].sockets[0].getsockname()[1]
        return url_for_clients(self.config.host, port)

    def _leave(self) -> None:
        self._runtime.drain()
        self.should_exit = True


def run(app: ASGIApp, runtime: "Runtime", on_ready: Callable[[str], None] = lambda _: None) -> int:
    """Serve until a signal comes or the service fails.

    If a thread is still busy at the end, this ends the process instead of returning.

    Args:
        app: the application over the runtime.
        runtime: the runtime. Its settings give the address, the limits of connections, and the
            time for draining.
        on_ready: called once the service is ready, with the URL for clients of this machine.

    Returns:
        The exit status: 1 if the service failed, 0 otherwise.
    """
    settings = runtime.settings
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=limited_protocol(
            settings.receive_timeout_s + RECEIVE_GRACE_S,
            max_send_s=settings.send_timeout_s,
            most_connections=most_connections(settings.max_connections),
            on_refused=lambda message: runtime.record.refused(InvalidRequestError(message)),
        ),
        log_config=None,
        access_log=False,
        ws="none",
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    # A thread that decodes or parses gives up the interpreter so soon when the event loop asks.
    sys.setswitchinterval(SWITCH_S)
    Server(config, runtime, on_ready).run()
    status = 1 if runtime.lifecycle.phase is Phase.FAILED else 0
    if _threads_are_busy():
        # Not sys.exit: the interpreter would wait for the threads, and a stuck one never ends.
        logging.shutdown()
        os._exit(status)
    return status


def check_port(host: str, port: int) -> None:
    """Try to listen, before the models are loaded.

    Raises:
        SettingsError: the system does not let the process listen there.
    """
    try:
        addresses = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in addresses:
            with socket.socket(family, kind, protocol) as listener:
                if os.name == "posix":  # as the server does
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
    except OSError as exc:
        if exc.errno == errno.EADDRNOTAVAIL:  # the host may have others; uvicorn tries them
            return
        raise SettingsError(
            f"cannot listen on RAPID_HOST={host} RAPID_PORT={port}: {exc.strerror}"
        ) from exc


def url_for_clients(host: str, port: int) -> str:
    """The URL for a client of this machine. An address that stands for all is no address to ask."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _threads_are_busy() -> bool:
    """Whether a thread still works for clients that have been answered."""
    end = time.monotonic() + BUSY_THREADS_S
    ours = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    for thread in ours:
        if not thread.daemon:
            thread.join(max(0.0, end - time.monotonic()))
    return any(thread.is_alive() for thread in ours if not thread.daemon)
