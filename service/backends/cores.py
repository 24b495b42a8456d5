"""The number of cores that this process may use, which may be fewer than the machine has."""

import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""quota of the container (control group v2): microseconds of CPU time, and of the period"""


def count(quota: Path = QUOTA) -> int:
    """The lower of the cores by affinity and by the container's quota, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, _by_quota(quota)))


def _by_quota(quota: Path) -> int:
    try:
        work_us, time_us = quota.read_text().split()
    except OSError:  # no control groups v2, so no known quota
        work_us = time_us = "max"
    return 2**31 if work_us == "max" else math.ceil(int(work_us) / int(time_us))
