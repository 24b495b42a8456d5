"""Which reduction a request gets, and why: the client's own, one within its budget, or brownout."""

from collections.abc import Callable

from service import tiers
from service.errors import InvalidParameterError
from service.pipeline.request import LATE, Choice, Expected, Reason, Wanted
from service.tiers import TIERS, Reduction, ReductionRange, Tier

SHORTEST_QUEUE, LONGEST_QUEUE = 0.15, 0.4
"""share of a latency budget, less the work itself, that a request for the most accurate tier may
spend on waiting, and the same for the one before the fastest; measured in docs/decisions/0016"""


def choose(
    limits: ReductionRange,
    wanted: Wanted,
    *,
    default_tier: Tier,
    brownout_level: Callable[[], int],
    expected: Callable[[Reduction], Expected],
) -> Choice:
    """Decide the reduction of one request.

    Args:
        limits: the reductions that the model can run.
        wanted: the choices of the client.
        default_tier: the tier for a client that chose none.
        brownout_level: by how many tiers to lower a request that allows it.
        expected: forecast of the seconds from the request's arrival to its answer.

    Raises:
        InvalidParameterError: choices that exclude each other, or a value out of range.
    """
    _check(wanted)
    if wanted.max_latency_ms is not None:
        return _within(limits, wanted, wanted.max_latency_ms / 1000, expected)
    if wanted.r is not None:
        reduction = tiers.of_r(limits, wanted.r, wanted.method)
        return Choice(reduction, "requested", expected(reduction).seconds)
    reduction, reason = _of_tier(limits, wanted, default_tier, brownout_level)
    return Choice(reduction, reason, expected(reduction).seconds)


def _of_tier(
    limits: ReductionRange,
    wanted: Wanted,
    default_tier: Tier,
    brownout_level: Callable[[], int],
) -> tuple[Reduction, Reason]:
    """The wanted tier, or under pressure a faster one, but none beyond `min_tier`."""
    start = TIERS.index(wanted.tier or default_tier)
    reason: Reason = "default" if wanted.tier is None else "requested"
    if wanted.min_tier is None:
        return tiers.of_tier(limits, TIERS[start], wanted.method), reason
    lowest = TIERS.index(wanted.min_tier)
    lowered = min(start + brownout_level(), lowest)
    return (
        tiers.of_tier(limits, TIERS[lowered], wanted.method),
        "brownout" if lowered > start else reason,
    )


def _within(
    limits: ReductionRange,
    wanted: Wanted,
    budget_s: float,
    expected: Callable[[Reduction], Expected],
) -> Choice:
    """The most accurate tier that is expected in time and keeps the queue short.

    If there is none, the fastest one allowed.
    """
    allowed = TIERS[: TIERS.index(wanted.min_tier) + 1] if wanted.min_tier else TIERS
    shares = _queue_shares(len(allowed))
    for tier, share in zip(allowed, shares, strict=True):
        reduction = tiers.of_tier(limits, tier, wanted.method)
        found = expected(reduction)
        if found.seconds <= budget_s and found.spent_on_waiting(budget_s) <= share:
            return Choice(reduction, "latency_budget", found.seconds)
    return Choice(reduction, "latency_budget_missed", found.seconds)


def _queue_shares(num_tiers: int) -> list[float]:
    """For each tier, most accurate first, how much of a budget may be spent on waiting.

    Whoever takes an accurate tier makes all who follow wait longer. So the longer the queue, the
    faster the tier, and the queue stops growing where the service keeps up, long before the first
    answer is late. The fastest tier has nothing to give up any more.
    """
    steps = max(1, num_tiers - 2)
    rise = (LONGEST_QUEUE - SHORTEST_QUEUE) / steps
    return [*(SHORTEST_QUEUE + rise * step for step in range(num_tiers - 1)), 1.0]


def _check(wanted: Wanted) -> None:
    _check_values(wanted)
    given = [name for name in ("r", "tier", "max_latency_ms") if getattr(wanted, name) is not None]
    if len(given) > 1:
        raise InvalidParameterError(f"{' and '.join(given)} exclude each other; give one of them")
    if wanted.late == "refuse" and wanted.max_latency_ms is None:
        raise InvalidParameterError("late = 'refuse' needs max_latency_ms: later than what?")
    if wanted.min_tier is None:
        return
    if wanted.r is not None:
        raise InvalidParameterError("r and min_tier exclude each other; r is never changed")
    if wanted.tier is not None and TIERS.index(wanted.min_tier) < TIERS.index(wanted.tier):
        allowed = ", ".join(TIERS[TIERS.index(wanted.tier) :])
        raise InvalidParameterError(
            f"min_tier {wanted.min_tier!r} is more accurate than tier {wanted.tier!r}; "
            f"allowed: {allowed}"
        )


def _check_values(wanted: Wanted) -> None:
    """Refuse values that no model allows. An API may already have refused them in its own words."""
    for name in ("tier", "min_tier"):
        value = getattr(wanted, name)
        if value is not None and value not in TIERS:
            raise InvalidParameterError(f"{name} {value!r} is unknown; allowed: {', '.join(TIERS)}")
    for name in ("max_latency_ms", "deadline_ms"):
        value = getattr(wanted, name)
        if value is not None and not value > 0:
            raise InvalidParameterError(f"{name} = {value!r} must be greater than 0")
    if wanted.late not in LATE:
        raise InvalidParameterError(f"late {wanted.late!r} is unknown; allowed: {', '.join(LATE)}")
    if wanted.priority not in (0, 1):
        raise InvalidParameterError(f"priority = {wanted.priority!r} must be 0 or 1")
