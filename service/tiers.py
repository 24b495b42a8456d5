"""Tier name or r -> the reduction that will run. Only this module knows what a tier means."""

from typing import Literal, NamedTuple, get_args

from service.errors import InvalidParameterError

Tier = Literal["exact", "high", "balanced", "fast", "turbo", "extreme"]
TIERS: tuple[Tier, ...] = get_args(Tier)

TIER_R: dict[Tier, int] = {
    "exact": 0,
    "high": 8,
    "balanced": 11,
    "fast": 14,
    "turbo": 17,
    "extreme": 20,
}
"""r per tier for 196 patches and 12 blocks, from the most accurate to the fastest."""

TIER_MACS: dict[Tier, float] = {
    "exact": 1.0,
    "high": 0.80,
    "balanced": 0.65,
    "fast": 0.55,
    "turbo": 0.47,
    "extreme": 0.40,
}
"""Share of the unreduced model's multiply-adds that a calibrated tier stays below."""

CALIBRATED_METHOD = "rapid"
"""the method that tiers are calibrated for"""

REFERENCE_PATCHES = 196
REFERENCE_BLOCKS = 12


class Reduction(NamedTuple):
    """The token reduction that a request gets."""

    method: str
    r: int | None
    """tokens to remove in every block; None for the calibrated schedule of the tier."""
    tier: Tier | None
    """None where the request named r itself."""


class ReductionRange(NamedTuple):
    """The reductions that a model can run."""

    methods: tuple[str, ...]
    num_patches: int
    num_blocks: int
    max_r: int
    """half of the patches: one block cannot remove more."""
    calibrated: frozenset[Tier] = frozenset()
    """tiers that have a calibrated schedule."""


def tier_r(tier: Tier, limits: ReductionRange) -> int:
    """The constant r of a tier for one model.

    `TIER_R` is for 12 blocks and 196 patches. It is scaled by patches / 196 and by 12 / blocks, so
    that the same share of the tokens is removed.
    """
    scale = limits.num_patches / REFERENCE_PATCHES * REFERENCE_BLOCKS / limits.num_blocks
    return min(round(TIER_R[tier] * scale), limits.max_r)


def of_tier(limits: ReductionRange, tier: Tier, method: str = CALIBRATED_METHOD) -> Reduction:
    """What a tier means for one model and method: its calibrated schedule, else a constant r.

    Raises:
        InvalidParameterError: an unknown method.
    """
    _check_method(limits, method)
    if method == CALIBRATED_METHOD and tier in limits.calibrated:
        return Reduction(method, None, tier)
    return Reduction(method, tier_r(tier, limits), tier)


def of_r(limits: ReductionRange, r: int, method: str) -> Reduction:
    """A constant r.

    Raises:
        InvalidParameterError: an unknown method, or r out of range.
    """
    _check_method(limits, method)
    if not 0 <= r <= limits.max_r:
        raise InvalidParameterError(
            f"r = {r} is out of range; allowed for this model: 0 ... {limits.max_r}"
        )
    return Reduction(method, r, None)


def _check_method(limits: ReductionRange, method: str) -> None:
    if method not in limits.methods:
        raise InvalidParameterError(
            f"method {method!r} is unknown; allowed: {', '.join(limits.methods)}"
        )
