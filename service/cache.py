"""What one start measured and the next one need not measure again, in small files of the user.

Nothing here raises where a folder or a file is unusable: then there is no cache, and one debug
line says why. A content is trusted as little as any file: who reads it checks its form.
"""

import functools
import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

OFF = "off"
"""the setting for no cache"""
MAX_BYTES = 256 * 1024
"""longest content; a longer one is neither written nor read"""
MAX_FILES = 64
"""files that are kept; of more, the oldest ones are removed"""
PACKAGES = ("rapid-vit", "torch", "torchvision", "timm", "pillow", "openvino", "triton")
"""packages whose versions may change a result"""
CODE = ("service", "rapid_core")

logger = logging.getLogger(__name__)


class Cache:
    """Small JSON contents by name. Reading and writing take milliseconds and block."""

    def __init__(self, setting: str = "") -> None:
        """Use a folder; it is made when something is written.

        Args:
            setting: the folder; empty: `rapid-vit` in the user's folder of caches; `off`: none.
        """
        self._folder = None if setting == OFF else _folder(setting)

    def read(self, name: str) -> dict[str, Any] | None:
        """The content that was written under a name, or None."""
        if self._folder is None:
            return None
        try:
            with _file(self._folder, name).open("rb") as file:
                text = file.read(MAX_BYTES + 1)
            content = json.loads(text) if len(text) <= MAX_BYTES else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as exc:
            logger.debug("a cached result cannot be read", exc_info=exc)
            return None
        return content if isinstance(content, dict) else None

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Replace the content of a name, at once and as a whole, where the folder allows it.

        Args:
            name: any text; what the content depends on is part of it, see `fingerprint`.
            content: what JSON can hold.
        """
        if self._folder is None:
            return
        try:
            _replace(_file(self._folder, name), json.dumps(content).encode())
            _remove_oldest(self._folder)
        except (OSError, ValueError) as exc:
            logger.debug("a result cannot be cached", exc_info=exc)


def fingerprint(*parts: object) -> str:
    """64 hexadecimal digits that differ as soon as the text of one part does."""
    return digest(json.dumps([str(part) for part in parts]).encode())


def digest(content: bytes) -> str:
    """64 hexadecimal digits of a content."""
    return hashlib.sha256(content).hexdigest()


@functools.cache
def machine() -> Mapping[str, str]:
    """What a result of this process depends on besides its model: processor, code, versions."""
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "code": _code(),
        **{package: _version(package) for package in PACKAGES},
    }


def _folder(setting: str) -> Path | None:
    """The folder of a setting; None: the user has none."""
    if setting:
        return Path(setting)
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # a user without a home folder
        return None
    return folder / "rapid-vit"


def _file(folder: Path, name: str) -> Path:
    return folder / f"{fingerprint(name)}.json"


def _replace(path: Path, content: bytes) -> None:
    """Write a file anew under its name.

    Raises:
        OSError: it cannot be written.
        ValueError: it would be too long.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"{len(content)} bytes are too many for one cached result")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _remove_oldest(folder: Path) -> None:
    """Keep the newest `MAX_FILES`. Another process may do the same at the same time."""
    files = [*folder.glob("*.json"), *folder.glob("*.tmp")]
    if len(files) <= MAX_FILES:
        return
    for path in sorted(files, key=_changed_ns, reverse=True)[MAX_FILES:]:
        path.unlink(missing_ok=True)


def _changed_ns(path: Path) -> int:
    """When a file was changed; 0 if it is gone."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _processor() -> str:
    """Name and instructions of the processor, the latter as a digest."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    instructions = facts.get("flags", facts.get("Features", ""))
    name = facts.get("model name", platform.machine())
    return f"{name} {fingerprint(instructions)[:8]}"


def _code() -> str:
    """A digest of this program's own source: a version does not change with every commit."""
    source = hashlib.sha256()
    for folder in CODE:
        for path in sorted((Path(__file__).parents[1] / folder).rglob("*.py")):
            with suppress(OSError):
                source.update(path.read_bytes())
    return source.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
