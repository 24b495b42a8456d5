"""Reads image files that are not part of a request: for calibration and probes on a folder."""

from pathlib import Path

from torch import Tensor

from service.errors import ImageRejectedError, ModelLoadError, TooLargeError
from service.images.decode import InputSpec, decode


def read(path: Path, spec: InputSpec) -> Tensor:
    """Pixels (3, H, W) of one picture.

    Raises:
        ModelLoadError: it cannot be read as a picture, or is too large.
    """
    try:
        return decode(path.read_bytes(), spec)
    except (ImageRejectedError, TooLargeError) as exc:
        raise ModelLoadError(f"{path}: {exc}") from exc
