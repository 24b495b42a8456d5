"""Logs for machines: one JSON object a line, with the request's id and nothing of an image."""

import logging
from contextvars import ContextVar

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
TRACE_ID: ContextVar[str | None] = ContextVar("trace_id", default=None)

TALKATIVE = ("PIL",)
"""libraries that log the tags of images at level debug"""


def configure(level: str) -> None:
    """Log everything of this level and above to standard error."""
    handler = logging.StreamHandler()
    handler.addFilter(_add_ids)
    handler.setFormatter(
        JsonFormatter(
            ["message", "levelname", "name"],
            rename_fields={"message": "event", "levelname": "level", "name": "logger"},
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],
            exc_info_as_array=True,
            timestamp="time",
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(capture=True)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def _add_ids(record: logging.LogRecord) -> bool:
    """Add the ids of the request that an event belongs to, if there is one."""
    for name, variable in (("request_id", REQUEST_ID), ("trace_id", TRACE_ID)):
        if (value := variable.get()) is not None:
            setattr(record, name, value)
    return True
