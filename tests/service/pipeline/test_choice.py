"""What a request gets, and the reason it is told."""

from collections.abc import Callable

import pytest

from service.errors import InvalidParameterError
from service.pipeline.choice import choose
from service.pipeline.request import REASONS, Choice, Expected, Wanted
from service.tiers import TIERS, Reduction, ReductionRange, Tier

LIMITS = ReductionRange(("rapid", "tome"), 196, 12, 98)
TIER_S = {
    "exact": 0.100,
    "high": 0.080,
    "balanced": 0.065,
    "fast": 0.055,
    "turbo": 0.047,
    "extreme": 0.040,
}
CUSTOM_S = 0.5


def expected_s(reduction: Reduction) -> float:
    return TIER_S[reduction.tier] if reduction.tier else CUSTOM_S


def chosen(
    default_tier: Tier = "balanced",
    level: int = 0,
    forecast: Callable[[Reduction], float] = expected_s,
    **wanted: object,
) -> Choice:
    return choose(
        LIMITS,
        Wanted(**wanted),
        default_tier=default_tier,
        brownout_level=lambda: level,
        expected=lambda reduction: Expected(forecast(reduction)),
    )


def test_nothing_named_is_the_default_tier() -> None:
    assert chosen() == Choice(Reduction("rapid", 11, "balanced"), "default", 0.065)
    assert chosen(default_tier="exact").reduction == Reduction("rapid", 0, "exact")
    assert chosen(method="tome").reduction == Reduction("tome", 11, "balanced")


def test_what_is_named_is_what_runs() -> None:
    assert chosen(tier="turbo") == Choice(Reduction("rapid", 17, "turbo"), "requested", 0.047)
    assert chosen(r=98, method="tome") == Choice(Reduction("tome", 98, None), "requested", CUSTOM_S)
    assert chosen(r=0).reduction == Reduction("rapid", 0, None)


@pytest.mark.parametrize("wanted", [{}, {"r": 3}, {"tier": "high"}, {"max_latency_ms": 90}])
@pytest.mark.parametrize("level", [1, 5])
def test_who_names_no_min_tier_is_never_browned_out(wanted: dict[str, object], level: int) -> None:
    assert chosen(level=level, **wanted) == chosen(level=0, **wanted)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"r": 1, "tier": "fast"}, "^r and tier exclude each other; give one"),
        ({"r": 1, "max_latency_ms": 5}, "^r and max_latency_ms exclude"),
        ({"tier": "fast", "max_latency_ms": 5}, "^tier and max_latency_ms exclude"),
        ({"r": 0, "tier": "fast", "max_latency_ms": 5}, "^r and tier and max_latency_ms exclude"),
        ({"r": 0, "min_tier": "fast"}, "^r and min_tier exclude each other"),
        (
            {"tier": "fast", "min_tier": "high"},
            "^min_tier 'high' is more accurate than tier 'fast'; allowed: fast, turbo, extreme$",
        ),
        ({"r": 99}, r"r = 99 is out of range; .*0 \.\.\. 98"),
        ({"r": -1}, r"r = -1 is out of range"),
        ({"method": "magic"}, "method 'magic' is unknown; allowed: rapid, tome"),
        ({"method": "magic", "max_latency_ms": 5}, "method 'magic' is unknown"),
        ({"method": "magic", "r": 5}, "method 'magic' is unknown"),
        ({"method": "magic", "min_tier": "fast"}, "method 'magic' is unknown"),
    ],
)
def test_refusals_say_what_is_allowed(wanted: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        chosen(**wanted)


@pytest.mark.parametrize(
    ("budget_ms", "min_tier", "tier", "reason"),
    [
        (1000, None, "exact", "latency_budget"),
        (100, None, "exact", "latency_budget"),  # just in time is in time
        (99.9, None, "high", "latency_budget"),
        (64, None, "fast", "latency_budget"),
        (40, None, "extreme", "latency_budget"),
        (39, None, "extreme", "latency_budget_missed"),
        (1000, "balanced", "exact", "latency_budget"),  # min_tier allows, it does not ask
        (66, "balanced", "balanced", "latency_budget"),
        (50, "balanced", "balanced", "latency_budget_missed"),
        (50, "extreme", "turbo", "latency_budget"),
        (50, "exact", "exact", "latency_budget_missed"),
    ],
)
@pytest.mark.parametrize("level", [0, 3])
def test_the_most_accurate_tier_within_the_budget_else_the_fastest_allowed(
    budget_ms: float, min_tier: Tier | None, tier: Tier, reason: str, level: int
) -> None:
    choice = chosen(max_latency_ms=budget_ms, min_tier=min_tier, level=level)
    assert (choice.reduction.tier, choice.reason) == (tier, reason)
    assert choice.expected_s == TIER_S[tier]


def test_a_faster_tier_that_is_busier_is_passed_over() -> None:
    busy = {**TIER_S, "exact": 0.3, "high": 0.2, "balanced": 0.05, "fast": 0.4}
    choice = chosen(max_latency_ms=60, forecast=lambda reduction: busy[reduction.tier])
    assert choice == Choice(Reduction("rapid", 11, "balanced"), "latency_budget", 0.05)


@pytest.mark.parametrize(
    ("tier", "min_tier", "levels"),
    [
        ("exact", "extreme", ["exact", "high", "balanced", "fast", "turbo", "extreme"]),
        ("exact", "balanced", ["exact", "high", "balanced", "balanced", "balanced", "balanced"]),
        ("fast", "turbo", ["fast", "turbo", "turbo", "turbo", "turbo", "turbo"]),
        ("fast", "fast", ["fast"] * 6),
        ("extreme", "extreme", ["extreme"] * 6),
        (None, "extreme", ["balanced", "fast", "turbo", "extreme", "extreme", "extreme"]),
        (None, "balanced", ["balanced"] * 6),
        (None, "high", ["high"] * 6),  # more accurate than the default tier
        (None, "exact", ["exact"] * 6),
    ],
)
def test_a_browned_out_request_is_lowered_to_its_min_tier_and_not_further(
    tier: Tier | None, min_tier: Tier, levels: list[Tier]
) -> None:
    choices = [chosen(level=level, tier=tier, min_tier=min_tier) for level in range(6)]
    assert [choice.reduction.tier for choice in choices] == levels
    unlowered = "default" if tier is None else "requested"
    assert [choice.reason for choice in choices] == [
        unlowered if lowered == levels[0] else "brownout" for lowered in levels
    ]
    assert [choice.expected_s for choice in choices] == [TIER_S[lowered] for lowered in levels]


def test_lowering_keeps_the_method() -> None:
    assert chosen(level=2, method="tome", min_tier="extreme").reduction == Reduction(
        "tome", 17, "turbo"
    )


def test_reasons_are_a_closed_list() -> None:
    assert set(REASONS) == {
        "default",
        "requested",
        "latency_budget",
        "latency_budget_missed",
        "brownout",
    }
    assert len(TIERS) == len(TIER_S)


@pytest.mark.parametrize(
    ("queue_s", "tier"),
    [
        (0.0, "exact"),
        (0.1, "exact"),
        (0.2, "balanced"),
        (0.3, "fast"),
        (0.35, "turbo"),
        (0.5, "extreme"),
    ],
)
def test_the_longer_the_queue_the_faster_the_tier(queue_s: float, tier: Tier) -> None:
    def expected(reduction: Reduction) -> Expected:
        return Expected(expected_s(reduction) + queue_s, queue_s)

    wanted = Wanted(max_latency_ms=1000)
    choice = choose(
        LIMITS, wanted, default_tier="exact", brownout_level=lambda: 0, expected=expected
    )
    assert (choice.reduction.tier, choice.reason) == (tier, "latency_budget")


def test_what_is_usual_counts_like_the_queue_now() -> None:
    def expected(reduction: Reduction) -> Expected:
        return Expected(expected_s(reduction), usual_share=0.3)

    choice = choose(
        LIMITS,
        Wanted(max_latency_ms=1000),
        default_tier="exact",
        brownout_level=lambda: 0,
        expected=expected,
    )
    assert choice.reduction.tier == "fast"


def test_late_needs_a_budget() -> None:
    with pytest.raises(InvalidParameterError, match="late = 'refuse' needs max_latency_ms"):
        chosen(late="refuse")
    with pytest.raises(InvalidParameterError, match="late 'never' is unknown; allowed: answer"):
        chosen(late="never", max_latency_ms=5)
    assert chosen(late="refuse", max_latency_ms=1000).reduction.tier == "exact"
