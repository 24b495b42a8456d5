"""What the commands write: results to standard output, everything else to standard error."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

Item = TypeVar("Item")

FAILED, MISUSED = 1, 2
"""exit statuses: something could not be done; a command, an option or a setting is wrong"""

FILE_WIDTH = 1000
"""columns of an output that is no terminal: a line is never broken there"""
MAX_TEXT = 50
"""characters beside a number of steps"""


def show(text: str) -> None:
    """Write one line of a result."""
    _output().print(text, soft_wrap=True)


def show_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table, its first column to the left and the others to the right.

    Outside of a terminal it is plain text without lines, one row in each line.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, title in enumerate(header):
        table.add_column(title, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    _output().print(table)


def note(text: str) -> None:
    """Write one line that is no result to standard error."""
    _messages().print(_one_line(text), soft_wrap=True)


def tell(text: str) -> None:
    """Write some lines for a person to standard error. Without a terminal nothing."""
    console = _messages()
    if console.is_terminal:
        console.print(text, soft_wrap=True)


def error(text: str) -> None:
    """Write one line that says why the command ends to standard error."""
    line = Text.assemble(("error:", "bold red"), " ", _one_line(text))
    _messages().print(line, soft_wrap=True)


def plain(markdown: str) -> str:
    """The words of a description in which code stands between backticks."""
    return re.sub("`([^`]*)`", r"\1", markdown)


def track(items: Sequence[Item], description: str) -> Iterator[Item]:
    """The items, with a bar that shows how many have been done. Without a terminal nothing."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with progress_of(*columns) as progress:
        yield from progress.track(items, description=description)


@contextmanager
def counting(description: str) -> Iterator[Callable[[str], None]]:
    """A line for steps whose number is not known. Without a terminal nothing.

    Yields:
        A function that counts one step and shows a text beside the number.
    """
    columns = (
        SpinnerColumn(),
        "{task.description}  {task.completed:.0f} steps",
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with progress_of(*columns) as progress:
        task = progress.add_task(description, total=None, text="")
        yield lambda text: progress.update(task, advance=1, text=text[:MAX_TEXT])


def progress_of(*columns: str | ProgressColumn, auto_refresh: bool = True) -> Progress:
    """A display of these columns on standard error. Without a terminal nothing."""
    console = _messages()
    return Progress(
        *columns, console=console, auto_refresh=auto_refresh, disable=not console.is_terminal
    )


def _output() -> Console:
    console = _console(stderr=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console


def _messages() -> Console:
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    """Writes text as it is: `[a]` is no style there, and `:a:` no picture."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def _one_line(text: str) -> str:
    return " ".join(text.split())
