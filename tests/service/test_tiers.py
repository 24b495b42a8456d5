"""Tier or r -> what will run."""

import pytest

from service.errors import InvalidParameterError
from service.tiers import TIERS, Reduction, ReductionRange, resolve, tier_r


def limits(num_patches: int = 196, num_blocks: int = 12) -> ReductionRange:
    return ReductionRange(("rapid", "tome"), num_patches, num_blocks, num_patches // 2)


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


def test_a_request_may_name_r_or_a_tier_or_nothing() -> None:
    choose = {"limits": limits(), "method": "tome", "default_tier": "fast"}
    assert resolve(**choose, r=98, tier=None) == Reduction("tome", 98, None)
    assert resolve(**choose, r=0, tier=None) == Reduction("tome", 0, None)
    assert resolve(**choose, r=None, tier="turbo") == Reduction("tome", 17, "turbo")
    assert resolve(**choose, r=None, tier=None) == Reduction("tome", 14, "fast")


@pytest.mark.parametrize(
    ("r", "tier", "method", "message"),
    [
        (-1, None, "rapid", r"0 \.\.\. 98"),
        (99, None, "rapid", r"0 \.\.\. 98"),
        (1, "fast", "rapid", "exclude"),
        (1, None, "magic", "allowed: rapid, tome"),
    ],
)
def test_refusals_say_what_is_allowed(
    r: int | None, tier: str | None, method: str, message: str
) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        resolve(limits(), r=r, tier=tier, method=method, default_tier="fast")
