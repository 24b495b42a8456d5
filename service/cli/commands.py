"""The commands of `rapid`, and what becomes of their errors."""

import logging
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any

import typer
import typer.main

from service.cli import terminal
from service.cli.bench import bench
from service.cli.calibrate import calibrate
from service.cli.flags import with_flags
from service.cli.probe import probe
from service.cli.serve import serve
from service.errors import ModelLoadError, SettingsError
from service.settings.names import misspelt

logger = logging.getLogger(__name__)

HELP = ("--help", "-h")

app = typer.Typer(name="rapid", context_settings={"help_option_names": list(HELP)})
app.command()(with_flags(serve))
app.command()(probe)
app.command()(calibrate)
app.command()(bench)


def _show_version(wanted: bool) -> None:
    if wanted:
        terminal.show(metadata.version("rapid-vit"))
        raise typer.Exit


@app.callback()
def rapid(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Serve Vision Transformers that let every request choose how much work to skip.

    Without a command it serves: "rapid --port 9000" is the same as "rapid serve --port 9000".

    Examples:
      rapid serve --port 9000
      rapid probe --tiers exact,fast
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the name of the program; None: those of the process.

    Returns:
        The exit status.

    Raises:
        SystemExit: there is no such command or option, or its value is not allowed.
    """
    group = typer.main.get_command(app)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0].startswith("-") and given[0] not in _options(group)):
        given = ["serve", *given]
    try:
        status = group.main(given, prog_name="rapid", standalone_mode=False)
    except typer.TyperException as exc:
        terminal.error(_misuse(exc, _options(group)))
        sys.exit(terminal.MISUSED)
    except SettingsError as exc:
        terminal.error(str(exc))
        return terminal.MISUSED
    except (ModelLoadError, OSError) as exc:
        logger.debug("the command has failed", exc_info=exc)
        terminal.error(str(exc))
        return terminal.FAILED
    return int(status or 0)


def _options(command: Any) -> list[str]:
    """All names of a command's options."""
    own = [name for parameter in command.params for name in parameter.opts]
    return [*own, *HELP]


def _misuse(exc: typer.TyperException, of_rapid: Sequence[str]) -> str:
    """What is wrong with the command line. For an unknown option the most similar is proposed."""
    details: Any = exc  # typer does not export the class that has these members
    if not hasattr(exc, "possibilities"):
        return exc.format_message()
    command = details.ctx.command
    if command.name == "serve":
        return misspelt(details.option_name, "a setting", [*_options(command), *of_rapid])
    kind = f"an option of {details.ctx.command_path}"
    return misspelt(details.option_name, kind, _options(command))
