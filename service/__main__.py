"""The command line: `rapid serve`, or `python -m service`."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import uvicorn

from service.app import create_app
from service.calibrate import calibrate
from service.engine import choose_device
from service.errors import ModelLoadError, SettingsError
from service.lifecycle import Lifecycle, Phase
from service.settings import Settings


class Server(uvicorn.Server):
    """A uvicorn server that turns `/readyz` red with the first signal and then exits with 0."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle) -> None:
        """Serve, and tell `lifecycle` of signals."""
        super().__init__(config)
        self._lifecycle = lifecycle

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Drain on the first SIGTERM or SIGINT, stop at once on the second."""
        self._lifecycle.drain()
        self.force_exit = self.should_exit
        self.should_exit = True


def serve() -> int:
    """Serve until a signal comes; returns the exit status."""
    try:
        settings = Settings.from_environment()
    except SettingsError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    lifecycle = Lifecycle()
    app = create_app(settings, lifecycle, on_failure=lambda: stop())
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    server = Server(config, lifecycle)

    def stop() -> None:
        server.should_exit = True

    server.run()
    return 1 if lifecycle.phase is Phase.FAILED else 0


def calibrate_model(arguments: argparse.Namespace) -> int:
    """Find the tiers of one model; returns the exit status."""
    try:
        written = calibrate(
            arguments.model,
            arguments.images,
            out=arguments.out,
            device=choose_device(arguments.device),
            seed=arguments.seed,
        )
    except ModelLoadError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    print(f"wrote {written}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="rapid", description="Serve Vision Transformers; settings are RAPID_* variables."
    )
    parser.add_argument("--version", action="version", version=version("rapid-vit"))
    commands = parser.add_subparsers(title="commands", metavar="serve | calibrate")
    commands.add_parser("serve", help="serve the configured models; the default")
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


if __name__ == "__main__":
    sys.exit(main())
