"""Methods on attention passes made by hand: keys so simple that similarities tie exactly."""

import pytest
import torch

from rapid_core.attention import AttentionPass
from rapid_core.contract import Evidence, Planner, TokenLayout
from rapid_core.methods.rapid import Rapid
from rapid_core.methods.tome import ToMe
from rapid_core.plans import MergePlan, PrunePlan
from rapid_core.tokens import Tokens

LAYOUT = TokenLayout(num_blocks=6, num_prefix_tokens=1, has_class_token=True, grid_size=(1, 6))
EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def evidence(*patches: list[float]) -> Evidence:
    """One head and a CLS token that looks at everybody alike; its own key is a patch's twin."""
    keys = torch.tensor([[[EAST, *patches]]])
    nothing = torch.zeros_like(keys)
    attention = AttentionPass(nothing[:, 0], nothing, keys, size_bias=None, scale=1.0)
    return Evidence(Tokens(nothing[:, 0]), attention)


def moves(plan: MergePlan) -> list[tuple[int, int]]:
    """(token, token it goes into), both by their old positions."""
    into = plan.keep_idx.gather(1, plan.dst_idx)
    return list(zip(plan.src_idx[0].tolist(), into[0].tolist(), strict=True))


def planner(method: Rapid | ToMe, layer: int) -> Planner:
    return planners(method, LAYOUT)[layer]


def planners(method: Rapid | ToMe, layout: TokenLayout) -> list[Planner]:
    """The planner of each block."""
    found = [decision.planner for decision in method.plan(0, layout).decisions[1:]]
    return [planner for planner in found if planner is not None]


@pytest.mark.parametrize("method", [ToMe(), Rapid()], ids=["tome", "rapid"])
def test_of_equal_destinations_and_sources_the_first_is_taken(method: Rapid | ToMe) -> None:
    seen = evidence(NORTH, EAST, EAST, EAST, EAST)  # sources are tokens 2 and 4
    for num_removed, expected in ((1, [(2, 3)]), (2, [(2, 3), (4, 3)])):
        plan = planner(method, 5)(seen, num_removed)
        assert isinstance(plan, MergePlan)
        assert moves(plan) == expected


@pytest.mark.parametrize(("num_removed", "kept"), [(1, [0, 2, 6, 1, 3, 5]), (2, [0, 6, 1, 3, 5])])
def test_of_equal_redundancy_the_more_similar_then_the_first_goes(
    num_removed: int, kept: list[int]
) -> None:
    """No source reaches the threshold: token 4 comes nearest, tokens 2 and 6 are equal."""
    seen = evidence(NORTH, WEST, NORTH, [1.0, 0.2], NORTH, WEST)
    plan = planner(Rapid(), 0)(seen, num_removed)
    assert isinstance(plan, PrunePlan)
    assert plan.keep_idx.tolist() == [kept]


@pytest.mark.parametrize(
    ("num_prune_blocks", "num_blocks", "expected"),
    [(None, 12, 4), (None, 24, 8), (None, 6, 2), (None, 4, 1), (None, 2, 0), (0, 6, 0), (6, 6, 6)],
)
def test_stage_r_is_the_first_third_unless_told_otherwise(
    num_prune_blocks: int | None, num_blocks: int, expected: int
) -> None:
    layout = LAYOUT._replace(num_blocks=num_blocks)
    in_blocks = planners(Rapid(num_prune_blocks=num_prune_blocks), layout)
    plans = [type(plan(evidence(NORTH, EAST, EAST), 1)) for plan in in_blocks]
    assert plans == [PrunePlan] * expected + [MergePlan] * (num_blocks - expected)


def test_an_important_source_is_kept() -> None:
    """Token 2 is the most similar to a destination, and the CLS token looks at it."""
    seen = evidence(EAST, EAST, [0.1, 1.0], NORTH)
    queries = torch.tensor(EAST).expand_as(seen.attention.keys)
    seen = seen._replace(block_attention=seen.attention._replace(queries=queries))
    for weight, expected in ((0.0, (2, 1)), (50.0, (4, 3))):
        plan = planner(Rapid(importance_weight=weight), 5)(seen, 1)
        assert isinstance(plan, MergePlan)
        assert moves(plan) == [expected]
