"""Tier or r -> what will run."""

import pytest

from service import tiers
from service.errors import InvalidParameterError
from service.tiers import TIER_MACS, TIER_R, TIERS, Reduction, ReductionRange, tier_r


def limits(num_patches: int = 196, num_blocks: int = 12) -> ReductionRange:
    return ReductionRange(
        ("rapid", "tome"), num_patches, num_blocks, num_patches // 2, frozenset({"fast"})
    )


@pytest.mark.parametrize(
    ("num_patches", "num_blocks", "expected"),
    [
        (196, 12, [0, 8, 11, 14, 17, 20]),
        (256, 12, [0, 10, 14, 18, 22, 26]),
        (576, 24, [0, 12, 16, 21, 25, 29]),
        (16, 4, [0, 2, 3, 3, 4, 5]),
        (4, 2, [0, 1, 1, 2, 2, 2]),  # never beyond half of the patches
    ],
)
def test_tiers_scale_with_patches_and_blocks(
    num_patches: int, num_blocks: int, expected: list[int]
) -> None:
    assert [tier_r(tier, limits(num_patches, num_blocks)) for tier in TIERS] == expected


def test_tiers_go_from_the_most_accurate_to_the_fastest() -> None:
    assert [TIER_R[tier] for tier in TIERS] == sorted(TIER_R.values())
    assert [TIER_MACS[tier] for tier in TIERS] == sorted(TIER_MACS.values(), reverse=True)


@pytest.mark.parametrize(
    ("tier", "method", "expected"),
    [
        ("exact", "rapid", Reduction("rapid", 0, "exact")),
        ("turbo", "rapid", Reduction("rapid", 17, "turbo")),
        ("fast", "rapid", Reduction("rapid", None, "fast")),  # it has a schedule of its own
        ("fast", "tome", Reduction("tome", 14, "fast")),  # which is for one method
    ],
)
def test_a_tier_is_its_calibrated_schedule_or_a_constant_r(
    tier: tiers.Tier, method: str, expected: Reduction
) -> None:
    assert tiers.of_tier(limits(), tier, method) == expected


def test_tiers_are_of_the_calibrated_method_unless_another_is_named() -> None:
    assert tiers.of_tier(limits(), "high") == Reduction("rapid", 8, "high")


@pytest.mark.parametrize("r", [0, 14, 98])
def test_r_is_taken_as_it_is_and_never_calibrated(r: int) -> None:
    assert tiers.of_r(limits(), r, "rapid") == Reduction("rapid", r, None)


@pytest.mark.parametrize(
    ("r", "method", "message"),
    [
        (-1, "rapid", r"0 \.\.\. 98"),
        (99, "rapid", r"0 \.\.\. 98"),
        (1, "magic", "allowed: rapid, tome"),
    ],
)
def test_refusals_of_r_say_what_is_allowed(r: int, method: str, message: str) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        tiers.of_r(limits(), r, method)


def test_refusals_of_a_tier_say_what_is_allowed() -> None:
    with pytest.raises(InvalidParameterError, match="allowed: rapid, tome"):
        tiers.of_tier(limits(), "fast", "magic")
