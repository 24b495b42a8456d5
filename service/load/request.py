"""One request as it is sent, and the image files for request bodies."""

import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

EXAMPLES = Path(__file__).parents[1] / "assets/everyday-vit-s14/examples"
"""the photos that come with the bundled model"""


class Request(NamedTuple):
    """A POST to the URL of the client."""

    entry: str
    """the entry of the mix that the request counts for"""
    query: dict[str, str]
    content: bytes
    headers: dict[str, str]


class Image(NamedTuple):
    """An image file."""

    name: str
    content: bytes
    media_type: str


def load_images(paths: Sequence[Path]) -> list[Image]:
    """The image files of these folders and files, or ValueError."""
    found = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            media_type = mimetypes.guess_type(file.name)[0] or ""
            if media_type.startswith("image/"):
                found.append(Image(file.name, file.read_bytes(), media_type))
    if not found:
        raise ValueError(f"no image in {', '.join(map(str, paths))}")
    return found
