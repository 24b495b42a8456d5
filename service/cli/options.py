"""Options that several commands have, and how their text becomes a value."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from service import settings
from service.tiers import TIERS, Tier


def count(text: str) -> int:
    """A number from 1 on."""
    if not text.isdecimal() or int(text) == 0:
        raise typer.BadParameter(f"{text!r} is not a number from 1 on")
    return int(text)


def tiers(text: str) -> tuple[Tier, ...]:
    """Names of tiers, separated by commas -> the tiers, from the most accurate to the fastest."""
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in TIERS]:
        raise typer.BadParameter(f"{unknown[0]!r} is not a tier; allowed: {', '.join(TIERS)}")
    return tuple(tier for tier in TIERS if tier in names)


def device(text: str) -> str:
    """A device as the setting names it."""
    try:
        return TypeAdapter[str](settings.Device).validate_python(text)
    except ValidationError as exc:
        raise typer.BadParameter(f"{text!r} is not auto, cpu, cuda, cuda:0, ...") from exc


def new_file(path: Path | None) -> Path | None:
    """A file that can be written, which is found out before the work begins."""
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {str(path.parent)!r}")
    return path


def new_picture(path: Path | None) -> Path | None:
    """A file for a picture, which needs matplotlib."""
    if path is not None and find_spec("matplotlib") is None:
        raise typer.BadParameter("a picture needs matplotlib: pip install matplotlib")
    return new_file(path)


Device = Annotated[
    str, typer.Option(parser=device, metavar="<auto|cpu|cuda|cuda:n>", help="Where to compute.")
]
AS_SET = typer.Option(help="As the setting of this name; rapid serve --help explains it.")
