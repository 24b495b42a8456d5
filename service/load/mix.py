"""The mix of a load: which kinds of requests are sent, and how often each."""

import math
from typing import NamedTuple

from service.tiers import TIERS


class Entry(NamedTuple):
    """One kind of request in the mix."""

    name: str
    query: dict[str, str]
    weight: float


def parse_mix(text: str, min_tier: str | None = None) -> list[Entry]:
    """The entries of `NAME[=WEIGHT],...`; entries that name a tier also get `min_tier`.

    Raises:
        ValueError: an entry is wrong. The message says which one, and what is allowed.
    """
    entries: dict[str, Entry] = {}
    for part in text.split(","):
        name, equals, weight_text = (word.strip() for word in part.partition("="))
        query = parse_entry(name)
        if "tier" in query and min_tier is not None:
            query["min_tier"] = min_tier
        weight = parse_number(weight_text, f"the weight of {name}") if equals else 1.0
        if name in entries:
            raise ValueError(f"{name} is in the mix twice; add up its weights")
        entries[name] = Entry(name, query, weight)
    return list(entries.values())


def parse_entry(name: str) -> dict[str, str]:
    """The query of the requests that an entry of the mix stands for."""
    kind, colon, value = name.partition(":")
    if kind == "r" and colon:
        if not (value.isascii() and value.isdigit()):
            raise ValueError(f"{name}: r is a number of tokens, 0 or more, as in r:14")
        return {"r": value}
    if kind == "budget" and colon:
        parse_number(value, f"{name}: the budget in ms")
        return {"max_latency_ms": value}
    if name not in TIERS:
        raise ValueError(
            f"{name!r} is no entry; allowed: {', '.join(TIERS)}, r:N (tokens per block), "
            "budget:MS (max_latency_ms)"
        )
    return {"tier": name}


def parse_number(text: str, what: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{what} must be a number above 0, not {text!r}")
    return value
