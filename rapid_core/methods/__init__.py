"""The methods, one file each, and the table of their names.

The one job of a method's file: its options, its plan, and its own decisions. A method must not
know how a block runs, which model it is in beyond its `TokenLayout`, or any other method; what
several methods share is in `matching`.
"""

from collections.abc import Mapping
from dataclasses import fields

from rapid_core.contract import Method
from rapid_core.errors import InvalidScheduleError
from rapid_core.methods.attention_rollout import AttentionRollout
from rapid_core.methods.evit import EViT
from rapid_core.methods.patch_similarity import PatchSimilarity
from rapid_core.methods.random_drop import RandomDrop
from rapid_core.methods.rapid import Rapid
from rapid_core.methods.tofu import ToFu
from rapid_core.methods.tome import ToMe

METHODS: Mapping[str, type[Method]] = {
    "rapid": Rapid,
    "tome": ToMe,
    "tofu": ToFu,
    "patch_similarity": PatchSimilarity,
    "evit": EViT,
    "attention_rollout": AttentionRollout,
    "random": RandomDrop,
}


def create_method(name: str, options: Mapping[str, object]) -> Method:
    """Build a method from its name and options.

    Raises:
        InvalidScheduleError: no such method or option, or a value out of range.
    """
    if name not in METHODS:
        raise InvalidScheduleError(f"unknown method {name!r}; there are: {', '.join(METHODS)}")
    method = METHODS[name]
    known = option_names(method)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InvalidScheduleError(
            f"method {name!r} has no option {unknown[0]!r}; it has: {', '.join(known) or 'none'}"
        )
    return method(**options)


def option_names(method: type[Method]) -> list[str]:
    """Names of a method's options."""
    return [field.name for field in fields(method)]  # type: ignore[arg-type]


def require_one_amount(method: Method, *others: object) -> None:
    """Refuse a request that does not say in exactly one way how many tokens go.

    Args:
        method: with its options, some of which may stand for r: see `options.INSTEAD_OF_R`.
        *others: r and macs_ratio; None where one is not given.

    Raises:
        InvalidScheduleError: none of them is given, or several.
    """
    own = [getattr(method, name) for name in _instead_of_r(type(method))]
    if sum(amount is not None for amount in (*others, *own)) != 1:
        shares = sorted(
            f"{option} ({name})"
            for name, known in METHODS.items()
            for option in _instead_of_r(known)
        )
        ways = ["r", "macs_ratio", *shares]
        raise InvalidScheduleError(f"give one of {', '.join(ways[:-1])} and {ways[-1]}")


def _instead_of_r(method: type[Method]) -> list[str]:
    return [field.name for field in fields(method) if field.metadata.get("instead_of_r")]  # type: ignore[arg-type]
