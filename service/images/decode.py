"""Bytes -> pixels, within limits. The caller gives the transform of the model."""

from collections.abc import Callable
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from service.errors import TooLargeError
from service.images import rgb
from service.images.cut import Columns, Cut
from service.images.options import COLOR, MAX_PIXELS, Color
from service.images.resample import Resampling
from service.images.shrink import Shrink


class InputSpec(NamedTuple):
    """The input that a model needs."""

    transform: Callable[[Image.Image], Tensor]
    """RGB image -> (3, H, W)."""
    resize_side: int
    """pixels of the shorter side after the transform has resized."""
    color: Color = COLOR
    """what becomes of a picture's colour profile."""
    shrink: Shrink | None = None
    """the first step of the transform, if it resizes; a decoding process does it already"""

    resampling: Resampling | None = None
    """the transform for a part of the picture; without effect beside another transform"""

    @property
    def cut(self) -> Cut | None:
        """What is enough of a picture; None: all of it is needed."""
        if self.resampling is None or self.resampling.transform is not self.transform:
            return None
        return self.resampling.cut

    def prepared(self, picture: Image.Image | Columns) -> Tensor:
        """Pixels (3, H, W) of an RGB picture, or of what `cut` has left of it."""
        if isinstance(picture, Image.Image):
            return self.transform(picture)
        assert self.resampling is not None
        return self.resampling(picture)


def decode(body: bytes, spec: InputSpec, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode an image and prepare it for a model: (3, H, W), as its transform gives it.

    Args:
        body: the image file.
        spec: the input that the model needs.
        max_pixels: most pixels, before and after resizing.

    Raises:
        ImageRejectedError: empty, truncated, damaged, or not an image of a known format.
        TooLargeError: more pixels than allowed, or than there is memory for.
    """
    picture = rgb.read(body, spec.resize_side, max_pixels, color=spec.color)
    try:
        return spec.transform(picture)
    except MemoryError as exc:
        raise TooLargeError(rgb.NO_MEMORY) from exc
