"""The reference must be right before it can judge: facts that need no second implementation."""

import pytest
import torch

from .reference import forward, run
from .reference_methods import (
    Seen,
    attended,
    best_pairs,
    by_ranking,
    importance_cutoff,
    look_through,
    mlerp,
    prune_order,
    redundancy,
    remove,
    stage_i,
    tome,
    unlike,
)
from .reference_tokens import Options, Token
from .tiny import ARCHITECTURES, random_images, tiny_vit

EQ1_SIMILARITY = [[0.9, 0.8, 0.1], [0.95, 0.2, 0.3], [0.71, 0.72, 0.73]]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_removing_nothing_is_timm_itself(name: str) -> None:
    model = tiny_vit(**ARCHITECTURES[name])
    images = random_images(model)
    torch.testing.assert_close(forward(model, images, Options(0)), model(images))


def test_eq_1_example_of_the_paper() -> None:
    assert redundancy(EQ1_SIMILARITY, 0.7) == pytest.approx([0.30, 0.25, 0.06])
    assert prune_order(EQ1_SIMILARITY, 0.7) == [0, 1, 2]
    assert tome(EQ1_SIMILARITY, [], Options(1)) == [(1, 0), (0, 0), (2, 2)]


@pytest.mark.parametrize("top", [0.1, 0.5, 1.0])
def test_eq_2_example_of_the_paper(top: float) -> None:
    similarity, importance = [[0.95], [0.90], [0.85]], [0.0, 0.03, 0.0, 0.001, 0.0, 0.002]
    order = [
        source for source, _ in stage_i(similarity, importance, Options(1, importance_top=top))
    ]
    assert order == [1, 2, 0]


@pytest.mark.parametrize(("top", "expected"), [(0.2, 5), (0.21, 4), (0.01, 5), (1.0, 1)])
def test_importance_cutoff_counts_from_the_top(top: float, expected: float) -> None:
    assert importance_cutoff([3, 1, 5, 2, 4], top) == expected


def test_ties_go_to_the_lower_index_and_unlike_sources_stay_ranked() -> None:
    assert prune_order([[0.1, 0.1], [0.3, 0.1], [0.1, 0.1], [0.9, -0.9]], 0.7) == [3, 1, 0, 2]
    assert best_pairs([[0.5, 0.5], [0.2, 0.9], [0.9, 0.2]]) == [(1, 1), (2, 0), (0, 0)]


def test_merging_weighs_by_size_and_orders_the_survivors() -> None:
    tokens = [Token([float(i)], size, frozenset({i})) for i, size in enumerate([1, 1, 3, 1, 1, 2])]
    left = remove(tokens, num_prefix=1, removals=[(0, 1), (1, 1)])  # tokens 2 and 4 into 3
    assert [(token.x, token.size, sorted(token.patches)) for token in left] == [
        ([0.0], 1, [0]),
        ([1.0], 1, [1]),
        ([pytest.approx((3 * 2 + 1 * 4 + 1 * 3) / 5)], 5, [2, 3, 4]),
        ([5.0], 2, [5]),
    ]


@pytest.mark.parametrize("method", ["rapid", "tome"])
def test_every_patch_is_held_once_or_gone(method: str) -> None:
    model = tiny_vit(reg_tokens=2)
    answer = run(model, random_images(model)[0], Options([5, 4, 9, 1], method=method))
    for sizes, assignment in zip(answer.sizes, answer.assignments, strict=True):
        held = [assignment.count(position) for position in range(len(sizes))]
        assert held[:3] == [0, 0, 0]
        assert held[3:] == sizes[3:]
        assert assignment.count(-1) == (5 if method == "rapid" else 0)


def token(*x: float, first: int = -1) -> Token:
    return Token(list(x), 1.0, frozenset({first}), first)


def test_mlerp_example_of_the_paper() -> None:
    """The plain mean (1.5, 2) has length 2.5; the longest of the two has length 4."""
    group = [token(3.0, 0.0), Token([0.0, 4.0], 9.0, frozenset())]
    assert mlerp(group) == pytest.approx([2.4, 3.2])


def seen_by(importance: list[float], tokens: list[Token]) -> Seen:
    return Seen(tokens, [], importance, 1, has_class_token=True, layer=0, num_blocks=1)


def test_evit_keeps_the_attended_and_sums_the_others_with_their_attention() -> None:
    tokens = [token(1.0 * 10**i, first=i - 1) for i in range(5)]
    seen = seen_by([0.5, 0.1, 0.2, 0.05, 0.15], tokens)
    assert attended(seen) == seen.importance
    assert by_ranking(seen, 2, Options(2, "evit")) == [tokens[0], tokens[2], tokens[4]]
    fused = by_ranking(seen, 1, Options(1, "evit", fuse=True))
    assert fused[:-1] == [tokens[0], tokens[2], tokens[4]]
    assert fused[-1].x == pytest.approx([0.05 * 1000 + 0.1 * 10])
    assert fused[-1].patches == {0, 2}


def test_mean_similarity_to_the_others() -> None:
    seen = seen_by([], [token(9.0, 9.0), token(1.0, 0.0), token(0.0, 2.0), token(3.0, 0.0)])
    assert unlike(seen)[1:] == pytest.approx([-0.5, 0.0, -0.5])


def test_rollout_by_hand() -> None:
    """Two blocks; between them the first of three tokens is dropped."""
    tokens = [token(first=i) for i in range(3)]
    rows = look_through(tokens, [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0]])
    assert rows == [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.25, 0.25, 0.5]]
    left = [Token([], 1.0, frozenset(), first, rows[first]) for first in (1, 2)]
    assert look_through(left, [[0.0, 1.0], [1.0, 0.0]]) == [[0.125, 0.375, 0.5]] * 2
