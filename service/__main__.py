"""The command line: `rapid serve`, or `python -m service`."""

from service.cli import early_exit  # noqa: F401, I001 - it must come first

import argparse
import errno
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import get_args

import uvicorn

from service.api.app import create_app
from service.api.slow_clients import impatient
from service.backends.malloc import keep_freed_memory
from service.backends.placement import Backend, Precision, choose
from service.cli import probe
from service.cli.calibrate import calibrate
from service.cli.probe import Wanted
from service.errors import ModelLoadError, SettingsError
from service.models.catalog import Resize
from service.runtime.lifecycle import Phase
from service.runtime.runtime import Runtime
from service.settings import Settings
from service.telemetry import logs
from service.tiers import TIERS, Tier

ENDING = (Phase.DRAINING, Phase.FAILED)
"""phases in which the server ends"""
BUSY_THREADS_S = 0.5
"""how long the process waits at its end for the threads that decode and compute"""
RECEIVE_GRACE_S = 2.0
"""after this the connection is closed, where the polite 408 has not helped"""


class Server(uvicorn.Server):
    """A uvicorn server that leaves in steps: not ready, then draining, then exit with 0."""

    def __init__(self, config: uvicorn.Config, runtime: Runtime) -> None:
        """Serve, and tell the runtime of signals."""
        super().__init__(config)
        self._runtime = runtime
        self._drain_delay_s = runtime.settings.drain_delay_s
        self._leaves_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """SIGTERM: serve on for the drain delay; SIGINT or a second signal: drain at once.

        A further signal ends even the draining.
        """
        if self.should_exit:
            self.force_exit = True
        elif sig == signal.SIGTERM and self._leaves_at == math.inf and self._drain_delay_s > 0:
            self._runtime.leave()
            self._leaves_at = time.monotonic() + self._drain_delay_s
        else:
            self._leave()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: drain once the delay is over, or end after a failure."""
        if time.monotonic() >= self._leaves_at or self._runtime.lifecycle.phase in ENDING:
            self._leave()
        return await super().on_tick(counter)

    def _leave(self) -> None:
        self._runtime.drain()
        self.should_exit = True


def serve() -> int:
    """Serve until a signal comes; returns the exit status."""
    try:
        settings = Settings.from_environment()
        check_port(settings.host, settings.port)
        logs.configure(settings.log_level)
        keep_freed_memory()
        runtime = Runtime(settings)
        app = create_app(settings, runtime)
    except SettingsError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=impatient(settings.receive_timeout_s + RECEIVE_GRACE_S),
        log_config=None,
        access_log=False,
        ws="none",
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    Server(config, runtime).run()
    status = 1 if runtime.lifecycle.phase is Phase.FAILED else 0
    if _threads_are_busy():
        # Not sys.exit: the interpreter would wait for them, and a stuck one never ends.
        logging.shutdown()
        os._exit(status)
    return status


def check_port(host: str, port: int) -> None:
    """Find out now, and not after the models have been loaded.

    Raises:
        SettingsError: nobody can listen there, says the system.
    """
    try:
        addresses = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in addresses:
            with socket.socket(family, kind, protocol) as listener:
                if os.name == "posix":  # as the server will do it
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
    except OSError as exc:
        if exc.errno == errno.EADDRNOTAVAIL:  # perhaps one of several; the server will see
            return
        raise SettingsError(
            f"cannot listen on RAPID_HOST={host} RAPID_PORT={port}: {exc.strerror}"
        ) from exc


def _threads_are_busy() -> bool:
    """Whether a thread still works for clients that have been answered."""
    end = time.monotonic() + BUSY_THREADS_S
    ours = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    for thread in ours:
        if not thread.daemon:
            thread.join(max(0.0, end - time.monotonic()))
    return any(thread.is_alive() for thread in ours if not thread.daemon)


def calibrate_model(arguments: argparse.Namespace) -> int:
    """Find the tiers of one model; returns the exit status."""
    try:
        written = calibrate(
            arguments.model,
            arguments.images,
            out=arguments.out,
            device=choose(arguments.device, "torch", "float32").device,
            seed=arguments.seed,
        )
    except ModelLoadError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    print(f"wrote {written}")
    return 0


def probe_model(arguments: argparse.Namespace) -> int:
    """Measure how accurate the tiers of a model are; returns the exit status."""
    wanted = Wanted(
        model=arguments.model,
        data=arguments.data,
        tiers=arguments.tiers,
        device=arguments.device,
        backend=arguments.backend,
        precision=arguments.precision,
        resize=arguments.resize,
        batch_size=arguments.batch_size,
        max_images=arguments.max_images,
    )
    try:
        rows, folder, model = probe.probe(wanted)
        print(probe.table(rows))
        if arguments.csv:
            probe.write_csv(rows, arguments.csv)
        if arguments.png:
            probe.write_png(rows, arguments.png, model.name)
        if arguments.baseline:
            print(f"wrote {probe.write_baseline(rows, folder, model.architecture)}")
    except (ModelLoadError, SettingsError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


def _tiers(text: str) -> tuple[Tier, ...]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in TIERS]:
        raise argparse.ArgumentTypeError(
            f"{unknown[0]!r} is not a tier; allowed: {', '.join(TIERS)}"
        )
    return tuple(tier for tier in TIERS if tier in names)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="rapid", description="Serve Vision Transformers; settings are RAPID_* variables."
    )
    parser.add_argument("--version", action="version", version=version("rapid-vit"))
    commands = parser.add_subparsers(title="commands", metavar="serve | probe | calibrate")
    commands.add_parser("serve", help="serve the configured models; the default")
    _add_probe(commands.add_parser("probe", help="measure each tier on labelled pictures"))
    search = commands.add_parser("calibrate", help="find a model's tiers on unlabelled pictures")
    search.add_argument("model", help="as in RAPID_MODELS: a bundled name, a folder, a timm name")
    search.add_argument("--images", type=Path, required=True, help="folder with pictures")
    search.add_argument("--out", type=Path, help="file to write; default: beside the model")
    search.add_argument("--device", default="auto", help="auto, cpu or cuda")
    search.add_argument("--seed", type=int, default=0)
    search.set_defaults(command=calibrate_model)
    parsed = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = getattr(parsed, "command", lambda _: serve())
    return command(parsed)


def _add_probe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="everyday-vit-s14", help="as in RAPID_MODELS")
    parser.add_argument(
        "--data", type=Path, help="folder with pictures and labels.csv; default: beside the model"
    )
    parser.add_argument("--tiers", type=_tiers, default=TIERS, help="separated by commas")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--backend", choices=get_args(Backend), default="auto")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32")
    parser.add_argument("--resize", choices=get_args(Resize), default="pillow")
    parser.add_argument("--batch-size", type=_count, default=16)
    parser.add_argument("--max-images", type=_count, default=10**9, help="evenly spaced ones")
    parser.add_argument("--csv", type=Path, help="write the table there, too")
    parser.add_argument("--png", type=Path, help="draw accuracy over cost there")
    parser.add_argument(
        "--baseline",
        action="store_true",
        help="note the result beside the pictures: the service warns when it falls below",
    )
    parser.set_defaults(command=probe_model)


if __name__ == "__main__":
    sys.exit(main())
