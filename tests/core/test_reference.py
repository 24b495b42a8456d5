"""The reference must be right before it can judge: facts that need no second implementation."""

import pytest
import torch

from .reference import (
    Options,
    Token,
    best_pairs,
    forward,
    importance_cutoff,
    prune_order,
    redundancy,
    remove,
    run,
    stage_i,
    tome,
)
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
