"""What the service tells a decoding process about a picture."""

from typing import NamedTuple

from service.images.cut import Cut
from service.images.options import Color
from service.images.shrink import Shrink


class Order(NamedTuple):
    """How to decode one picture."""

    resize_side: int
    """pixels of the shorter side after resizing"""
    max_pixels: int
    """most pixels, before and after resizing"""
    max_bytes: int
    """most memory that decoding may take; a picture that needs more comes back undone"""
    shrink: Shrink | None
    """resizes the picture; None: leave it as it is"""
    color: Color
    """what becomes of its colour profile"""
    cut: Cut | None = None
    """what the service needs of a picture that it resizes itself; None: it resizes none"""

    def as_message(self) -> dict[str, object]:
        """The same as values for JSON."""
        return self._asdict()

    @classmethod
    def of_message(cls, message: dict[str, object]) -> "Order":
        """The order that a message holds."""
        order = cls(**message)  # type: ignore[arg-type] # the service made it
        return order._replace(
            shrink=Shrink(*order.shrink) if order.shrink else None,
            cut=Cut(*order.cut) if order.cut else None,
        )
