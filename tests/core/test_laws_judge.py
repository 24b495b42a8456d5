"""The laws judge a method that they have never seen: a sound one passes, each fault is found."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch

from rapid_core import METHODS, InvalidScheduleError
from rapid_core.contract import Evidence, Planner, ReductionPlan, TokenLayout
from rapid_core.matching.selection import plan_drop
from rapid_core.plans import FusePlan, Plan, PrunePlan
from rapid_core.schedule import parse_r

from . import laws
from .laws import LAWS, Request, requests_of

TOY = "toy"


def toy(planner: Callable[..., Plan]) -> type[Any]:
    """A method that takes one decision in every block."""

    @dataclass(frozen=True)
    class Toy:
        at_random: bool = False

        def __post_init__(self) -> None:
            if self.at_random not in (True, False):
                raise InvalidScheduleError(f"at_random = {self.at_random!r}")

        def plan(self, r: Any, layout: TokenLayout) -> ReductionPlan:
            schedule = parse_r(r, layout.num_blocks)
            decide: Planner = partial(planner, num_prefix_tokens=layout.num_prefix_tokens)
            return ReductionPlan.in_blocks(schedule, [decide] * layout.num_blocks)

    return Toy


def drop_the_last(seen: Evidence, num_removed: int, *, num_prefix_tokens: int) -> PrunePlan:
    score = torch.arange(seen.tokens.x.shape[1] - num_prefix_tokens, device=seen.tokens.x.device)
    score = score.expand(len(seen.tokens.x), -1)
    return plan_drop(score, num_removed=num_removed, num_prefix_tokens=num_prefix_tokens)


# Each has one fault


def drop_the_first_of_all(seen: Evidence, num_removed: int, *, num_prefix_tokens: int) -> PrunePlan:
    kept = drop_the_last(seen, num_removed, num_prefix_tokens=num_prefix_tokens).keep_idx
    return PrunePlan(kept + num_removed)


def drop_what_is_unlike_the_neighbours(
    seen: Evidence, num_removed: int, *, num_prefix_tokens: int
) -> PrunePlan:
    x = seen.tokens.x[:, num_prefix_tokens:]
    score = (x - x.mean(dim=0)).square().sum(dim=-1)
    return plan_drop(score, num_removed=num_removed, num_prefix_tokens=num_prefix_tokens)


def drop_one_too_many(seen: Evidence, num_removed: int, *, num_prefix_tokens: int) -> PrunePlan:
    return drop_the_last(seen, num_removed + 1, num_prefix_tokens=num_prefix_tokens)


def drop_what_the_host_has_chosen(
    seen: Evidence, num_removed: int, *, num_prefix_tokens: int
) -> PrunePlan:
    scores = seen.tokens.x[:, num_prefix_tokens:, 0].tolist()
    score = torch.tensor(scores, device=seen.tokens.x.device)
    return plan_drop(score, num_removed=num_removed, num_prefix_tokens=num_prefix_tokens)


def keep_one_patch_many_times(
    seen: Evidence, num_removed: int, *, num_prefix_tokens: int
) -> PrunePlan:
    keep_idx = drop_the_last(seen, num_removed, num_prefix_tokens=num_prefix_tokens).keep_idx
    return PrunePlan(keep_idx.clamp(max=num_prefix_tokens))


def fuse_with_huge_weights(seen: Evidence, num_removed: int, *, num_prefix_tokens: int) -> FusePlan:
    keep_idx = drop_the_last(seen, num_removed + 1, num_prefix_tokens=num_prefix_tokens).keep_idx
    N = seen.tokens.x.shape[1]
    gone = torch.arange(N - num_removed - 1, N, device=keep_idx.device).expand(len(keep_idx), -1)
    return FusePlan(keep_idx, gone, torch.full(gone.shape, 1e6, device=gone.device))


class Counting:
    """A decision that depends on how often it was asked before."""

    num_calls = 0

    def __call__(self, seen: Evidence, num_removed: int, *, num_prefix_tokens: int) -> PrunePlan:
        self.num_calls += 1
        score = torch.arange(
            seen.tokens.x.shape[1] - num_prefix_tokens, device=seen.tokens.x.device
        )
        score = (score * (self.num_calls % 7 + 1) % 5).expand(len(seen.tokens.x), -1)
        return plan_drop(score, num_removed=num_removed, num_prefix_tokens=num_prefix_tokens)


class RemovesAtZero(toy(drop_the_last)):  # type: ignore[misc]
    def plan(self, r: Any, layout: TokenLayout) -> ReductionPlan:
        numbers = parse_r(r, layout.num_blocks)
        return super().plan([max(number, 1) for number in numbers], layout)


class IgnoresR(toy(drop_the_last)):  # type: ignore[misc]
    def plan(self, r: Any, layout: TokenLayout) -> ReductionPlan:
        return super().plan([min(number, 1) for number in parse_r(r, layout.num_blocks)], layout)


@dataclass(frozen=True)
class Unchecked(toy(drop_the_last)):  # type: ignore[misc]
    weight: float = 1.0


@dataclass
class Changeable:
    weight: int = 1

    plan = toy(drop_the_last).plan


FAULTS: dict[str, tuple[type[Any], Callable[[Request], None]]] = {
    "drops a prefix token": (
        toy(drop_the_first_of_all),
        laws.prefix_tokens_stay_in_front_and_no_token_is_used_twice,
    ),
    "looks at its neighbours": (
        toy(drop_what_is_unlike_the_neighbours),
        laws.an_image_alone_equals_it_in_a_batch,
    ),
    "suffers from its neighbours": (
        toy(drop_what_is_unlike_the_neighbours),
        laws.an_image_without_meaning_harms_only_itself,
    ),
    "drops one too many": (
        toy(drop_one_too_many),
        laws.as_many_tokens_go_as_the_plan_says_and_at_most_half,
    ),
    "costs something else": (
        toy(drop_one_too_many),
        laws.multiply_adds_are_those_of_the_tokens_left,
    ),
    "waits for the device": (
        toy(drop_what_the_host_has_chosen),
        laws.nothing_waits_for_the_device_and_no_shape_depends_on_data,
    ),
    "keeps a token twice": (
        toy(keep_one_patch_many_times),
        laws.prefix_tokens_stay_in_front_and_no_token_is_used_twice,
    ),
    "leaves tokens without patches": (
        toy(keep_one_patch_many_times),
        laws.every_patch_is_in_a_token_or_gone_for_good,
    ),
    "overflows in 16 bits": (
        toy(fuse_with_huge_weights),
        laws.sixteen_bits_give_finite_logits,
    ),
    "has a memory between calls": (
        toy(Counting()),
        laws.an_image_alone_equals_it_in_a_batch,
    ),
    "removes at r = 0": (RemovesAtZero, laws.removing_nothing_is_the_model_bit_for_bit),
    "ignores r": (IgnoresR, laws.a_higher_r_leaves_fewer_tokens),
    "cannot meet a budget": (IgnoresR, laws.a_share_of_the_multiply_adds_is_kept_to),
    "takes any option": (Unchecked, laws.impossible_options_are_refused),
    "can be changed": (Changeable, laws.options_are_a_frozen_value),
}
BREACHES = (
    AssertionError,
    NotImplementedError,  # of a meta tensor, which has no data
    TypeError,  # of a value that has no hash
    InvalidScheduleError,
    pytest.fail.Exception,  # of `pytest.raises`
)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_sound_method_passes(
    law: Callable[[Request], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, TOY, toy(drop_the_last))
    requests = list(requests_of(TOY))
    assert requests == [{"method": TOY}, {"method": TOY, "at_random": True}]
    for request in requests:
        law(request)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, law = FAULTS[fault]
    monkeypatch.setitem(METHODS, TOY, method)
    with pytest.raises(BREACHES):
        law({"method": TOY})
