"""Plans: which tokens go. Tables for orders and ties, laws for every plan."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rapid_core.matching.selection import plan_drop, plan_fuse, plan_merge, plan_prune

# Seven tokens with one prefix token: sources 0, 1, 2 are tokens 2, 4, 6; destinations 1, 3, 5.


@pytest.mark.parametrize(
    ("score", "tie_break", "num_removed", "kept"),
    [
        ([0.30, 0.25, 0.06], [0, 0, 0], 1, [0, 4, 6, 1, 3, 5]),
        ([0.30, 0.25, 0.06], [0, 0, 9], 2, [0, 6, 1, 3, 5]),
        ([0.1, 0.3, 0.2], [0, 0, 0], 2, [0, 2, 1, 3, 5]),
        ([0, 0, 0], [0.1, 0.2, 0.3], 1, [0, 2, 4, 1, 3, 5]),
        ([0, 0, 0], [0.2, 0.1, 0.2], 1, [0, 4, 6, 1, 3, 5]),
        ([0, 0, 0], [0, 0, 0], 2, [0, 6, 1, 3, 5]),
        ([0, 0.5, 0], [-0.1, -0.9, 0.1], 2, [0, 2, 1, 3, 5]),
        ([1, 2, 3], [0, 0, 0], 3, [0, 1, 3, 5]),
    ],
)
def test_prune_by_score_then_tie_break_then_index(
    score: list[float], tie_break: list[float], num_removed: int, kept: list[int]
) -> None:
    plan = plan_prune(
        torch.tensor([score], dtype=torch.float64),
        torch.tensor([tie_break], dtype=torch.float64),
        num_removed=num_removed,
        num_tokens=7,
        num_prefix_tokens=1,
    )
    assert plan.keep_idx.tolist() == [kept]


@pytest.mark.parametrize(
    ("score", "num_removed", "kept", "moves"),
    [
        ([0.9, 0.5, 0.7], 1, [0, 4, 6, 1, 3, 5], {2: 5}),
        ([0.9, 0.5, 0.7], 2, [0, 4, 1, 3, 5], {2: 5, 6: 1}),
        ([0.5, 0.5, 0.5], 1, [0, 4, 6, 1, 3, 5], {2: 5}),
        ([0.1, 0.5, 0.5], 1, [0, 2, 6, 1, 3, 5], {4: 5}),
        ([-3.0, -2.0, -1.0], 3, [0, 1, 3, 5], {2: 5, 4: 5, 6: 1}),
    ],
)
def test_merge_by_score_then_index(
    score: list[float], num_removed: int, kept: list[int], moves: dict[int, int]
) -> None:
    plan = plan_merge(
        torch.tensor([score]),
        torch.tensor([[2, 2, 0]]),
        num_removed=num_removed,
        num_tokens=7,
        num_prefix_tokens=1,
    )
    assert plan.keep_idx.tolist() == [kept]
    into = [kept[position] for position in plan.dst_idx[0].tolist()]
    assert dict(zip(plan.src_idx[0].tolist(), into, strict=True)) == moves


@st.composite
def reductions(draw: st.DrawFn) -> dict[str, Any]:
    """A size of the problem, and scores with many ties for two images."""
    num_patches = draw(st.integers(2, 40))
    num_prefix_tokens = draw(st.integers(0, 5))
    num_sources = num_patches // 2
    level = st.integers(0, 4).map(float)
    rows = st.lists(level, min_size=num_sources, max_size=num_sources)
    destination = st.integers(0, num_patches - num_sources - 1)
    return {
        "score": torch.tensor([draw(rows), draw(rows)]),
        "tie_break": torch.tensor([draw(rows), draw(rows)]),
        "destination": torch.tensor(
            [draw(st.lists(destination, min_size=num_sources, max_size=num_sources))] * 2
        ),
        "size": {
            "num_removed": draw(st.integers(1, num_sources)),
            "num_tokens": num_prefix_tokens + num_patches,
            "num_prefix_tokens": num_prefix_tokens,
        },
    }


def assert_sound(keep_idx: torch.Tensor, gone: list[set[int]], size: dict[str, int]) -> None:
    """Every token once, kept or gone; prefix first; then sources, then all destinations."""
    N, P = size["num_tokens"], size["num_prefix_tokens"]
    for kept, out in zip(keep_idx.tolist(), gone, strict=True):
        assert len(out) == size["num_removed"]
        stay = [token for token in range(P + 1, N, 2) if token not in out]
        assert kept == [*range(P), *stay, *range(P, N, 2)]


@given(case=reductions())
def test_prune_drops_exactly_the_first_of_the_order(case: dict[str, Any]) -> None:
    score, tie_break, size = case["score"], case["tie_break"], case["size"]
    plan = plan_prune(score, tie_break, **size)
    gone = []
    for scores, ties in zip(score.tolist(), tie_break.tolist(), strict=True):
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], -ties[i], i))
        chosen = order[: size["num_removed"]]
        gone.append({size["num_prefix_tokens"] + 1 + 2 * source for source in chosen})
    assert_sound(plan.keep_idx, gone, size)


@given(case=reductions())
def test_merge_moves_exactly_the_first_of_the_order_to_their_destinations(
    case: dict[str, Any],
) -> None:
    score, destination, size = case["score"], case["destination"], case["size"]
    first_patch = size["num_prefix_tokens"]
    plan = plan_merge(score, destination, **size)
    assert_sound(plan.keep_idx, [set(tokens) for tokens in plan.src_idx.tolist()], size)
    into = plan.keep_idx.gather(1, plan.dst_idx)
    for image, scores in enumerate(score.tolist()):
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        chosen = order[: size["num_removed"]]
        moves = dict(zip(plan.src_idx[image].tolist(), into[image].tolist(), strict=True))
        assert moves == {
            first_patch + 1 + 2 * i: first_patch + 2 * destination[image, i].item() for i in chosen
        }


# Plans that do not tell sources from destinations: five patches behind two prefix tokens.


@pytest.mark.parametrize(
    ("score", "num_removed", "kept"),
    [
        ([0.1, 0.9, 0.3, 0.8, 0.2], 1, [0, 1, 2, 4, 5, 6]),
        ([0.1, 0.9, 0.3, 0.8, 0.2], 3, [0, 1, 2, 6]),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 2, [0, 1, 4, 5, 6]),
        ([-1.0, -2.0, -3.0, -2.0, -9.0], 2, [0, 1, 4, 5, 6]),
        ([0.1, 0.9, 0.3, 0.8, 0.2], 5, [0, 1]),
    ],
)
def test_drop_takes_the_highest_scores_and_keeps_the_order(
    score: list[float], num_removed: int, kept: list[int]
) -> None:
    plan = plan_drop(torch.tensor([score]), num_removed=num_removed, num_prefix_tokens=2)
    assert plan.keep_idx.tolist() == [kept]


def test_fuse_takes_one_more_and_names_what_each_counts() -> None:
    plan = plan_fuse(
        torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.2], [5.0, 4.0, 3.0, 2.0, 1.0]]),
        torch.tensor([[10.0, 11.0, 12.0, 13.0, 14.0], [20.0, 21.0, 22.0, 23.0, 24.0]]),
        num_removed=1,
        num_prefix_tokens=2,
    )
    assert plan.keep_idx.tolist() == [[0, 1, 2, 4, 6], [0, 1, 4, 5, 6]]
    assert plan.src_idx.tolist() == [[3, 5], [2, 3]]
    assert plan.weight.tolist() == [[11.0, 13.0], [20.0, 21.0]]


@given(
    levels=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    num_prefix_tokens=st.integers(0, 5),
    data=st.data(),
)
def test_drop_and_fuse_part_the_patches(
    levels: list[int], num_prefix_tokens: int, data: st.DataObject
) -> None:
    score, P = torch.tensor([levels], dtype=torch.float64), num_prefix_tokens
    order = sorted(range(len(levels)), key=lambda i: (-levels[i], i))
    R = data.draw(st.integers(0, len(levels)))
    dropped = plan_drop(score, num_removed=R, num_prefix_tokens=P).keep_idx[0].tolist()
    assert dropped == [*range(P), *sorted(P + i for i in order[R:])]
    if R > 0:
        fused = plan_fuse(score, score + 0.5, num_removed=R - 1, num_prefix_tokens=P)
        assert fused.keep_idx[0].tolist() == dropped
        assert fused.src_idx[0].tolist() == [P + i for i in order[:R]]
        assert fused.weight[0].tolist() == [levels[i] + 0.5 for i in order[:R]]
