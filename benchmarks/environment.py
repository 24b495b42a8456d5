"""Where a number was measured."""

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "timm", "pillow", "fastapi", "uvicorn")


def describe() -> dict[str, object]:
    """Machine, versions and commit."""
    return {
        "commit": _commit(),
        "processor": _processor(),
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def write(out: Path | None, result: dict[str, Any]) -> None:
    """A result as JSON, with where it was measured; nowhere for None."""
    if out is not None:
        out.write_text(json.dumps({**result, "environment": describe()}, indent=1) + "\n")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
