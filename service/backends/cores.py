"""How many cores this process may use: not the machine's, where it is confined to fewer."""

import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""control group v2, as a container sees its own: microseconds of work, and of time"""


def count(quota: Path = QUOTA) -> int:
    """Cores by affinity and by the quota of the container, at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, _by_quota(quota)))


def _by_quota(quota: Path) -> int:
    try:
        work_us, time_us = quota.read_text().split()
    except OSError:  # no control groups of this version, so no quota that could be known
        work_us = time_us = "max"
    return 2**31 if work_us == "max" else math.ceil(int(work_us) / int(time_us))
