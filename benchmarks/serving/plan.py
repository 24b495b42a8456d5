"""What `benchmarks.serving` asks of each server, in which order. Nothing is sent here."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar, get_args

from service.tiers import TIERS

T = TypeVar("T")

OURS = "rapid-vit"
FLOAT32 = "rapid-vit float32"
OPENVINO = "rapid-vit openvino float32"
INT8 = "rapid-vit int8"
COMPARED = ("exact", "balanced", "turbo", "extreme")
"""tiers that all loads are measured for"""
SERVICES: dict[str, dict[str, str]] = {
    OURS: {},
    FLOAT32: {"RAPID_PRECISION": "float32"},
    OPENVINO: {
        "RAPID_PRECISION": "float32",
        "RAPID_BACKEND": "openvino",
        "RAPID_WARMUP_TIERS": ",".join(COMPARED),
    },
    INT8: {"RAPID_PRECISION": "int8"},
}
"""this service by default, and with settings that cost speed, memory, or answers that differ"""
VARIANTS = tuple(name for name in SERVICES if name != OURS)
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""what the peers run the model in; for them, bfloat16 is one line"""
DENSE = "dense"
"""what the peers run: the unreduced model"""
MIXED = "six tiers mixed"
OPEN = ("exact", "balanced")
"""tiers that open loops are measured for"""
FRACTIONS = (0.5, 0.8, 1.5)
"""of what the server answered to the most clients"""
MOST_CLIENTS = 16
REQUESTS = {1: 24, 4: 64, MOST_CLIENTS: 160}
"""by the number of clients; with several rounds, p99 has hundreds of requests to stand on"""
QUICK_REQUESTS = {1: 12, MOST_CLIENTS: 64}


class Load(NamedTuple):
    """A closed loop of `num_clients`, or an open one at `fraction` of the capacity."""

    name: str
    num_clients: int | None = None
    num_requests: int = 0
    fraction: float | None = None


class Step(NamedTuple):
    """One load for one kind of request; the entry is a tier, DENSE or MIXED."""

    entry: str
    load: Load


FULL_LOAD = f"{MOST_CLIENTS} clients"
"""the name of the load that throughput is quoted for"""
WARM_UP = Load("warm-up", MOST_CLIENTS, 32)


def closed(num_clients: int, *, quick: bool) -> Load:
    """So many clients, each with one request at a time."""
    name = f"{num_clients} client{'s' if num_clients > 1 else ''}"
    return Load(name, num_clients, (QUICK_REQUESTS if quick else REQUESTS)[num_clients])


def steps(server: str, *, quick: bool) -> list[Step]:
    """All loads of one visit; for each entry, the one that gives the capacity comes first."""
    full = closed(MOST_CLIENTS, quick=quick)
    if server in VARIANTS:
        return [Step(tier, full) for tier in COMPARED]
    compared = COMPARED if server == OURS else (DENSE,)
    open_for = {DENSE, *OPEN} if not quick else set()
    found = []
    for entry in compared:
        found.append(Step(entry, full))
        if not quick or entry in (DENSE, "exact"):
            fewer = [number for number in REQUESTS if number != MOST_CLIENTS]
            if quick:
                fewer = [1]
            found += [Step(entry, closed(number, quick=quick)) for number in fewer]
        if entry in open_for:
            found += [Step(entry, Load(f"{part:.0%}", fraction=part)) for part in FRACTIONS]
    if server == OURS and not quick:
        found += [Step(tier, full) for tier in TIERS if tier not in compared]
        found.append(Step(MIXED, full))
    return found


def queries(server: str, entry: str, deadline_ms: float | None) -> dict[str, dict[str, str]]:
    """The parameters of the requests, by tier; peers have no parameters."""
    if server not in SERVICES:
        return {entry: {}}
    tiers = TIERS if entry == MIXED else (entry,)
    deadline = {} if deadline_ms is None else {"deadline_ms": f"{deadline_ms:g}"}
    return {tier: {"tier": tier, **deadline} for tier in tiers}


def peer_name(peer: str, precision: Precision, workers: int) -> str:
    """What a peer is called in the tables."""
    name = peer if precision == "float32" else f"{peer} {precision}"
    return name if workers == 1 else f"{name}, {workers} workers"


def precision_of(server: str) -> Precision | None:
    """What a server computes in; None where it chooses for itself, or in int8."""
    if server in SERVICES:
        return "float32" if server in (FLOAT32, OPENVINO) else None
    return "bfloat16" if "bfloat16" in server else "float32"


def in_turn(servers: Sequence[T], round_number: int) -> list[T]:
    """The order of a round: another begins each time, and every second round goes backwards."""
    first = round_number // 2 % len(servers)
    order = [*servers[first:], *servers[:first]]
    return order[::-1] if round_number % 2 else order
