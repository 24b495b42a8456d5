"""Logs for machines: one JSON object a line, with the request's id and nothing of an image.

A line is formatted by the thread that logs, which knows its request, and written by another one.
"""

import logging
import sys
import time
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from typing import TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from service.telemetry.log_queue import FLUSH_S, LineQueue, QueuedText

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
TRACE_ID: ContextVar[str | None] = ContextVar("trace_id", default=None)

TALKATIVE = ("PIL",)
"""libraries that log the tags of images at level debug"""
OURS = ("service", "uvicorn")
"""packages whose lines are never left out: none of them logs in a loop"""
PAUSE_S = 60.0
"""seconds for which a place in the code of a library is silent after it has logged a line"""

logger = logging.getLogger(__name__)


class QueueHandler(logging.Handler):
    """Formats a record at once, and has a queue write it."""

    def __init__(self, fd: int | None) -> None:
        super().__init__()
        self.setFormatter(_formatter())
        self.addFilter(_add_ids)
        self.addFilter(Repeats())
        self.lines = LineQueue(fd, self._report)

    def emit(self, record: logging.LogRecord) -> None:
        """Put a record into the queue. One that cannot be formatted is replaced."""
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - a library's wrong call must not end a request
            text = self.format(_record(record.name, record.levelno, "a line cannot be formatted"))
        self.lines.put(text.encode(errors="backslashreplace") + b"\n")

    def flush(self) -> None:
        """Wait for the queue, at most `FLUSH_S` seconds. `logging.shutdown` calls it."""
        self.lines.flush(FLUSH_S)

    def _report(self, num_missing: int) -> bytes:
        record = _record(logger.name, logging.WARNING, "log lines dropped")
        record.num_lines = num_missing
        return self.format(record).encode() + b"\n"


class Repeats:
    """A filter that lets each place in the code of a library log once in `PAUSE_S` seconds.

    One damaged picture can cause thousands of warnings. The next line of the place says how many
    were left out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._places: dict[tuple[str, int], tuple[float, int]] = {}
        """place -> when its last line was logged, and how many were left out since"""

    def __call__(self, record: logging.LogRecord) -> bool:
        """Whether to log a record."""
        if record.name.partition(".")[0] in OURS:
            return True
        now = self._clock()
        place = (record.pathname, record.lineno)
        logged, num_left_out = self._places.get(place, (-PAUSE_S, 0))
        if now - logged < PAUSE_S:
            self._places[place] = (logged, num_left_out + 1)
            return False
        if num_left_out:
            record.num_left_out = num_left_out
        self._places[place] = (now, 0)
        return True


def configure(level: str) -> None:
    """Log everything of this level and above to standard error, which may block or be closed."""
    logging.basicConfig(level=level.upper(), handlers=[QueueHandler(_stderr())])
    warnings.showwarning = _log_warning
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    _take_over_handlers()


def take_over_stderr() -> None:
    """Let `sys.stderr` be a queue, too, for what libraries and the interpreter write to it.

    Call it once the service can start: a command that fails writes its error itself.
    """
    for one in logging.getLogger().handlers:
        if isinstance(one, QueueHandler):
            sys.stderr = QueuedText(one.lines, _stderr())


def num_dropped() -> int:
    """Lines of this process that could not be written, and never will be."""
    handlers = logging.getLogger().handlers
    return sum(one.lines.num_dropped for one in handlers if isinstance(one, QueueHandler))


def _stderr() -> int | None:
    """The descriptor of standard error; None: it is closed."""
    return None if sys.__stderr__ is None else sys.__stderr__.fileno()


def _formatter() -> logging.Formatter:
    return JsonFormatter(
        ["message", "levelname", "name"],
        rename_fields={"message": "event", "levelname": "level", "name": "logger"},
        reserved_attrs=[*RESERVED_ATTRS, "color_message"],
        exc_info_as_array=True,
        timestamp="time",
    )


def _record(name: str, level: int, event: str) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 0, event, (), None)


def _take_over_handlers() -> None:
    """Lead lines of libraries that write to standard error by themselves to our handler."""
    for one in logging.root.manager.loggerDict.values():
        if not isinstance(one, logging.Logger):
            continue
        own = [handler for handler in one.handlers if _writes_to_stderr(handler)]
        for handler in own:
            one.removeHandler(handler)
            one.propagate = True


def _writes_to_stderr(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (
        sys.stderr,
        sys.__stderr__,
    )


def _log_warning(  # noqa: PLR0913 - the signature of warnings.showwarning
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    """Log a Python warning, with the place that it is about."""
    event = f"{filename}:{lineno}: {category.__name__}: {message}"
    log = logging.getLogger("py.warnings")
    log.handle(log.makeRecord(log.name, logging.WARNING, filename, lineno, event, (), None))


def _add_ids(record: logging.LogRecord) -> bool:
    """Add the ids of the request that an event belongs to, if there is one."""
    for name, variable in (("request_id", REQUEST_ID), ("trace_id", TRACE_ID)):
        if (value := variable.get()) is not None:
            setattr(record, name, value)
    return True
