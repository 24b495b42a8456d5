"""Where a number was measured."""

import json
from pathlib import Path
from typing import Any

from service.load import environment

PACKAGES = ("torch", "timm", "pillow", "fastapi", "uvicorn")


def describe() -> dict[str, object]:
    """Machine, versions and commit."""
    return environment.describe(PACKAGES)


def write(out: Path | None, result: dict[str, Any]) -> None:
    """A result as JSON, with where it was measured; nowhere for None."""
    if out is not None:
        out.write_text(json.dumps({**result, "environment": describe()}, indent=1) + "\n")
