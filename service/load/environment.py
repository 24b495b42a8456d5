"""The commit, machine and package versions of a measurement."""

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def describe(packages: Iterable[str]) -> dict[str, object]:
    """The commit or the release of this project, the machine, and versions.

    Args:
        packages: names of the packages whose versions are listed.
    """
    return {
        "commit": _commit(),
        "processor": _processor(),
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
    }


def _commit() -> str:
    """The commit as git names it; the version of the package where this is no checkout."""
    if not (CHECKOUT / ".git").exists():
        return _version("rapid-vit")
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=CHECKOUT)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
