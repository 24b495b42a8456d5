"""Which reduction a request gets, and why: the client's own, one within its budget, or brownout."""

from collections.abc import Callable

from service import tiers
from service.errors import InvalidParameterError
from service.pipeline.request import Choice, Reason, Wanted
from service.tiers import TIERS, Reduction, ReductionRange, Tier


def choose(
    limits: ReductionRange,
    wanted: Wanted,
    *,
    default_tier: Tier,
    brownout_level: Callable[[], int],
    expected_s: Callable[[Reduction], float],
) -> Choice:
    """Decide the reduction of one request.

    Args:
        limits: the reductions that the model can run.
        wanted: the choices of the client.
        default_tier: the tier for a client that chose none.
        brownout_level: by how many tiers to lower a request that allows it.
        expected_s: forecast of the seconds from the request's arrival to its answer.

    Raises:
        InvalidParameterError: choices that exclude each other, or a value out of range.
    """
    _check(wanted)
    if wanted.max_latency_ms is not None:
        return _within(limits, wanted, wanted.max_latency_ms / 1000, expected_s)
    if wanted.r is not None:
        reduction = tiers.of_r(limits, wanted.r, wanted.method)
        return Choice(reduction, "requested", expected_s(reduction))
    reduction, reason = _of_tier(limits, wanted, default_tier, brownout_level)
    return Choice(reduction, reason, expected_s(reduction))


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
    expected_s: Callable[[Reduction], float],
) -> Choice:
    """The most accurate tier expected in time; if there is none, the fastest one allowed."""
    allowed = TIERS[: TIERS.index(wanted.min_tier) + 1] if wanted.min_tier else TIERS
    reductions = [tiers.of_tier(limits, tier, wanted.method) for tier in allowed]
    for reduction in reductions:
        seconds = expected_s(reduction)
        if seconds <= budget_s:
            return Choice(reduction, "latency_budget", seconds)
    return Choice(reductions[-1], "latency_budget_missed", seconds)


def _check(wanted: Wanted) -> None:
    _check_values(wanted)
    given = [name for name in ("r", "tier", "max_latency_ms") if getattr(wanted, name) is not None]
    if len(given) > 1:
        raise InvalidParameterError(f"{' and '.join(given)} exclude each other; give one of them")
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
    if wanted.priority not in (0, 1):
        raise InvalidParameterError(f"priority = {wanted.priority!r} must be 0 or 1")
