"""The names of settings, as environment variables and as flags, and what to say of wrong ones."""

import difflib
from collections.abc import Mapping, Sequence

from pydantic_core import ErrorDetails

PREFIX = "RAPID_"


def variable(setting: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + setting.upper()


def flag(setting: str) -> str:
    """The flag of a setting on the command line."""
    return "--" + setting.replace("_", "-")


def misspelt(name: str, kind: str, known: Sequence[str]) -> str:
    """What to say about a name that does not exist.

    Args:
        name: of a variable or a flag, as it was given.
        kind: what it is not, for example `a setting`.
        known: the names that exist, at least one; the most similar one is proposed.
    """
    alike = name.upper() if name.upper().startswith(PREFIX) else name
    nearest = difflib.get_close_matches(alike, known, n=1, cutoff=0.0)[0]
    return f"{name} is not {kind}; did you mean {nearest}?"


def wrong(error: ErrorDetails, flags: Mapping[str, str]) -> str:
    """Which flag or variable has which wrong value, and what is allowed."""
    setting = str(error["loc"][0])
    name = flag(setting) if setting in flags else variable(setting)
    return f"{name}: {error['msg']}, not {error['input']!r}"
