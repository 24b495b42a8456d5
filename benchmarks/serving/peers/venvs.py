"""A virtual environment per peer, with exactly the versions of its requirements.txt."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
INSTALL_WITHIN_S = 1800
STAMP = ".installed"
NOTED = ("torch", "torchvision", "timm", "pillow", "uvicorn")
"""packages whose versions are noted beside the peer's own, where it has them"""
READ_VERSIONS = """
import importlib.metadata, json, platform, sys
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class Peer(NamedTuple):
    """A server to compare with."""

    name: str
    folder: str
    """of its app and requirements, beside this file"""
    package: str
    path: str
    """where it takes pictures"""
    form_field: str | None = None
    """the field of a form that the picture goes into; None: it is the body"""


PEERS = (
    Peer("LitServe", "litserve", "litserve", "/predict"),
    Peer("Ray Serve", "ray_serve", "ray", "/"),
    Peer("BentoML", "bentoml", "bentoml", "/classify", form_field="images"),
    Peer("mosec", "mosec", "mosec", "/inference"),
)


class PeerUnavailableError(Exception):
    """It cannot be installed or started, or it answers something else."""


def default_folder() -> Path:
    """Where the environments lie unless another place is named."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "rapid-vit" / "peers"


def set_up(peer: Peer, folder: Path) -> Path:
    """The Python of the peer's environment, which is made unless it is there and up to date.

    Raises:
        PeerUnavailableError: it cannot be installed; says why.
    """
    requirements = FOLDER / peer.folder / "requirements.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    venv = folder / peer.folder
    python, stamp = venv / "bin" / "python", venv / STAMP
    if stamp.is_file() and stamp.read_text() == digest:
        return python
    print(f"installing {peer.name} into {venv}", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(venv)], peer)
    _run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)], peer)
    stamp.write_text(digest)
    return python


def versions(peer: Peer, python: Path) -> dict[str, str]:
    """What is installed there."""
    found: dict[str, str] = json.loads(
        _run([str(python), "-c", READ_VERSIONS, peer.package, *NOTED], peer)
    )
    return found


def _run(command: list[str], peer: Peer) -> str:
    """What the command prints."""
    # Constraints of this project's own environment do not hold for the peer's.
    environment = {name: text for name, text in os.environ.items() if name != "PIP_CONSTRAINT"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=INSTALL_WITHIN_S,
        )
    except subprocess.CalledProcessError as exc:
        last = (exc.stderr.strip() or "no message").splitlines()[-1]
        raise PeerUnavailableError(f"{peer.name} cannot be installed: {last}") from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise PeerUnavailableError(f"{peer.name} cannot be installed: {exc}") from exc
    return done.stdout
