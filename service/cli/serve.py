"""`rapid serve`: answer requests over HTTP until a signal comes."""

import gc
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from service.cli import temporary, terminal
from service.load.request import EXAMPLES
from service.settings import Settings


def serve(flags: Mapping[str, str]) -> int:
    """Serve models over HTTP. Every setting is a flag, and an environment variable as well.

    The variable of --max-batch-size is RAPID_MAX_BATCH_SIZE. A flag beats its variable.

    Examples:
      rapid serve --port 9000 --max-batch-size 4
      rapid serve --models everyday-vit-s14,mine=./models/mine
    """
    settings = Settings.read(flags)
    temporary.check()
    with collecting_later():
        from service.api import cross_origin, server

        cross_origin.check(settings.cors_origins)
        server.check_port(settings.host, settings.port)
        from service.api.app import create_app
        from service.backends.malloc import keep_freed_memory
        from service.runtime.runtime import Runtime
        from service.telemetry import logs

    logs.configure(settings.log_level)
    keep_freed_memory()
    runtime = Runtime(settings)
    logs.take_over_stderr()
    return server.run(create_app(settings, runtime), runtime, on_ready=partial(_greet, settings))


@contextmanager
def collecting_later() -> Iterator[None]:
    """Have the garbage collector wait: it finds nothing in imports, and takes a quarter of them."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _greet(settings: Settings, url: str) -> None:
    """Tell a person who watches what to try; a log that is no terminal gets nothing of it."""
    path, here = EXAMPLES / "owl.jpg", Path.cwd()
    picture = shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
    key = "-H 'Authorization: Bearer KEY' " if settings.api_keys_file else ""
    terminal.tell(
        f"\nReady on {url}, documented on {url}/docs. Try it from another terminal; Ctrl+C ends "
        "the service:\n\n"
        f'  curl {key}-F image=@{picture} "{url}/v1/classify?top_k=2"\n'
    )
