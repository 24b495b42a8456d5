"""The flags of `rapid serve`: one for each setting, made from `Settings` itself."""

from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter, Signature
from typing import Annotated, Any

import typer
from rich.markup import escape

from service.cli import terminal
from service.settings import THEMES, Settings
from service.settings.names import flag

Command = Callable[[Mapping[str, str]], int]
METAVARS = {"integer": "<int>", "number": "<number>", "string": "<text>", "array": "<a,b>"}


def with_flags(command: Command) -> Callable[..., int]:
    """A command of typer with a flag for each setting.

    Args:
        command: gets the text of the flags that were given, by the name of the setting. Nothing in
            it has been checked: that is the business of `Settings.read`.
    """

    def run(**values: str | None) -> int:
        return command({name: text for name, text in values.items() if text is not None})

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = Signature(list(_parameters()))  # type: ignore[attr-defined]
    return run


def _parameters() -> Iterator[Parameter]:
    theme = ""
    for name, schema in Settings.model_json_schema()["properties"].items():
        theme = THEMES.get(name, theme)
        option = typer.Option(
            flag(name),
            help=_help(schema),
            metavar=METAVARS[schema["type"]],
            rich_help_panel=theme,
            show_default=False,  # typer's default is None, which means: not given
        )
        annotation: Any = Annotated[str | None, option]
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _help(schema: Mapping[str, Any]) -> str:
    """The description, and behind it what is allowed and the default."""
    default = schema["default"]
    text = ", ".join(default) if isinstance(default, list) else str(default)
    notes = "; ".join([*_allowed(schema), f"default: {text or 'none'}"])
    return f"{escape(terminal.plain(schema['description']))} [dim]{escape(f'[{notes}]')}[/dim]"


def _allowed(schema: Mapping[str, Any]) -> Iterator[str]:
    """The limits of a number, or the words that may be given."""
    limits = (("minimum", "from {}"), ("exclusiveMinimum", "above {}"), ("maximum", "to {}"))
    if words := [text.format(schema[limit]) for limit, text in limits if limit in schema]:
        yield " ".join(words)
    if "enum" in schema:
        yield f"one of {', '.join(schema['enum'])}"
    if "enum" in schema.get("items", {}):
        yield f"any of {', '.join(schema['items']['enum'])}"
