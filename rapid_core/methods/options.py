"""Options that several methods have in common: their declaration and their checks."""

import math

from rapid_core.contract import TokenLayout
from rapid_core.errors import InvalidScheduleError

INSTEAD_OF_R = {"instead_of_r": True}
"""`metadata` of a dataclass field that says how many tokens go, so that r must not be given."""


def require_number(name: str, value: object) -> None:
    """Refuse anything but a finite number.

    Raises:
        InvalidScheduleError: the message names the option.
    """
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidScheduleError(f"{name} = {value!r} must be a finite number")


def require_switch(name: str, value: object) -> None:
    """Refuse anything but True and False, or the numbers equal to them.

    Raises:
        InvalidScheduleError: the message names the option.
    """
    if value not in (True, False):
        raise InvalidScheduleError(f"{name} = {value!r} must be True or False")


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse anything but one of some words.

    Raises:
        InvalidScheduleError: the message names the option and the words.
    """
    if not isinstance(value, str) or value not in choices:
        raise InvalidScheduleError(f"{name} = {value!r} must be one of {', '.join(choices)}")


def resolve_prune_blocks(wanted: int | None, layout: TokenLayout, *, default: int) -> int:
    """Number of leading blocks that prune; the default where `wanted` is None.

    Raises:
        InvalidScheduleError: `wanted` is no integer in 0 ... number of blocks.
    """
    if wanted is None:
        return default
    if not isinstance(wanted, int) or not 0 <= wanted <= layout.num_blocks:
        raise InvalidScheduleError(
            f"num_prune_blocks = {wanted!r} must be an integer in 0 ... {layout.num_blocks}, the "
            "number of blocks"
        )
    return wanted
