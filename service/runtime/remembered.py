"""Remembers what a trial has found, so that the next start on the same machine need not try.

A file lies beside the model, or, where nothing can be written there, in the user's cache folder. A
file that is missing, damaged or about something else only means that the trial is made again.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from service.telemetry.events import WayChosen

logger = logging.getLogger(__name__)

PREFIX = ".rapid-precision-"
WAY = TypeAdapter(WayChosen)

About = Mapping[str, object]
"""all that the finding depends on: model, machine, versions, settings; plain values for JSON"""


def find(about: About, folder: Path | None) -> WayChosen | None:
    """What an earlier start has found; None if nothing can be used.

    Args:
        about: what it was found for.
        folder: of the model, if it has one.
    """
    for path in _paths(about, folder):
        try:
            found = json.loads(path.read_bytes())
            if found["about"] == json.loads(_text(about)):
                return replace(WAY.validate_python(found["way"]), is_remembered=True)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as exc:
            logger.warning("a trial's file cannot be used", extra={"error": type(exc).__name__})
    return None


def keep(way: WayChosen, about: About, folder: Path | None) -> None:
    """Remember what was found, in the first place that can be written."""
    text = json.dumps({"about": about, "way": asdict(way)}, indent=1)
    for path in _paths(about, folder):
        try:
            _write(path, text)
        except OSError:
            continue
        return
    logger.warning("the trial cannot be remembered: no folder can be written")


def _write(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees a part of it.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=PREFIX)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _paths(about: About, folder: Path | None) -> Iterator[Path]:
    digest = hashlib.sha256(_text(about).encode()).hexdigest()[:16]
    name = f"{PREFIX}{digest}.json"
    if folder is not None:
        yield folder / name
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        yield (Path(cache) if cache else Path.home() / ".cache") / "rapid-vit" / name
    except RuntimeError:  # nobody's home
        return


def _text(about: About) -> str:
    return json.dumps(about, sort_keys=True)
