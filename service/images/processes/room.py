"""How much memory there is for decoding."""

from pathlib import Path

import psutil

from service.images.processes.memory import MEBIBYTE

SMALLEST_ROOM = 64 * MEBIBYTE
LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""most bytes of memory of the container, in control groups v2 and v1"""


def for_pictures(reserved: int, limits: tuple[Path, ...] = LIMITS) -> int:
    """Bytes of memory that pictures may take while they are decoded, at least `SMALLEST_ROOM`.

    Args:
        reserved: bytes that something else will take.
        limits: files with the limit of the container.
    """
    memory, ours = psutil.virtual_memory(), psutil.Process().memory_info()
    free: int = min(memory.available, container_bytes(limits) - ours.rss)
    return max(SMALLEST_ROOM, free - reserved)


def container_bytes(limits: tuple[Path, ...] = LIMITS) -> int:
    """Bytes of memory that the container may use; without a limit, those of the machine."""
    total: int = psutil.virtual_memory().total
    for path in limits:
        try:
            text = path.read_text().strip()
        except OSError:  # no control groups of this version
            continue
        return total if text == "max" else min(total, int(text))
    return total
