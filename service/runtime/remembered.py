"""What a trial has found, kept for the next start of the same model on the same machine.

A file that is missing, damaged or about something else only means that the trial is made again.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace

from pydantic import TypeAdapter, ValidationError

from service import cache
from service.cache import Cache
from service.telemetry.events import WayChosen

logger = logging.getLogger(__name__)

WAY = TypeAdapter(WayChosen)

About = Mapping[str, object]
"""all that the finding depends on besides processor, code and versions: model and settings"""


def find(about: About, kept: Cache) -> WayChosen | None:
    """What an earlier start has found; None if nothing can be used. Blocks for milliseconds."""
    content = kept.read(_name(about))
    if content is None:
        return None
    try:
        return replace(WAY.validate_python(content), is_remembered=True)
    except ValidationError as exc:
        logger.warning("a trial's file cannot be used", extra={"error": type(exc).__name__})
        return None


def keep(way: WayChosen, about: About, kept: Cache) -> None:
    """Remember what was found, where the cache can be written. Blocks for milliseconds."""
    kept.write(_name(about), asdict(way))


def _name(about: About) -> str:
    facts = [*sorted(about.items()), *sorted(cache.machine().items())]
    return cache.fingerprint("precision", *facts)
