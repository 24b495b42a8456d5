"""How much memory there is for decoding."""

from collections.abc import Iterator
from pathlib import Path

import psutil

from service.images.processes.memory import MEBIBYTE

SMALLEST_ROOM = 64 * MEBIBYTE
GROUPS = Path("/proc/self/cgroup")
"""the control groups of this process; a line is `number:controllers:path`, see cgroups(7)"""
ROOT = Path("/sys/fs/cgroup")


def for_pictures(reserved: int) -> int:
    """Bytes of memory that pictures may take while they are decoded, at least `SMALLEST_ROOM`.

    Args:
        reserved: bytes that something else will take.
    """
    memory, ours = psutil.virtual_memory(), psutil.Process().memory_info()
    free: int = min(memory.available, container_bytes() - ours.rss)
    return max(SMALLEST_ROOM, free - reserved)


def container_bytes(groups: Path = GROUPS, root: Path = ROOT) -> int:
    """Bytes of memory that the container may use; without a limit, those of the machine."""
    total: int = psutil.virtual_memory().total
    return min([total, *_limits(groups, root)])


def _limits(groups: Path, root: Path) -> Iterator[int]:
    """The limits of all control groups that this process is in, in bytes."""
    for path in _files(groups, root):
        try:
            text = path.read_text().strip()
        except OSError:  # a group that is not seen from within its container
            continue
        if text != "max":
            yield int(text)


def _files(groups: Path, root: Path) -> Iterator[Path]:
    """The files that may hold a limit: those of each group and of the groups around it."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # a system without control groups
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        folder, name = (
            (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        )
        inner = Path(path.lstrip("/"))
        for group in (inner, *inner.parents):
            yield folder / group / name
